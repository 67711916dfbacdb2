//! The kernel's policy, in queries of these tests only.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::kernel::{POLICY, loaded};

/// Each loaded name, and the blob that it was loaded from, byte for byte; children without.
pub(crate) fn contents() -> BTreeMap<String, Vec<u8>> {
    let names = loaded().into_keys().map(|name| (name, Vec::new()));
    let mut names: BTreeMap<String, Vec<u8>> = names.collect();
    for entry in fs::read_dir(Path::new(POLICY).join("policy/profiles"))
        .unwrap()
        .flatten()
    {
        let read = |file| fs::read(entry.path().join(file));
        if let (Ok(name), Ok(raw)) = (read("name"), read("raw_data")) {
            names.insert(String::from_utf8(name).unwrap().trim_end().to_owned(), raw);
        }
    }
    names
}

/// Waits until the kernel has freed a removed or replaced profile. Linux 6.1 (seen with Debian's
/// 6.1.176) panics later if the same blob is loaded again before that: it takes the copy that it is
/// freeing for the one to keep, and whoever looks at the new profile's `raw_` files follows it.
pub(crate) fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(250));
}
