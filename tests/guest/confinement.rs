//! Promise 1: it takes no confinement from a running or coming process.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::support::kernel::is_loaded;
use crate::support::process::{label, labels, until_free};
use crate::support::{Case, can_write, hold, run, sh, simple};

const FAMILY: &str = "profile custom.p {
  file, capability, signal, ptrace, change_profile, mount, umount, unix,
  deny /tmp/secret w,
  profile kid { file, capability, signal, deny /tmp/secret w, }
  ^hat { file, capability, signal, deny /tmp/secret w, }
}
";

/// Loads custom.p, lets a process hold it, and takes it out of the source: it must stay. Once
/// the process has ended it must go.
fn is_deferred(kind: &str, text: &str) {
    let case = Case::new();
    case.want("custom.p", text);
    case.want_simple("custom.stays");
    case.pass().exits(0);
    let held = hold(kind, "custom.p");
    let before: Vec<String> = holders();
    assert!(!before.is_empty(), "{kind}: no process holds custom.p");
    case.unwant("custom.p");
    for _ in 0..2 {
        case.pass().exits(0);
        assert!(is_loaded("custom.p"), "{kind}: removed while in use");
        assert_eq!(holders(), before, "{kind}: a label changed");
    }
    drop(held);
    until_free("custom.p");
    case.pass().exits(0);
    assert!(!is_loaded("custom.p"), "{kind}: not removed once unused");
    assert!(is_loaded("custom.stays"));
}

fn holders() -> Vec<String> {
    let mut holders = labels();
    holders.retain(|label| label.contains("custom.p"));
    holders.sort();
    holders
}

#[test]
fn held_by_the_main_thread() {
    is_deferred("main", FAMILY);
}

#[test]
fn held_by_another_thread() {
    is_deferred("thread", FAMILY);
}

#[test]
fn held_under_a_zombie_leader() {
    is_deferred("zombie-leader", FAMILY);
}

#[test]
fn held_by_a_child_profile() {
    is_deferred("child", FAMILY);
}

#[test]
fn held_by_a_hat() {
    is_deferred("hat", FAMILY);
}

#[test]
fn held_in_a_stack() {
    is_deferred("stack", FAMILY);
}

#[test]
fn held_by_a_learning_child_of_complain_mode() {
    is_deferred(
        "null",
        "profile custom.p flags=(complain) { /usr/bin/python3* mr, }\n",
    );
}

#[test]
fn held_in_another_pid_namespace() {
    is_deferred("pid-namespace", FAMILY);
}

/// Deletes the container, also when the test fails: the next would meet it.
struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        sh(&self.0);
    }
}

/// A container that is created and not started: its init will execute under the profile.
fn armed_by(create: &str, start: &str, delete: &str) {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.stays");
    case.pass().exits(0);
    let bundle = case.dir.join("bundle");
    fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
    fs::create_dir_all(bundle.join("rootfs/proc")).unwrap();
    fs::create_dir_all(bundle.join("rootfs/dev")).unwrap();
    fs::copy("/run/guest/busybox", bundle.join("rootfs/bin/busybox")).unwrap();
    let config = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},"hostname":"c",
        "process":{"terminal":false,"user":{"uid":0,"gid":0},"cwd":"/",
            "args":["/bin/busybox","sleep","1000"],"apparmorProfile":"custom.p"},
        "mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
        "linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"ipc"},{"type":"uts"}]}}"#;
    fs::write(bundle.join("config.json"), config).unwrap();
    let pid_file = case.dir.join("pid");
    let there = format!("cd {} && ", bundle.display());
    let output = format!(
        "--pid-file {} c </dev/null >/tmp/c.log 2>&1",
        pid_file.display()
    );
    sh(&format!(
        "{there} {create} {output} || {{ cat /tmp/c.log >&2; false; }}"
    ));
    let container = Container(format!("{delete} --force c"));
    let pid: u32 = fs::read_to_string(pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(
        label(pid),
        "unconfined",
        "an armed process shows no profile yet"
    );

    case.unwant("custom.p");
    case.pass().exits(0);
    assert!(
        is_loaded("custom.p"),
        "removed while a container was armed for it"
    );

    sh(&format!("{there} {start} c"));
    crate::support::until("the container is confined", || {
        label(pid).starts_with("custom.p")
    });
    case.pass().exits(0);
    assert!(is_loaded("custom.p"));
    drop(container);
    until_free("custom.p");
    case.pass().exits(0);
    assert!(!is_loaded("custom.p"), "not removed once unused");
}

