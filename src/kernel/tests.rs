use std::collections::BTreeSet;
use std::fs;

use super::contents::{encode, without_number};
use super::*;
use crate::profile::{Digest, Mode};
use crate::tests::Folder;

/// A folder made like a node.
struct Node(Folder);

impl Node {
    fn new() -> Self {
        let node = Self(Folder::new());
        for file in ["profiles", ".load", ".replace", ".remove"] {
            node.write(&format!("security/apparmor/{file}"), "");
        }
        node
    }

    fn write(&self, below: &str, contents: impl AsRef<[u8]>) {
        self.0.write(below, contents);
    }

    /// A loaded profile as the kernel shows it; `files` beside its name.
    fn show(&self, folder: &str, name: &str, files: &[(&str, &[u8])]) {
        let folder = format!("security/apparmor/policy/profiles/{folder}");
        self.write(&format!("{folder}/name"), format!("{name}\n"));
        for (file, bytes) in files {
            self.write(&format!("{folder}/{file}"), bytes);
        }
    }

    /// A loaded profile of a kernel that shows no SHA-256.
    fn link_raw_data(&self, folder: &str, name: &str, id: &str, blob: &[u8]) {
        self.show(folder, name, &[]);
        self.write(
            &format!("security/apparmor/policy/raw_data/{id}/raw_data"),
            blob,
        );
        let link = format!("security/apparmor/policy/profiles/{folder}/raw_data");
        let _ = fs::remove_file(self.0.at(&link));
        self.0.link(&link, format!("../../raw_data/{id}/raw_data"));
    }

    fn kernel(&self) -> Kernel {
        Kernel::new(&Settings {
            root: self.0.path().to_owned(),
            securityfs: self.0.at("security"),
            proc: self.0.at("proc"),
        })
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
    let found = listed(list.as_bytes());
    let found = found.iter().map(|(name, mode)| (name.as_str(), *mode));
    assert!(found.eq(expected));
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
fn contents_come_from_the_hash_or_else_from_the_bytes() {
    let node = Node::new();
    let (digest, other) = (Digest::of(b"blob"), Digest::of(b"other"));
    let hash = format!("{digest}\n");
    // A hash is believed before the bytes.
    let files = [("raw_sha256", hash.as_bytes()), ("raw_data", b"?")];
    node.show("custom.hash.0", "custom.hash", &files);
    node.link_raw_data("custom.raw.1", "custom.raw", "7", b"blob");
    node.show("custom.none.2", "custom.none", &[]);
    node.link_raw_data("custom.two.3", "custom.two", "7", b"blob");
    node.link_raw_data("custom.two.4", "custom.two", "7", b"blob");
    // One spelling of two names.
    node.link_raw_data("custom.a_b.5", "custom.a b", "8", b"other");
    node.link_raw_data("custom.a_b.6", "custom.a_b", "7", b"blob");
    let names = BTreeSet::from([
        "custom.hash",
        "custom.raw",
        "custom.none",
        "custom.two",
        "custom.a_b",
        "custom.gone",
    ]);
    let contents = node.kernel().contents(&names);
    let known: Vec<_> = contents.keys().map(String::as_str).collect();
    assert_eq!(known, ["custom.a_b", "custom.hash", "custom.raw"]);
    assert!(contents.values().all(|known| *known == digest));
    node.link_raw_data("custom.raw.1", "custom.raw", "9", b"other");
    assert_eq!(node.kernel().contents(&names)["custom.raw"], other);
}

#[test]
fn another_load_of_other_contents_is_noticed() {
    let node = Node::new();
    let names = BTreeSet::from(["custom.hash", "custom.raw", "custom.none"]);
    let hash = |text: &[u8]| format!("{}\n", Digest::of(text));
    let load = |blob: &[u8], id: &str| {
        node.show(
            "custom.hash.0",
            "custom.hash",
            &[("raw_sha256", hash(blob).as_bytes())],
        );
        node.link_raw_data("custom.raw.1", "custom.raw", id, blob);
    };
    load(b"blob", "7");
    node.show("custom.none.2", "custom.none", &[]);
    let kernel = node.kernel();
    kernel.contents(&names);
    assert!(names.iter().all(|name| kernel.is_as_seen(name)));
    load(b"other", "8");
    assert!(!kernel.is_as_seen("custom.hash") && !kernel.is_as_seen("custom.raw"));
    // Where the kernel shows no contents, or nothing was seen, there is nothing to compare.
    assert!(kernel.is_as_seen("custom.none") && kernel.is_as_seen("custom.unseen"));
    kernel.contents(&names);
    assert!(names.iter().all(|name| kernel.is_as_seen(name)));
    fs::remove_dir_all(node.0.at("security/apparmor/policy/profiles/custom.hash.0")).unwrap();
    assert!(!kernel.is_as_seen("custom.hash"));
}

/// Before the first policy, the kernel's file has nothing to read, and a reader would wait for it.
#[test]
fn a_revision_is_not_waited_for() {
    let node = Node::new();
    node.0.fifo("security/apparmor/revision");
    let _writer = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(node.0.at("security/apparmor/revision"))
        .unwrap();
    assert_eq!(node.kernel().revision(), None);
}

#[test]
fn each_write_is_one_from_the_start_and_cuts_nothing_off() {
    let node = Node::new();
    let file = |file| node.0.at("security/apparmor").join(file);
    fs::write(file(".replace"), "0123456789").unwrap();
    node.kernel().replace(b"blob").unwrap();
    node.kernel().load(b"new").unwrap();
    node.kernel().remove("custom.a").unwrap();
    let written = [".replace", ".load", ".remove"].map(|name| fs::read(file(name)).unwrap());
    let expected: [&[u8]; 3] = [b"blob456789", b"new", b"custom.a"];
    assert_eq!(written, expected);
}
