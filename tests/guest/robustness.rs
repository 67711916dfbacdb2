//! Promises 5, 6 and 8: a source half read, a pass killed, a pass with nothing to do.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::{self, sleep};
use std::time::Duration;

use crate::support::kernel::{is_loaded, revision};
use crate::support::{Case, can_write, hold, loaded, raw_data, run, sh, simple};

/// Pauses of a run, the same for the same seed (splitmix64).
struct Pauses(u64);

impl Pauses {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % most
    }

    fn pause(&mut self, most: u64) {
        sleep(Duration::from_micros(self.below(most)));
    }
}

/// Puts a new generation in place as the kubelet's AtomicWriter does, and removes the old one
/// file by file.
fn publish(volume: &Path, generation: &str, names: &[String], pauses: &mut Pauses) {
    let old = fs::read_link(volume.join("..data")).ok();
    let dated = format!("..2026_{generation}");
    fs::create_dir(volume.join(&dated)).unwrap();
    for name in names {
        fs::write(volume.join(&dated).join(name), simple(name, "secret")).unwrap();
    }
    symlink(&dated, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    for name in names {
        let _ = symlink(format!("..data/{name}"), volume.join(name));
    }
    if let Some(old) = old {
        pauses.pause(2_000);
        for entry in fs::read_dir(volume.join(&old)).unwrap().flatten() {
            fs::remove_file(entry.path()).unwrap();
            pauses.pause(600);
        }
        fs::remove_dir(volume.join(old)).unwrap();
    }
}

/// One pass while the folder behind `..data` is swapped one to four times. GUEST_SEEDS sets the number of
/// seeds, GUEST_SEED asks for one of them again.
#[test]
fn a_mount_swapped_while_it_is_read_never_loses_a_desired_profile() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let case = Case::new();
    let names: Vec<String> = (0..4).map(|n| format!("custom.p{n}")).collect();
    publish(&case.source(), "first", &names, &mut Pauses(0));
    case.pass().exits(0);
    let before = revision();
    let seeds: std::ops::Range<u64> = match number("GUEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("GUEST_SEEDS").unwrap_or(60),
    };
    let count = seeds.end - seeds.start;
    let mut given_up = 0;
    for seed in seeds {
        let pass = thread::scope(|scope| {
            scope.spawn(|| {
                let mut pauses = Pauses(seed);
                pauses.pause(20_000);
                for swap in 0..=pauses.below(4) {
                    let generation = format!("{seed}_{swap}");
                    publish(&case.source(), &generation, &names, &mut pauses);
                }
            });
            case.pass()
        });
        assert!(
            [0, 3].contains(&pass.code),
            "seed {seed}: exit {}: {}",
            pass.code,
            pass.said
        );
        given_up += u64::from(pass.code == 3);
        assert_eq!(revision(), before, "seed {seed}: {}", pass.said);
        assert!(
            names.iter().all(|name| is_loaded(name)),
            "seed {seed} lost a profile"
        );
    }
    println!("{given_up} of {count} passes gave up reading (exit 3), the others read it whole");
    assert!(
        given_up <= count / 2,
        "the folder could hardly ever be read"
    );
    case.pass().exits(0);
}

#[test]
fn a_missing_or_unreadable_source_is_not_an_empty_one() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let away = case.dir.join("away");
    fs::rename(case.source(), &away).unwrap();
    case.armorer(&["reconcile", "--remove-after", "0s", "--allow-empty"])
        .exits(3);
    assert!(is_loaded("custom.p"));
    fs::rename(&away, case.source()).unwrap();
    symlink("..gone", case.source().join("..data")).unwrap();
    case.armorer(&["reconcile", "--remove-after", "0s", "--allow-empty"])
        .exits(3);
    assert!(is_loaded("custom.p"));
}