#[test]
fn armed_by_runc_create() {
    armed_by("runc create", "runc start", "runc delete");
}

#[test]
fn armed_by_crun_create() {
    const CRUN: &str = "crun --cgroup-manager=disabled";
    armed_by(
        &format!("{CRUN} create"),
        &format!("{CRUN} start"),
        &format!("{CRUN} delete"),
    );
}

#[test]
fn with_hidden_processes_nothing_is_removed() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    case.unwant("custom.p");
    for option in ["hidepid=1", "hidepid=2"] {
        sh(&format!("mount -o remount,{option} /proc"));
        let pass = case.pass();
        sh("mount -o remount,hidepid=0 /proc");
        pass.exits(1).says("hidepid");
        assert!(is_loaded("custom.p"), "removed under {option}");
    }
    sh("mkdir -p /tmp/proc && mount -t proc -o subset=pid none /tmp/proc");
    let mut command = case.command(&["reconcile", "--remove-after", "0s"]);
    command.args(["--proc", "/tmp/proc"]);
    let partial = run(command);
    sh("umount /tmp/proc");
    assert_ne!(partial.code, 0, "{}", partial.said);
    assert!(is_loaded("custom.p"), "removed under subset=pid");
    case.pass().exits(0);
    assert!(!is_loaded("custom.p"));
}

#[test]
fn a_pass_in_a_pid_namespace_of_its_own_removes_nothing() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    case.pass().exits(0);
    let held = hold("main", "custom.p");
    case.unwant("custom.p");
    let state = case.dir.join("state");
    let pass = format!(
        "unshare --pid --fork --mount-proc env ARMORER_STATE_DIR={} $TESTED_BINARY reconcile --remove-after 0s {} || true",
        state.display(),
        case.source().display()
    );
    sh(&pass);
    assert!(
        is_loaded("custom.p"),
        "removed by a pass that could not see its process"
    );
    assert!(held.label().starts_with("custom.p"));
}

fn pass_after(case: &Case, time: &str) {
    case.armorer(&["reconcile", "--remove-after", time])
        .exits(0);
}

#[test]
fn it_goes_only_after_the_time_and_a_return_starts_the_clock_anew() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    pass_after(&case, "20s");
    case.unwant("custom.p");
    pass_after(&case, "20s");
    sleep(Duration::from_secs(10));
    pass_after(&case, "20s");
    assert!(is_loaded("custom.p"), "removed before its time");
    case.want_simple("custom.p");
    pass_after(&case, "20s");
    case.unwant("custom.p");
    pass_after(&case, "20s");
    sleep(Duration::from_secs(12));
    pass_after(&case, "20s");
    assert!(
        is_loaded("custom.p"),
        "the return did not start the clock anew"
    );
    sleep(Duration::from_secs(10));
    pass_after(&case, "20s");
    assert!(!is_loaded("custom.p"), "not removed after its time");
}

#[test]
fn a_sighting_starts_the_clock_anew() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    pass_after(&case, "20s");
    case.unwant("custom.p");
    pass_after(&case, "20s");
    let held = hold("main", "custom.p");
    sleep(Duration::from_secs(15));
    pass_after(&case, "20s");
    drop(held);
    until_free("custom.p");
    sleep(Duration::from_secs(12));
    pass_after(&case, "20s");
    assert!(
        is_loaded("custom.p"),
        "the sighting did not start the clock anew"
    );
    sleep(Duration::from_secs(10));
    pass_after(&case, "20s");
    assert!(!is_loaded("custom.p"));
}

#[test]
fn never_is_never() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    pass_after(&case, "0s");
    case.unwant("custom.p");
    pass_after(&case, "never");
    assert!(is_loaded("custom.p"));
}

#[test]
fn a_reboot_starts_the_clock_anew() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.want_simple("custom.q");
    pass_after(&case, "3s");
    case.unwant("custom.p");
    pass_after(&case, "3s");
    sleep(Duration::from_secs(4));
    // Another boot: no set owns the profiles, and each is owned again only by proof.
    let id = case.dir.join("boot_id");
    fs::write(&id, "11111111-2222-3333-4444-555555555555\n").unwrap();
    sh(&format!(
        "mount --bind {} /proc/sys/kernel/random/boot_id",
        id.display()
    ));
    case.want_simple("custom.p");
    let owned = case.armorer(&["reconcile", "--remove-after", "3s"]);
    case.unwant("custom.p");
    let first = case.armorer(&["reconcile", "--remove-after", "3s"]);
    let after_first = is_loaded("custom.p");
    sleep(Duration::from_secs(4));
    let second = case.armorer(&["reconcile", "--remove-after", "3s"]);
    sh("umount /proc/sys/kernel/random/boot_id");
    owned.exits(0);
    first.exits(0);
    second.exits(0);
    assert!(after_first, "the old boot's clock counted");
    assert!(!is_loaded("custom.p"));
}

