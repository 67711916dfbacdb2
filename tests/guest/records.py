"""libapparmor's reading of a log, as lines for denials.rs: "operation", and of files "rule"."""

import sys

import LibAppArmor

MODES = (("r", "r"), ("wcd", "w"), ("a", "a"), ("m", "m"), ("k", "k"), ("x", "ix"))

lines = set()
for text in open(sys.argv[1], errors="replace"):
    if "apparmor=" not in text:
        continue
    record = LibAppArmor.parse_record(text)
    if record.event in (LibAppArmor.AA_RECORD_DENIED, LibAppArmor.AA_RECORD_ALLOWED) and record.profile:
        profile = record.profile.split("//null-")[0]
        if profile == "custom.denied":
            lines.add(f"operation\t{profile}\t{record.operation}")
            mask = record.denied_mask or ""
            # libapparmor takes a backslash away, which the kernel does not put there.
            plain = record.name and "\\" not in text and all(c.isascii() and c.isalnum() or c in "/._-" for c in record.name)
            if plain and record.name.startswith("/") and mask and set(mask) <= set("rwacdmkx"):
                owner = "owner " if record.fsuid == record.ouid else ""
                modes = "".join(mode for letters, mode in MODES if set(letters) & set(mask)).replace("wa", "w")
                lines.add(f"rule\t{record.operation}\t{owner}{record.name} {modes},")
    LibAppArmor.free_record(record)
print("\n".join(sorted(lines)))
