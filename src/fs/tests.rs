use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::tests::Folder;

#[test]
fn a_file_is_read_whole_up_to_the_limit() {
    let folder = Folder::new();
    folder.write("file", "0123456789");
    let path = folder.at("file");
    assert_eq!(read(&path, 10).unwrap(), b"0123456789");
    let error = read(&path, 9).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let error = read(&folder.at("none"), 9).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_wrong_size_loses_nothing() {
    let folder = Folder::new();
    folder.write("file", "x".repeat(1000));
    let read = |size, limit| {
        let file = File::open(folder.at("file")).unwrap();
        read_open(file, size, limit).unwrap().len()
    };
    for size in [0, 10, 999, 1000, 1001, 5000] {
        assert_eq!(read(size, 2000), 1000, "{size}");
    }
    assert_eq!(read(0, 500), 501);
}

#[test]
fn a_file_that_the_kernel_makes_up_is_read() {
    let text = read(Path::new("/proc/self/status"), 1 << 20).unwrap();
    assert!(text.starts_with(b"Name:"));
}

#[test]
fn a_file_is_replaced_whole_with_its_mode_and_nothing_beside_it() {
    let folder = Folder::new();
    let path = folder.at("file");
    for (n, sync) in [false, true].into_iter().enumerate() {
        let (text, mode) = (
            format!("version {n}"),
            0o600 + 4 * u32::try_from(n).unwrap(),
        );
        replace(&path, text.as_bytes(), mode, sync).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, mode);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_link_in_the_place_of_a_file_is_not_followed() {
    let folder = Folder::new();
    folder.write("target", "theirs");
    folder.link("file", "target");
    replace(&folder.at("file"), b"ours", 0o600, false).unwrap();
    let read = |file| std::fs::read_to_string(folder.at(file)).unwrap();
    assert_eq!((&*read("target"), &*read("file")), ("theirs", "ours"));
    assert!(!folder.at("file").is_symlink());
}

#[test]
fn a_file_that_cannot_be_replaced_leaves_nothing_behind() {
    let folder = Folder::new();
    folder.write("file/kept", "");
    assert!(replace(&folder.at("file"), b"", 0o600, false).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(replace(&folder.at("none/file"), b"", 0o600, false).is_err());
}
