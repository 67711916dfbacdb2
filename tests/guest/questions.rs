//! `armorer can` against the kernel: its answers match a confined process' accesses. The texts
//! and questions are drawn at random: GUEST_SEED repeats a run, POLICIES says how many texts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::support::{Case, kernel};

const PEERS: [&str; 4] = ["unconfined", "runc", "crun", "custom.peer"];
const SIGNALS: [(&str, u8); 7] = [
    ("hup", 1),
    ("int", 2),
    ("usr1", 10),
    ("term", 15),
    ("cont", 18),
    ("kill", 9),
    ("exists", 0),
];
const FAMILIES: [(&str, u8); 6] = [
    ("unix", 1),
    ("inet", 2),
    ("inet6", 10),
    ("netlink", 16),
    ("packet", 17),
    ("vsock", 40),
];
const SOCKETS: [(&str, u8); 4] = [("stream", 1), ("dgram", 2), ("raw", 3), ("seqpacket", 5)];
const CAPABILITIES: [&str; 15] = [
    "chown",
    "setuid",
    "setgid",
    "setpcap",
    "ipc_lock",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
];
const FOLDERS: [&str; 4] = ["/tmp/q/a", "/tmp/q/b", "/tmp/q/a/s", "/tmp/q/b/.h"];
const NAMES: [&str; 5] = ["x", "xy", "z.txt", ".x", "a b"];
/// Files of the rules that name one file exactly, which may change the profile.
const PROGRAMS: [&str; 4] = ["/tmp/q/p/1", "/tmp/q/p/2", "/tmp/q/p/3", "/tmp/q/p/4"];

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most as u64).unwrap()
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// About `percent` of `of`, at least one.
    fn some<'a>(&mut self, of: &[&'a str], percent: usize) -> Vec<&'a str> {
        let mut chosen: Vec<&str> = of
            .iter()
            .copied()
            .filter(|_| self.chance(percent))
            .collect();
        if chosen.is_empty() {
            chosen.push(*self.one(of));
        }
        chosen
    }
}

fn file_rule(random: &mut Random) -> String {
    let folder = random.one(&[
        "/tmp/q/a",
        "/tmp/q/b",
        "/tmp/q/*",
        "/tmp/q/a/s",
        "/tmp/q/**",
        "/tmp/q/b/.h",
    ]);
    let name = random.one(&[
        "x",
        "*",
        "**",
        "?",
        "x*",
        "[a-x]",
        "{x,z.txt}",
        "[^x]*",
        ".*",
        "*.txt",
        "a\\ b",
        "xy",
        "{,.}x",
    ]);
    let deny = random.chance(25);
    let write = *random.one(&["w", "a"]);
    let mut permissions = random.some(&["r", write, "k", "l", "m"], 45).concat();
    if random.chance(40) {
        permissions.push_str(if deny { "x" } else { "ix" });
    }
    let qualifiers = [
        if random.chance(15) { "audit " } else { "" },
        if deny { "deny " } else { "" },
        if random.chance(35) { "owner " } else { "" },
    ];
    format!("{}{folder}/{name} {permissions},", qualifiers.concat())
}

/// Only accesses that the kernel allows without profiles.
fn program_rule(random: &mut Random, path: &str) -> String {
    let transition = random.one(&[
        "ix",
        "px -> custom.peer",
        "Px -> custom.peer",
        "pix -> custom.peer",
        "pux -> custom.gone",
        "pix -> custom.gone",
        "cx -> kid",
        "cix -> gone",
        "ux",
        "Ux",
        "pix -> &custom.peer",
        "pix",
    ]);
    let owner = if random.chance(20) { "owner " } else { "" };
    format!("{owner}{path} {transition},")
}

fn other_rule(random: &mut Random) -> String {
    let deny = if random.chance(25) { "deny " } else { "" };
    let rule = match random.below(4) {
        0 => format!("capability {}", random.some(&CAPABILITIES, 15).join(" ")),
        1 => network_rule(random),
        2 => {
            let access = *random.one(&["", " (send)", " (receive)", " (send receive)"]);
            let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
            let set = if random.chance(33) {
                String::new()
            } else {
                format!(" set=({})", random.some(&names, 30).join(" "))
            };
            format!("signal{access}{set}{}", peer(random))
        }
        _ => {
            let access = *random.one(&[
                "",
                " (read)",
                " (trace)",
                " (readby tracedby)",
                " (read readby)",
            ]);
            format!("ptrace{access}{}", peer(random))
        }
    };
    format!("{deny}{rule},")
}

