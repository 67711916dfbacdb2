use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{CWD, Mode};

use super::*;
use crate::source::Limits;

/// A folder that goes away with its test.
pub(crate) struct Temp(pub(crate) PathBuf);

impl Temp {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("armorer-{}-{next}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, target: &str, name: &str) {
        symlink(target, self.0.join(name)).unwrap();
    }

    fn read(&self) -> Result<Vec<RawProfile>, Error> {
        read_with(&self.0, &Limits::default())
    }

    /// Names and texts, a refusal as its kind.
    fn found(&self) -> Vec<(String, String)> {
        self.read().unwrap().into_iter().map(flat).collect()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read_with(path: &Path, limits: &Limits) -> Result<Vec<RawProfile>, Error> {
    read(path, &mut Budget::new(limits))
}

fn flat(profile: RawProfile) -> (String, String) {
    let text = profile.text.unwrap_or_else(|r| format!("{:?}", r.kind));
    (profile.name, text)
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec()
}

/// What the kubelet's `AtomicWriter` does for a new generation of the files.
fn publish(volume: &Path, generation: &str, files: &[(String, String)]) {
    let old = fs::read_link(volume.join("..data")).ok();
    let dated = format!("..2026_01_01_00_00_00.{generation}");
    fs::create_dir_all(volume.join(&dated)).unwrap();
    for (name, text) in files {
        fs::write(volume.join(&dated).join(name), text).unwrap();
    }
    let next = volume.join("..data_tmp");
    symlink(&dated, &next).unwrap();
    fs::rename(&next, volume.join("..data")).unwrap();
    for (name, _) in files {
        let link = volume.join(name);
        if link.symlink_metadata().is_err() {
            symlink(format!("..data/{name}"), &link).unwrap();
        }
    }
    for entry in fs::read_dir(volume).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with("..") && !files.iter().any(|(key, _)| *key == name) {
            fs::remove_file(volume.join(name)).unwrap();
        }
    }
    if let Some(old) = old {
        for entry in fs::read_dir(volume.join(&old)).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
            thread::yield_now();
        }
        fs::remove_dir(volume.join(old)).unwrap();
    }
}

#[test]
fn a_tree_is_read_by_name_without_leftovers() {
    let temp = Temp::new();
    temp.write("b", "1");
    temp.write("sub/a", "2");
    temp.write("sub/b", "3");
    for name in [
        ".hidden",
        "..x",
        "README",
        "c~",
        "d.dpkg-new",
        ".git/config",
        "sub/.e",
    ] {
        temp.write(name, "no");
    }
    assert_eq!(temp.found(), pairs([("a", "2"), ("b", "1"), ("b", "3")]));
    let sources = temp.read().unwrap();
    let root = temp.0.to_str().unwrap();
    assert_eq!(sources[1].source, root);
    assert_eq!(sources[2].source, format!("{root}/sub"));
}

#[test]
fn an_empty_folder_holds_nothing_and_a_missing_one_is_an_error() {
    let temp = Temp::new();
    assert_eq!(temp.found(), []);
    let error = read_with(&temp.0.join("gone"), &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Source(_)));
    assert!(error.to_string().contains("gone does not exist"), "{error}");
}