#[test]
fn a_child_that_a_new_version_drops_goes_once_it_is_unused() {
    let case = Case::new();
    case.want("custom.p", FAMILY);
    case.pass().exits(0);
    let held = hold("child", "custom.p");
    case.want("custom.p", &simple("custom.p", "secret"));
    case.pass().exits(0);
    assert!(is_loaded("custom.p//kid"), "a used child was removed");
    assert!(!is_loaded("custom.p//hat"), "an unused hat was kept");
    assert!(held.label().starts_with("custom.p//kid"));
    drop(held);
    until_free("custom.p");
    case.pass().exits(0);
    assert!(!is_loaded("custom.p//kid"));
    assert!(is_loaded("custom.p"));
}

#[test]
fn stopping_armorer_changes_nothing() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let held = hold("main", "custom.p");
    for signal in ["TERM", "INT", "HUP"] {
        let mut pass = case.command(&["reconcile"]).spawn().unwrap();
        sh(&format!("kill -{signal} {} || true", pass.id()));
        let _ = pass.wait();
        assert!(held.label().starts_with("custom.p"));
    }
    assert!(!can_write("custom.p", "/tmp/secret"));
}

#[test]
fn only_force_unconfines_and_it_says_how_many() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let held = hold("main", "custom.p");
    case.armorer(&["remove", "custom.p", "--remove-after", "0s"])
        .exits(1);
    assert!(held.label().starts_with("custom.p"));
    case.armorer(&["remove", "custom.p", "--force"])
        .exits(0)
        .says("1 process");
    assert_eq!(held.label(), "unconfined");
}

#[test]
fn force_under_hidden_processes_claims_no_count() {
    let case = Case::new();
    case.want_simple("custom.p");
    case.pass().exits(0);
    let held = hold("main", "custom.p");
    sh("mount -o remount,hidepid=2 /proc");
    let mut command = std::process::Command::new("setpriv");
    let binary = std::env::var("TESTED_BINARY").unwrap();
    command
        .args(["--bounding-set", "-all,+mac_admin", "--inh-caps", "-all"])
        .args(["--", &binary, "remove", "custom.p", "--force"])
        .env("ARMORER_STATE_DIR", case.dir.join("state"));
    let forced = run(command);
    sh("mount -o remount,hidepid=0 /proc");
    let forced = forced.exits(0).says("hidepid");
    assert!(!forced.said.contains("no process"), "{}", forced.said);
    drop(held);
}

/// A process that calls itself like a runtime, as one does between create and start.
#[test]
fn each_known_runtime_puts_a_removal_off_by_name_and_pid() {
    let case = Case::new();
    for name in [
        "runc:[2:INIT]",
        "krun",
        "sysbox-runc",
        "lxc-start",
        "(unit)",
    ] {
        case.want_simple("custom.p");
        case.want_simple("custom.q");
        case.pass().exits(0);
        case.unwant("custom.p");
        let script = "import sys, time\nopen('/proc/self/comm', 'w').write(sys.argv[1])\nprint(1, flush=True)\ntime.sleep(1000)";
        let mut runtime = std::process::Command::new("python3")
            .args(["-c", script, name])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 2];
        std::io::Read::read_exact(runtime.stdout.as_mut().unwrap(), &mut line).unwrap();
        let plan = case.pass().exits(0);
        let loaded = is_loaded("custom.p");
        let json = case.armorer(&["reconcile", "--remove-after", "0s", "--output", "json"]);
        let pid = runtime.id();
        runtime.kill().unwrap();
        runtime.wait().unwrap();
        assert!(loaded, "{name}: removed: {}", plan.said);
        json.says(&format!("pid {pid}")).says(name);
        case.pass().exits(0);
        assert!(!is_loaded("custom.p"), "{name}: not removed afterwards");
    }
}

/// `//&` joins the profiles of a stack: a child of such a name would hide its processes.
#[test]
fn a_child_whose_name_looks_like_a_stack_is_refused() {
    let case = Case::new();
    let text = "@{X}=&custom.b\nprofile custom.p {\n file,\n hat @{X} {\n file,\n }\n}\n";
    case.want("custom.p", text);
    case.pass().exits(1).says("custom.p//&custom.b");
    assert!(!is_loaded("custom.p"));
}
