//! The kernel's policy, read and written without armorer.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) const POLICY: &str = "/sys/kernel/security/apparmor";

/// Every loaded profile and its mode.
pub(crate) fn loaded() -> BTreeMap<String, String> {
    fs::read_to_string(Path::new(POLICY).join("profiles"))
        .unwrap()
        .lines()
        .map(|line| {
            let (name, mode) = line.rsplit_once(" (").unwrap();
            (name.to_owned(), mode.trim_end_matches(')').to_owned())
        })
        .collect()
}

pub(crate) fn is_loaded(name: &str) -> bool {
    loaded().contains_key(name)
}

/// The blob that `name` was loaded from, byte for byte.
pub(crate) fn raw_data(name: &str) -> Option<Vec<u8>> {
    file_of(name, "raw_data")
}

/// The contents of `file` in the kernel's folder of the profile `name`.
pub(crate) fn file_of(name: &str, file: &str) -> Option<Vec<u8>> {
    let entries = fs::read_dir(Path::new(POLICY).join("policy/profiles")).ok()?;
    let folder = |entry: fs::DirEntry| -> Option<PathBuf> {
        let found = fs::read_to_string(entry.path().join("name")).ok()?;
        (found.trim_end_matches('\n') == name).then(|| entry.path())
    };
    let folder = entries.flatten().find_map(folder)?;
    fs::read(folder.join(file)).ok()
}

pub(crate) fn revision() -> u64 {
    let text = fs::File::open(Path::new(POLICY).join("revision")).map(|mut file| {
        let mut buffer = [0; 32];
        let length = std::io::Read::read(&mut file, &mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    });
    text.unwrap().parse().unwrap()
}

fn write(file: &str, bytes: &[u8]) -> std::io::Result<usize> {
    let mut file = OpenOptions::new()
        .write(true)
        .open(Path::new(POLICY).join(file))?;
    file.write(bytes)
}

pub(crate) fn replace(blob: &[u8]) {
    assert_eq!(write(".replace", blob).unwrap(), blob.len());
}

pub(crate) fn remove(name: &str) {
    write(".remove", name.as_bytes()).unwrap();
}

/// Removes every profile whose name starts with `prefix`.
pub(crate) fn remove_all(prefix: &str) {
    for name in loaded().into_keys() {
        if name.starts_with(prefix) && !name.contains("//") {
            remove(&name);
        }
    }
}

/// Compiles `text` as root, without armorer.
pub(crate) fn compile(text: &str) -> Vec<u8> {
    compile_with(text, &[])
}

pub(crate) fn compile_with(text: &str, options: &[&str]) -> Vec<u8> {
    let mut parser = Command::new("apparmor_parser")
        .args(["-Q", "-K", "-S"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    parser
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "does not compile: {text}");
    output.stdout
}