fn network_rule(random: &mut Random) -> String {
    match random.below(4) {
        0 => format!("network {}", random.one(&FAMILIES).0),
        1 => format!("network {}", random.one(&SOCKETS[..2]).0),
        _ => {
            let kind = random.one(&SOCKETS[..3]).0;
            let family = random.one(&["unix", "inet", "inet6", "netlink"]);
            format!("network {family} {kind}")
        }
    }
}

fn peer(random: &mut Random) -> String {
    match random.below(3) {
        0 => String::new(),
        1 => {
            let pattern = random.one(&["*", "custom.*", "{runc,crun}", "?run*"]);
            format!(" peer={pattern}")
        }
        _ => format!(" peer={}", random.one(&PEERS)),
    }
}

fn text(random: &mut Random) -> String {
    let known = |abi: &&str| Path::new("/etc/apparmor.d/abi").join(abi).exists();
    let abi = ["5.0", "4.0", "3.0"]
        .into_iter()
        .filter(known)
        .find(|_| random.chance(40));
    let flags = if random.chance(15) {
        " flags=(complain)"
    } else {
        ""
    };
    let mut rules = Vec::new();
    for _ in 0..3 + random.below(9) {
        rules.push(file_rule(random));
    }
    for path in PROGRAMS {
        rules.push(program_rule(random, path));
    }
    for _ in 0..2 + random.below(12) {
        rules.push(other_rule(random));
    }
    if random.chance(30) {
        rules.push("userns,".to_owned());
    }
    rules.push("profile kid { file, signal, }".to_owned());
    let abi = abi.map_or_else(String::new, |abi| format!("abi <abi/{abi}>,\n"));
    format!(
        "{abi}profile custom.q{flags} {{\n  {}\n}}\n",
        rules.join("\n  ")
    )
}

/// The files that there are: those with an odd place belong to another user.
fn paths() -> Vec<String> {
    let mut paths: Vec<String> = FOLDERS
        .iter()
        .flat_map(|folder| {
            NAMES[..4]
                .iter()
                .map(move |name| format!("{folder}/{name}"))
        })
        .collect();
    paths.extend(PROGRAMS.map(str::to_owned));
    paths
}

/// The kind of question that executes one of [`PROGRAMS`].
const PROGRAM: usize = 8;

/// A question as the probe takes it, and as armorer does.
fn question(random: &mut Random, paths: &[String]) -> (String, String) {
    let kind = random.below(20);
    let place = match kind {
        PROGRAM => paths.len() - 1 - random.below(PROGRAMS.len()),
        _ => random.below(paths.len()),
    };
    let path = &paths[place];
    let owner = if place % 2 == 0 { "owner " } else { "" };
    let file = |permission: &str, path: &str| {
        (
            format!("{permission} {path}"),
            format!("{owner}{permission} {path}"),
        )
    };
    match kind {
        0..=2 => file("read", path),
        3..=4 => file("write", path),
        5 => file("append", path),
        6 | 7 | PROGRAM => file("exec", path),
        9 => {
            // A created file is the process' own.
            let path = new_path(random);
            (format!("create {path}"), format!("owner create {path}"))
        }
        10 => file("delete", path),
        11 => file("lock", path),
        12 => file("mmap", path),
        13 => {
            let name = new_path(random);
            (
                format!("link {name} {path}"),
                format!("{owner}link {name} {path}"),
            )
        }
        14 | 15 => same(format!("capability {}", random.one(&CAPABILITIES))),
        16 => {
            let (family, kind) = (random.one(&FAMILIES), random.one(&SOCKETS));
            (
                format!("network {} {}", family.1, kind.1),
                format!("network {} {}", family.0, kind.0),
            )
        }
        17 | 18 => {
            let (name, number) = random.one(&SIGNALS);
            let (access, peer) = (random.one(&["send", "receive"]), random.one(&PEERS));
            (
                format!("signal {access} {number} {peer}"),
                format!("signal {access} {name} {peer}"),
            )
        }
        _ if random.chance(15) => same("userns".to_owned()),
        _ => {
            let access = random.one(&["read", "trace", "readby", "tracedby"]);
            same(format!("ptrace {access} {}", random.one(&PEERS)))
        }
    }
}

