use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use super::contents::{encode, without_number};
use super::*;
use crate::profile::Mode;

/// A folder made like a node's, gone when dropped.
struct Node(PathBuf);

impl Node {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = std::env::temp_dir().join(format!(
            "armorer-kernel-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        let node = Self(folder);
        node.file("sys/module/apparmor/parameters/enabled", "Y\n");
        node.file("proc/self/uid_map", "         0          0 4294967295\n");
        node.file("proc/self/status", "Name:\tx\nCapEff:\t0000000200000000\n");
        node.file("security/apparmor/profiles", "");
        node.file("security/apparmor/.replace", "");
        node.file("security/apparmor/.remove", "");
        node
    }

    fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn profile(&self, folder: &str, name: &str, extra: &[(&str, &[u8])]) {
        let folder = format!("security/apparmor/policy/profiles/{folder}");
        self.file(&format!("{folder}/name"), format!("{name}\n"));
        for (file, bytes) in extra {
            self.file(&format!("{folder}/{file}"), bytes);
        }
    }

    fn kernel(&self) -> Kernel {
        Kernel::new(&self.0, self.0.join("security"), self.0.join("proc"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn refusal(node: &Node) -> String {
    let error = node.kernel().preflight().unwrap_err();
    assert!(matches!(error, Error::Node(_)), "{error:?}");
    error.to_string()
}

#[test]
fn a_node_with_everything_passes() {
    let node = Node::new();
    node.kernel().preflight().unwrap();
    node.kernel().preflight_read().unwrap();
    assert_eq!(
        fs::read(node.0.join("security/apparmor/.replace")).unwrap(),
        b""
    );
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    type Damage = fn(&Node);
    let cases: [(Damage, &str); 7] = [
        (
            |node| node.file("sys/module/apparmor/parameters/enabled", "N\n"),
            "apparmor=1",
        ),
        (
            |node| {
                fs::remove_dir_all(node.0.join("sys")).unwrap();
                fs::remove_dir_all(node.0.join("security")).unwrap();
            },
            "lsm=",
        ),
        (
            |node| fs::remove_dir_all(node.0.join("security/apparmor")).unwrap(),
            "--securityfs",
        ),
        (
            |node| node.file("proc/self/uid_map", "0 100000 65536\n"),
            "user namespace",
        ),
        (
            |node| node.file("proc/self/status", "CapEff:\t00000000a80425fb\n"),
            "MAC_ADMIN",
        ),
        (
            |node| node.file("sys/module/apparmor/parameters/lock_policy", "Y\n"),
            "locked",
        ),
        (
            |node| fs::remove_file(node.0.join("security/apparmor/.remove")).unwrap(),
            ".remove",
        ),
    ];
    for (damage, words) in cases {
        let node = Node::new();
        damage(&node);
        let text = refusal(&node);
        assert!(text.contains(words) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn the_list_is_read_as_the_kernel_prints_it() {
    let list = "custom.a (enforce)\ncustom.a//null-/bin/x (y) (complain)\n:ns:custom.n (enforce)\n\
                custom.a b (kill)\ncustom.new (shiny)\n/usr/bin/x (unconfined)\n";
    let expected = [
        ("/usr/bin/x", Mode::Unconfined),
        ("custom.a", Mode::Enforce),
        ("custom.a b", Mode::Kill),
        ("custom.a//null-/bin/x (y)", Mode::Complain),
        ("custom.new", Mode::Unknown),
    ];
    assert!(
        listed(list.as_bytes())
            .iter()
            .map(|(name, mode)| (name.as_str(), *mode))
            .eq(expected)
    );
}

#[test]
fn folders_are_named_as_the_kernel_names_them() {
    assert_eq!(encode("custom.a b"), b"custom.a_b");
    assert_eq!(encode("/usr/bin/x{y}"), b"usr.bin.xy");
    assert_eq!(encode("custom.ünï"), b"custom.\xc3n\xc3");
    assert_eq!(without_number(b"custom.a.17"), Some(&b"custom.a"[..]));
    assert_eq!(without_number(b"custom.a"), None);
    assert_eq!(without_number(b"custom."), None);
}

#[test]
fn contents_come_from_the_hash_else_from_the_bytes() {
    let node = Node::new();
    let (digest, other) = (Digest::of(b"blob"), Digest::of(b"other"));
    node.profile(
        "custom.hash.0",
        "custom.hash",
        &[("raw_sha256", format!("{digest}\n").as_bytes())],
    );
    node.profile("custom.raw.1", "custom.raw", &[("raw_data", b"blob")]);
    node.profile("custom.none.2", "custom.none", &[]);
    node.profile("custom.two.3", "custom.two", &[("raw_data", b"blob")]);
    node.profile("custom.two.4", "custom.two", &[("raw_data", b"blob")]);
    // Encoded alike, named otherwise.
    node.profile("custom.a_b.5", "custom.a b", &[("raw_data", b"other")]);
    node.profile("custom.a_b.6", "custom.a_b", &[("raw_data", b"blob")]);
    let names = BTreeSet::from([
        "custom.hash",
        "custom.raw",
        "custom.none",
        "custom.two",
        "custom.a_b",
        "custom.gone",
    ]);
    let nothing = BTreeMap::new();
    let contents = node.kernel().contents(&names, &nothing);
    assert!(contents.learned.is_empty());
    let digests = contents.digests;
    let known: Vec<_> = digests.keys().map(String::as_str).collect();
    assert_eq!(known, ["custom.a_b", "custom.hash", "custom.raw"]);
    assert!(digests.values().all(|known| *known == digest));
    node.profile("custom.raw.1", "custom.raw", &[("raw_data", b"other")]);
    let contents = node.kernel().contents(&names, &nothing);
    assert_eq!(contents.digests["custom.raw"], other);
}

#[test]
fn a_sha1_stands_for_what_was_compared_and_for_nothing_else() {
    let node = Node::new();
    let (digest, other) = (Digest::of(b"blob"), Digest::of(b"other"));
    let [first, second] = ["a", "b"].map(|digit| digit.repeat(40));
    let load = |sha1: &str, blob: &[u8]| {
        let sha1 = format!("{sha1}\n");
        let files = [("raw_sha1", sha1.as_bytes()), ("raw_data", blob)];
        node.profile("custom.a.1", "custom.a", &files);
    };
    let names = BTreeSet::from(["custom.a"]);
    load(&first, b"blob");
    let contents = node.kernel().contents(&names, &BTreeMap::new());
    assert_eq!(contents.digests["custom.a"], digest);
    assert_eq!(contents.learned.len(), 1);
    let known = BTreeMap::from([(contents.learned[&digest].clone(), digest)]);
    // The bytes are not read again: they could not be.
    let raw_data = "security/apparmor/policy/profiles/custom.a.1/raw_data";
    fs::remove_file(node.0.join(raw_data)).unwrap();
    let contents = node.kernel().contents(&names, &known);
    assert_eq!(contents.digests["custom.a"], digest);
    assert!(contents.learned.is_empty());
    load(&second, b"other");
    let contents = node.kernel().contents(&names, &known);
    assert_eq!(contents.digests["custom.a"], other);
    for nonsense in ["", "a", &"g".repeat(40), &"a".repeat(41)] {
        load(nonsense, b"blob");
        let contents = node.kernel().contents(&names, &known);
        assert_eq!(contents.digests["custom.a"], digest, "{nonsense}");
        assert!(contents.learned.is_empty());
    }
}

#[test]
fn the_features_digest_knows_names_and_contents() {
    let node = Node::new();
    node.file("security/apparmor/features/a/b", "1\n");
    let first = node.kernel().features().unwrap();
    assert_eq!(node.kernel().features().unwrap(), first);
    node.file("security/apparmor/features/a/b", "2\n");
    let second = node.kernel().features().unwrap();
    node.file("security/apparmor/features/a/c", "");
    let third = node.kernel().features().unwrap();
    assert!(first != second && second != third);
}

#[test]
fn revision_and_boot_are_read() {
    let node = Node::new();
    assert_eq!(node.kernel().revision(), None);
    assert!(node.kernel().boot_id().is_err());
    node.file("security/apparmor/revision", "42\n");
    node.file("proc/sys/kernel/random/boot_id", "abc\n");
    assert_eq!(node.kernel().revision(), Some(42));
    assert_eq!(node.kernel().boot_id().unwrap(), "abc");
}

#[test]
fn one_write_from_the_start_and_nothing_cut_off() {
    let node = Node::new();
    node.file("security/apparmor/.replace", "0123456789");
    node.kernel().replace(b"blob").unwrap();
    node.kernel().remove("custom.a").unwrap();
    let written = |file| fs::read(node.0.join("security/apparmor").join(file)).unwrap();
    assert_eq!(written(".replace"), b"blob456789");
    assert_eq!(written(".remove"), b"custom.a");
}
