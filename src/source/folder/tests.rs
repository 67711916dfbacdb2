use std::fs as disk;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::tests::Folder;

const LIMITS: Limits = Limits {
    profile_bytes: 4096,
    profiles: 2000,
};

fn read_with(path: &Path, limits: &Limits) -> Result<Found, Error> {
    let mut found = Found::default();
    read(path, limits, &mut found).map(|()| found)
}

/// Names and texts of the profiles in `path`, a refusal as its reason.
fn profiles(path: &Path) -> Vec<(String, String)> {
    flat(read_with(path, &LIMITS).unwrap())
}

fn flat(found: Found) -> Vec<(String, String)> {
    let profiles = found.profiles.into_iter();
    profiles
        .map(|profile| {
            let text = profile.text.unwrap_or_else(|refusal| refusal.reason.into());
            (profile.name, text)
        })
        .collect()
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec()
}

/// The kubelet's steps for a new generation of the files.
fn publish(volume: &Path, generation: &str, files: &[(String, String)]) {
    let old = disk::read_link(volume.join("..data")).ok();
    let dated = format!("..2026_01_01_00_00_00.{generation}");
    disk::create_dir_all(volume.join(&dated)).unwrap();
    for (name, text) in files {
        disk::write(volume.join(&dated).join(name), text).unwrap();
    }
    let next = volume.join("..data_tmp");
    symlink(&dated, &next).unwrap();
    disk::rename(&next, volume.join("..data")).unwrap();
    for (name, _) in files {
        let link = volume.join(name);
        if link.symlink_metadata().is_err() {
            symlink(format!("..data/{name}"), &link).unwrap();
        }
    }
    for entry in disk::read_dir(volume).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with("..") && !files.iter().any(|(key, _)| *key == name) {
            disk::remove_file(volume.join(name)).unwrap();
        }
    }
    if let Some(old) = old {
        for entry in disk::read_dir(volume.join(&old)).unwrap() {
            disk::remove_file(entry.unwrap().path()).unwrap();
            thread::yield_now();
        }
        disk::remove_dir(volume.join(old)).unwrap();
    }
}

#[test]
fn links_are_followed_to_files_inside_only() {
    let outside = Folder::new();
    outside.write("secret", "secret");
    let folder = Folder::new();
    folder.write("sub/real", "real");
    folder.link("inside", "sub/real");
    folder.link("chain", "inside");
    folder.link("up", "sub/../sub/real");
    folder.link("absolute", folder.at("sub/real"));
    folder.link("outside", outside.at("secret"));
    folder.link("outside-folder", outside.path());
    folder.link("above", "../../../../../../etc/passwd");
    folder.link("magic", "/proc/self/environ");
    folder.link("dangling", "nowhere");
    folder.link("loop", "loop");
    folder.link("self", ".");
    folder.link("folder", "sub");
    assert_eq!(
        profiles(folder.path()),
        pairs([
            ("above", "name"),
            ("absolute", "name"),
            ("chain", "real"),
            ("dangling", "name"),
            ("folder", "name"),
            ("inside", "real"),
            ("loop", "name"),
            ("magic", "name"),
            ("outside", "name"),
            ("outside-folder", "name"),
            ("self", "name"),
            ("real", "real"),
            ("up", "real"),
        ])
    );
}

#[test]
fn the_source_itself_may_be_a_link() {
    let folder = Folder::new();
    folder.write("tree/a", "1");
    folder.link("tree/b", "a");
    folder.link("current", "tree");
    let expected = pairs([("a", "1"), ("b", "1")]);
    assert_eq!(profiles(&folder.at("current")), expected);
}

#[test]
fn a_file_that_is_no_regular_one_is_refused_and_not_waited_for() {
    let folder = Folder::new();
    folder.write("a", "1");
    folder.fifo("fifo");
    folder.link("link", "fifo");
    let _socket = std::os::unix::net::UnixListener::bind(folder.at("socket")).unwrap();
    let expected = [
        ("a", "1"),
        ("fifo", "name"),
        ("link", "name"),
        ("socket", "name"),
    ];
    assert_eq!(profiles(folder.path()), pairs(expected));
    let error = read_with(&folder.at("fifo"), &LIMITS).unwrap_err();
    assert!(error.to_string().contains("is a fifo"), "{error}");
}

/// Such as a file that grows while it is read.
#[test]
fn a_file_that_hides_its_size_is_read_to_the_limit_only() {
    let found = read_with(Path::new("/proc/kallsyms"), &LIMITS).unwrap();
    let refusal = found.profiles[0].text.as_ref().unwrap_err();
    assert_eq!(refusal.reason, "limit");
}

#[test]
fn folders_too_deep_are_an_error() {
    let folder = Folder::new();
    folder.write(&format!("{}p", "d/".repeat(17)), "x");
    let error = read_with(folder.path(), &LIMITS).unwrap_err();
    assert!(error.to_string().contains("16 folders deep"), "{error}");
}