#[test]
fn one_file_is_a_source_of_one_profile() {
    let temp = Temp::new();
    temp.write("custom.a", "text");
    let found = read_with(&temp.0.join("custom.a"), &Limits::default()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(flat(found[0].clone()), ("custom.a".into(), "text".into()));
}

#[test]
fn links_are_followed_to_files_inside_only() {
    let outside = Temp::new();
    outside.write("secret", "secret");
    let temp = Temp::new();
    temp.write("sub/real", "real");
    temp.link("sub/real", "inside");
    temp.link(temp.0.join("sub/real").to_str().unwrap(), "inside-absolute");
    temp.link("inside", "chain");
    temp.link(outside.0.join("secret").to_str().unwrap(), "outside");
    temp.link(outside.0.to_str().unwrap(), "outside-folder");
    temp.link("/proc/self/environ", "magic");
    temp.link("nowhere", "dangling");
    temp.link("loop", "loop");
    temp.link(".", "self");
    temp.link("sub", "folder");
    assert_eq!(
        temp.found(),
        pairs([
            ("chain", "real"),
            ("dangling", "Name"),
            ("folder", "Name"),
            ("inside", "real"),
            ("inside-absolute", "real"),
            ("loop", "Name"),
            ("magic", "Name"),
            ("outside", "Name"),
            ("outside-folder", "Name"),
            ("real", "real"),
            ("self", "Name"),
        ])
    );
}

#[test]
fn the_source_itself_may_be_a_link() {
    let temp = Temp::new();
    temp.write("tree/a", "1");
    temp.link("a", "tree/b");
    temp.link("tree", "current");
    let found = read_with(&temp.0.join("current"), &Limits::default()).unwrap();
    let found: Vec<_> = found.into_iter().map(flat).collect();
    assert_eq!(found, pairs([("a", "1"), ("b", "1")]));
}

#[test]
fn what_is_no_regular_file_is_refused_unopened() {
    let temp = Temp::new();
    temp.write("a", "1");
    rustix::fs::mknodat(CWD, temp.0.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    rustix::fs::mknodat(CWD, temp.0.join("socket"), FileType::Socket, Mode::RUSR, 0).unwrap();
    temp.link("fifo", "link");
    assert_eq!(
        temp.found(),
        pairs([
            ("a", "1"),
            ("fifo", "Name"),
            ("link", "Name"),
            ("socket", "Name")
        ])
    );
    let error = read_with(&temp.0.join("fifo"), &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("is a fifo"), "{error}");
}

#[test]
fn a_text_at_the_limit_is_read_and_one_byte_more_is_refused() {
    let temp = Temp::new();
    temp.write("at", "x".repeat(4096));
    temp.write("above", "x".repeat(4097));
    temp.write("empty", "");
    let limits = Limits {
        profile_bytes: 4096,
        ..Limits::default()
    };
    let found = read_with(&temp.0, &limits).unwrap();
    assert_eq!(found[0].text.as_ref().unwrap_err().kind, RefusalKind::Limit);
    assert_eq!(found[1].text.as_ref().unwrap().len(), 4096);
    assert_eq!(found[2].text.as_deref(), Ok(""));
}

#[test]
fn a_file_that_hides_its_size_is_read_to_the_limit_only() {
    let limits = Limits {
        profile_bytes: 100,
        ..Limits::default()
    };
    let found = read_with(Path::new("/proc/kallsyms"), &limits).unwrap();
    assert_eq!(found[0].text.as_ref().unwrap_err().kind, RefusalKind::Limit);
}

#[test]
fn bytes_that_are_no_text_are_refused_and_the_others_are_read() {
    let temp = Temp::new();
    temp.write("bom", "\u{feff}x");
    temp.write("nul", "a\0b");
    temp.write("utf8", b"a\xff");
    let name = OsStr::from_bytes(b"z\xff");
    fs::write(temp.0.join(name), "x").unwrap();
    assert_eq!(
        temp.found(),
        pairs([
            ("bom", "\u{feff}x"),
            ("nul", "Text"),
            ("utf8", "Text"),
            ("z\u{fffd}", "Name")
        ])
    );
}

#[test]
fn too_many_profiles_are_an_error_that_names_the_flag() {
    let temp = Temp::new();
    for n in 0..5 {
        temp.write(&format!("sub{n}/p"), "x");
    }
    let limits = |profiles| Limits {
        profiles,
        ..Limits::default()
    };
    assert_eq!(read_with(&temp.0, &limits(6)).unwrap().len(), 5);
    for profiles in [1, 4] {
        let error = read_with(&temp.0, &limits(profiles)).unwrap_err();
        assert!(error.to_string().contains("--max-profiles"), "{error}");
    }
}

#[test]
fn folders_too_deep_are_an_error() {
    let temp = Temp::new();
    temp.write(&format!("{}p", "d/".repeat(17)), "x");
    assert!(temp.read().unwrap_err().to_string().contains("deep"));
}

#[test]
fn what_cannot_be_read_makes_the_source_unread() {
    let error = read_with(Path::new("/proc/self/mem"), &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::Source(_)), "{error}");
    let temp = Temp::new();
    temp.write("a", "1");
    temp.write("b", "1");
    fs::set_permissions(temp.0.join("b"), fs::Permissions::from_mode(0o0)).unwrap();
    if fs::File::open(temp.0.join("b")).is_err() {
        assert!(matches!(temp.read(), Err(Error::Source(_))));
    }
}

#[test]
fn a_volume_is_read_from_its_dated_folder_also_one_level_down() {
    let temp = Temp::new();
    for volume in ["one", "two"] {
        fs::create_dir(temp.0.join(volume)).unwrap();
        publish(&temp.0.join(volume), "1", &pairs([(volume, "old")]));
        publish(&temp.0.join(volume), "2", &pairs([(volume, "new")]));
        temp.link("..data/stale", &format!("{volume}/stale"));
    }
    temp.write("one/..2026_01_01_00_00_00.2/items/path", "deep");
    temp.link("..data/items", "one/items");
    let wanted = pairs([("one", "new"), ("path", "deep"), ("two", "new")]);
    assert_eq!(temp.found(), wanted);
    assert_eq!(
        temp.read().unwrap()[0].source,
        temp.0.join("one").to_str().unwrap()
    );
}

#[test]
fn a_volume_without_its_dated_folder_is_an_error_and_not_empty() {
    let temp = Temp::new();
    temp.link("..data/a", "a");
    assert!(matches!(temp.read(), Err(Error::Source(_))));
    temp.link("..gone", "..data");
    assert!(matches!(temp.read(), Err(Error::Source(_))));
}

#[test]
fn a_data_link_that_leads_elsewhere_is_an_error() {
    for target in ["/etc", "..", "../x", "..a/../.."] {
        let temp = Temp::new();
        temp.link(target, "..data");
        assert!(matches!(temp.read(), Err(Error::Source(_))), "{target}");
    }
}

/// Ends the other thread also where a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads while `change` goes on, until `wanted` readings succeeded; each is given to `check`.
///
/// Changes come in bursts, the next once the folder was read: without a rest it never is.
fn read_during(
    path: &Path,
    wanted: usize,
    change: impl Fn(usize) + Sync,
    check: impl Fn(Vec<RawProfile>),
) {
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
        let read = (0..wanted * 100)
            .filter_map(|_| read_with(path, &Limits::default()).ok())
            .take(wanted)
            .inspect(|_| _ = succeeded.fetch_add(1, Ordering::Relaxed))
            .map(check)
            .count();
        assert_eq!(read, wanted, "too few readings succeeded");
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
    let temp = Temp::new();
    publish(&temp.0, "0", &generation(0));
    read_during(
        &temp.0,
        300,
        |n| publish(&temp.0, &n.to_string(), &generation(n)),
        |found| {
            let text = found[0].text.clone().unwrap();
            let n = text["generation ".len()..].parse().unwrap();
            let found: Vec<_> = found.into_iter().map(flat).collect();
            assert_eq!(found, generation(n));
        },
    );
}

#[test]
fn a_file_moved_between_folders_is_never_missed() {
    let temp = Temp::new();
    temp.write("a/custom.a", "x");
    fs::create_dir(temp.0.join("b")).unwrap();
    let places = ["a/custom.a", "b/custom.a"].map(|name| temp.0.join(name));
    read_during(
        &temp.0,
        300,
        |n| {
            fs::rename(&places[(n + 1) % 2], &places[n % 2]).unwrap();
            thread::sleep(Duration::from_micros(n as u64 * 37 % 300));
        },
        |found| assert_eq!(found.len(), 1),
    );
}

/// Two listings can miss the same file in the same way: it was moved behind each one's back.
#[test]
fn a_file_moved_and_moved_back_makes_another_listing() {
    let temp = Temp::new();
    temp.write("a/custom.a", "x");
    fs::create_dir(temp.0.join("b")).unwrap();
    let listed = || {
        let root = rustix::fs::open(&temp.0, OPEN, Mode::empty()).unwrap();
        walk(&root, &temp.0, 10).ok().unwrap()
    };
    assert!(listed() == listed());
    for _ in 0..100 {
        let before = listed();
        for (from, to) in [("a", "b"), ("b", "a")] {
            let [from, to] = [from, to].map(|folder| temp.0.join(folder).join("custom.a"));
            fs::rename(from, to).unwrap();
        }
        assert!(listed() != before);
    }
}

#[test]
fn a_file_exchanged_for_a_link_never_leads_outside() {
    let outside = Temp::new();
    outside.write("custom.a", "secret");
    let temp = Temp::new();
    temp.write("sub/custom.a", "public");
    temp.link("sub/custom.a", "link");
    let (real, away) = (temp.0.join("sub"), temp.0.join(".sub"));
    read_during(
        &temp.0,
        100,
        |_| {
            fs::rename(&real, &away).unwrap();
            symlink(&outside.0, &real).unwrap();
            fs::remove_file(&real).unwrap();
            fs::rename(&away, &real).unwrap();
        },
        |found| assert!(found.iter().all(|p| p.text.as_deref() != Ok("secret"))),
    );
}

#[test]
fn a_thousand_files_take_milliseconds() {
    let temp = Temp::new();
    for n in 0..1000 {
        temp.write(&format!("custom.{n:04}"), "x".repeat(2048));
    }
    let start = std::time::Instant::now();
    assert_eq!(temp.read().unwrap().len(), 1000);
    let took = start.elapsed();
    println!("{took:?}");
    assert!(took.as_secs() < 1, "{took:?}");
}