#[test]
fn a_pass_killed_anywhere_is_put_right_by_the_next() {
    let case = Case::new();
    for n in 0..4 {
        case.want_simple(&format!("custom.p{n}"));
    }
    case.pass().exits(0);
    let held = hold("main", "custom.p0");
    for round in 0..40u64 {
        let denied = if round % 2 == 0 { "other" } else { "secret" };
        for n in 0..3 {
            let name = format!("custom.p{n}");
            case.want(&name, &simple(&name, denied));
        }
        if round % 2 == 0 {
            case.unwant("custom.p3");
        } else {
            case.want(
                "custom.p3",
                "profile custom.p3 { file, profile kid { file, } }",
            );
        }
        let mut pass = case
            .command(&["reconcile", "--remove-after", "0s"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(round * 23 % 700));
        let _ = pass.kill();
        let _ = pass.wait();
        assert!(
            held.label().starts_with("custom.p0"),
            "round {round} unconfined a process"
        );
        case.pass().exits(0);
        assert_eq!(is_loaded("custom.p3"), round % 2 == 1, "round {round}");
        for n in 0..3 {
            let name = format!("custom.p{n}");
            let expected = crate::support::compile(&simple(&name, denied));
            assert_eq!(raw_data(&name).unwrap(), expected, "round {round}");
        }
        let left = sh(&format!("find {} -name '*.tmp'", case.dir.display()));
        assert_eq!(left, "", "round {round}");
    }
    assert!(!can_write("custom.p0", "/tmp/secret"));
}

#[test]
fn two_passes_at_once_take_turns() {
    let case = Case::new();
    for n in 0..6 {
        case.want_simple(&format!("custom.p{n}"));
    }
    let before = revision();
    let passes: Vec<_> = (0..3)
        .map(|_| case.command(&["reconcile"]).spawn().unwrap())
        .collect();
    for mut pass in passes {
        assert!(pass.wait().unwrap().success());
    }
    assert_eq!(revision(), before + 6, "each profile was loaded once");
}

#[test]
fn a_full_disk_stops_a_pass_before_the_kernel_and_the_next_converges() {
    let case = Case::new();
    let state = case.dir.join("small");
    sh(&format!(
        "mkdir {0} && mount -t tmpfs -o size=64k,mode=700 none {0}",
        state.display()
    ));
    case.want_simple("custom.p");
    fs::write(state.join("filler"), vec![0; 64 << 10]).ok();
    let before = revision();
    let pass = || {
        let mut command = case.command(&["reconcile"]);
        command.env("ARMORER_STATE_DIR", &state);
        run(command)
    };
    let full = pass();
    let untouched = revision() == before;
    fs::remove_file(state.join("filler")).unwrap();
    let next = pass();
    sh(&format!("mount -o remount,ro {}", state.display()));
    case.want_simple("custom.q");
    let read_only = pass();
    sh(&format!("umount {}", state.display()));
    full.exits(3).says("No space left");
    assert!(untouched);
    next.exits(0);
    read_only.exits(3).says("Read-only");
    assert_eq!(
        [is_loaded("custom.p"), is_loaded("custom.q")],
        [true, false]
    );
}

#[test]
fn a_pass_that_changes_nothing_costs_nearly_nothing() {
    let case = Case::new();
    for n in 0..10 {
        case.want_simple(&format!("custom.p{n}"));
    }
    case.pass().exits(0);
    let state = case.state();
    let before = revision();
    let trace = case.dir.join("trace");
    let script = format!(
        "strace -f -y -o {} $TESTED_BINARY reconcile {}",
        trace.display(),
        case.source().display()
    );
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", &script])
        .env("ARMORER_STATE_DIR", case.dir.join("state"));
    let pass = run(command).exits(0);
    assert_eq!(pass.said.lines().count(), 1, "{}", pass.said);
    let trace = fs::read_to_string(trace).unwrap();
    let calls = |name: &str| -> Vec<&str> {
        let call = format!(" {name}(");
        trace.lines().filter(|line| line.contains(&call)).collect()
    };
    assert_eq!(calls("execve").len(), 1, "only armorer itself");
    for absent in [
        "fsync",
        "fdatasync",
        "syncfs",
        "fork",
        "vfork",
        "clone",
        "clone3",
        "unlink",
    ] {
        assert!(calls(absent).is_empty(), "{absent}: {:?}", calls(absent));
    }
    for write in ["write", "writev", "pwrite64"]
        .iter()
        .flat_map(|name| calls(name))
    {
        assert!(write.contains("status") || write.contains("(2<"), "{write}");
    }
    for write in calls("openat")
        .iter()
        .filter(|line| line.contains("O_WRONLY") || line.contains("O_RDWR"))
    {
        let known = ["status", "/lock", ".load", ".replace", ".remove"];
        assert!(known.iter().any(|file| write.contains(file)), "{write}");
    }
    assert_eq!((case.state(), revision()), (state, before));
    assert_eq!(
        loaded()
            .keys()
            .filter(|name| name.starts_with("custom."))
            .count(),
        10
    );
}
