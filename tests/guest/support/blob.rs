//! A decoder of compiled policy of the tests' own: the names in a blob, by the stream's types
//! (security/apparmor/policy_unpack.c).

/// The names of all profiles, children and hats, in the blob's order.
pub(crate) fn names(blob: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    let mut tag: Option<&[u8]> = None;
    let mut profile_begins = false;
    let number = |at: usize, bytes: usize| -> usize {
        (0..bytes)
            .map(|n| usize::from(blob[at + n]) << (8 * n))
            .sum()
    };
    while at < blob.len() {
        let kind = blob[at];
        at += 1;
        match kind {
            0x04 => {
                let length = number(at, 2);
                tag = Some(&blob[at + 2..at + 1 + length]);
                at += 2 + length;
                continue;
            }
            0x00 => at += 1,
            0x01 | 0x0b => at += 2,
            0x02 => at += 4,
            0x03 => at += 8,
            0x05 => {
                let length = number(at, 2);
                if profile_begins {
                    names
                        .push(String::from_utf8_lossy(&blob[at + 2..at + 1 + length]).into_owned());
                }
                at += 2 + length;
            }
            0x06 => at += 4 + number(at, 4),
            0x07 => {
                profile_begins = tag == Some(b"profile");
                tag = None;
                continue;
            }
            0x09 | 0x0a | 0x08 | 0x0c => {}
            other => panic!("type {other:#x} at {at}"),
        }
        profile_begins = false;
        tag = None;
    }
    names
}