fn new_path(random: &mut Random) -> String {
    let (folder, name) = (random.one(&FOLDERS), random.one(&["z", "xz", ".z", "z.z"]));
    format!("{folder}/{name}")
}

fn same(question: String) -> (String, String) {
    (question.clone(), question)
}

struct Probe {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Probe {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .arg("/job/probe.py")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn ask(&mut self, question: &str) -> String {
        writeln!(self.input, "{question}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn the_kernel_agrees_with_can() {
    let case = Case::new();
    let seed = number("GUEST_SEED").unwrap_or(17);
    let policies = number("POLICIES").unwrap_or(30);
    println!("GUEST_SEED={seed} POLICIES={policies}");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for peer in &PEERS[1..] {
        let all = format!("profile {peer} {{ file, signal, ptrace, capability, network, }}");
        kernel::replace(&kernel::compile(&all));
    }
    let paths = paths();
    let mut probe = Probe::start();
    assert_eq!(probe.ask(&format!("paths {}", paths.join(" "))), "allow");
    let mut counts = Counts::new();
    let mut unequal = Vec::new();
    for _ in 0..policies {
        let text = text(&mut random);
        kernel::replace(&kernel::compile(&text));
        assert_eq!(probe.ask("profile custom.q"), "allow", "{text}");
        let mut lines = Vec::new();
        for _ in 0..60 {
            let (tried, asked) = question(&mut random, &paths);
            match probe.ask(&tried).as_str() {
                "skip" => {}
                answer @ ("allow" | "deny") => lines.push(format!("{answer} {asked}")),
                other => panic!("{tried}: {other} under\n{text}"),
            }
        }
        count(&mut counts, &lines);
        unequal.extend(compare(&case, &text, &lines));
    }
    drop(probe.input);
    probe.child.wait().unwrap();
    for (class, [allowed, denied]) in &counts {
        println!("{class}: {allowed} allowed, {denied} denied by the kernel");
    }
    let pairs: usize = counts.values().flatten().sum();
    println!("{pairs} pairs, {} unequal", unequal.len());
    assert!(unequal.is_empty(), "{}", unequal.join("\n"));
    if policies >= 30 {
        assert!(pairs >= 500, "too few");
        for (class, sides) in &counts {
            assert!(
                !sides.contains(&0) || class == "userns",
                "{class} shows one side only"
            );
        }
    }
}

/// By class, the questions that the kernel allows and those that it denies.
type Counts = BTreeMap<String, [usize; 2]>;

fn count(counts: &mut Counts, lines: &[String]) {
    for line in lines {
        let mut words = line.split(' ').filter(|word| *word != "owner");
        let denied = words.next() == Some("deny");
        let class = words.next().unwrap().to_owned();
        counts.entry(class).or_default()[usize::from(denied)] += 1;
    }
}

/// Asks armorer the kernel's questions; the lines on which they differ.
fn compare(case: &Case, text: &str, lines: &[String]) -> Vec<String> {
    let [file, list] = ["text", "list"].map(|name| case.dir.join(name));
    fs::write(&file, text).unwrap();
    fs::write(&list, lines.join("\n")).unwrap();
    let run = case.armorer(&[
        "can",
        file.to_str().unwrap(),
        "--expect",
        list.to_str().unwrap(),
    ]);
    let place = format!("{}:", list.display());
    let unequal: Vec<_> = run
        .said
        .lines()
        .filter(|said| said.contains(&place))
        .map(|said| {
            let number = said
                .split_once(&place)
                .and_then(|(_, rest)| rest.split_once(':'));
            let number = number.and_then(|(number, _)| number.parse::<usize>().ok());
            let line = number.and_then(|number| lines.get(number - 1));
            format!("the kernel: {line:?}; armorer: {said}\n{text}")
        })
        .collect();
    assert_eq!(
        run.code == 0,
        unequal.is_empty(),
        "{}: {}",
        run.code,
        run.said
    );
    unequal
}