#[test]
fn a_volume_is_read_from_its_dated_folder_one_level_down_too() {
    let folder = Folder::new();
    for volume in ["one", "two"] {
        disk::create_dir(folder.at(volume)).unwrap();
        publish(&folder.at(volume), "1", &pairs([(volume, "old")]));
        publish(&folder.at(volume), "2", &pairs([(volume, "new")]));
        folder.link(&format!("{volume}/stale"), "..data/stale");
    }
    folder.write("one/..2026_01_01_00_00_00.2/items/path", "deep");
    folder.link("one/items", "..data/items");
    let expected = pairs([("path", "deep"), ("one", "new"), ("two", "new")]);
    assert_eq!(profiles(folder.path()), expected);
    let found = read_with(folder.path(), &LIMITS).unwrap();
    assert_eq!(found.profiles[1].place, folder.at("one").to_str().unwrap());
}

#[test]
fn a_volume_without_its_dated_folder_is_an_error_and_not_empty() {
    let folder = Folder::new();
    folder.link("a", "..data/a");
    // Without ..data, it is a folder with a link that leads to no file.
    assert_eq!(profiles(folder.path()), pairs([("a", "name")]));
    folder.link("..data", "..gone");
    let error = read_with(folder.path(), &LIMITS).unwrap_err();
    assert!(error.to_string().contains("..gone"), "{error}");
}

#[test]
fn a_data_link_that_leads_elsewhere_is_an_error() {
    for target in ["/etc", "..", "../x", "..a/../.."] {
        let folder = Folder::new();
        folder.link("..data", target);
        let error = read_with(folder.path(), &LIMITS).unwrap_err();
        assert!(error.to_string().contains(target), "{error}");
    }
}

/// Ends the other thread also where a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads while `change` goes on, until `count` readings succeeded; each is given to `check`.
///
/// Changes come in bursts, the next once the folder was read: without a rest it never is.
fn read_during(path: &Path, count: usize, change: impl Fn(usize) + Sync, check: impl Fn(Found)) {
    let stop = AtomicBool::new(false);
    let succeeded = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in (1..usize::MAX).take_while(|_| !stop.load(Ordering::Relaxed)) {
                change(n);
                let seen = succeeded.load(Ordering::Relaxed);
                while n.is_multiple_of(16)
                    && seen == succeeded.load(Ordering::Relaxed)
                    && !stop.load(Ordering::Relaxed)
                {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let _stop = Stop(&stop);
        let read = (0..count * 100)
            .filter_map(|_| read_with(path, &LIMITS).ok())
            .take(count)
            .inspect(|_| _ = succeeded.fetch_add(1, Ordering::Relaxed))
            .map(check)
            .count();
        assert_eq!(read, count, "too few readings succeeded");
    });
}

#[test]
fn a_reading_during_swaps_is_exactly_one_generation() {
    // Each generation has its own keys, number of files and texts.
    let generation = |n: usize| -> Vec<(String, String)> {
        (0..4 + n % 5)
            .map(|key| (format!("p{}", key + n % 3), format!("generation {n}")))
            .collect()
    };
    let folder = Folder::new();
    publish(folder.path(), "0", &generation(0));
    let publish = |n: usize| publish(folder.path(), &n.to_string(), &generation(n));
    read_during(folder.path(), 60, publish, |found| {
        let found = flat(found);
        let n = found[0].1["generation ".len()..].parse().unwrap();
        assert_eq!(found, generation(n));
    });
}

#[test]
fn a_file_moved_between_folders_is_never_missed() {
    let folder = Folder::new();
    folder.write("a/custom.a", "x");
    disk::create_dir(folder.at("b")).unwrap();
    let places = ["a/custom.a", "b/custom.a"].map(|name| folder.at(name));
    let change = |n: usize| {
        disk::rename(&places[(n + 1) % 2], &places[n % 2]).unwrap();
        thread::sleep(Duration::from_micros(n as u64 * 37 % 300));
    };
    read_during(folder.path(), 60, change, |found| {
        assert_eq!(found.profiles.len(), 1);
    });
}

/// Two listings can miss the same file in the same way: it was moved behind each one's back.
#[test]
fn a_file_moved_and_moved_back_makes_another_listing() {
    let folder = Folder::new();
    folder.write("a/custom.a", "x");
    disk::create_dir(folder.at("b")).unwrap();
    let listing = || Listing::of(folder.path(), &LIMITS).ok().unwrap();
    assert!(listing() == listing());
    for _ in 0..30 {
        let before = listing();
        for (from, to) in [("a", "b"), ("b", "a")] {
            let [from, to] = [from, to].map(|below| folder.at(below).join("custom.a"));
            disk::rename(from, to).unwrap();
        }
        assert!(listing() != before);
    }
}

#[test]
fn a_folder_exchanged_for_a_link_never_leads_outside() {
    let outside = Folder::new();
    outside.write("custom.a", "secret");
    let folder = Folder::new();
    folder.write("sub/custom.a", "public");
    folder.link("link", "sub/custom.a");
    let (real, away) = (folder.at("sub"), folder.at(".sub"));
    let change = |_| {
        disk::rename(&real, &away).unwrap();
        symlink(outside.path(), &real).unwrap();
        disk::remove_file(&real).unwrap();
        disk::rename(&away, &real).unwrap();
    };
    read_during(folder.path(), 60, change, |found| {
        let mut found = found.profiles.iter();
        assert!(found.all(|profile| profile.text.as_deref() != Ok("secret")));
    });
}
