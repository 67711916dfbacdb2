//! Hostile amounts: of includes, profiles, memory and loaded policy. Each is bounded, said, and harms no
//! other profile.

use std::fmt::Write as _;

use harness::{Node, Run, deeds, profile, sha256};

/// armorer with at most `mib` MiB of address space and 20 seconds of processor time, in each process.
fn limited(node: &Node, mib: u32, arguments: &[&str]) -> Run {
    let limits = format!("ulimit -v {}; ulimit -t 20; exec \"$@\"", mib * 1024);
    Run::of(&mut node.under(&["sh", "-c", &limits, "sh"], arguments))
}

#[test]
fn texts_full_of_includes_take_neither_memory_nor_time() {
    let node = Node::new();
    node.put("custom.good", profile("custom.good"));
    for (name, text) in [
        ("custom.open", "abi<;".repeat(8000)),
        ("custom.same", "include <a>\n".repeat(40_000)),
        (
            "custom.many",
            (0..40_000).fold(String::new(), |mut text, n| {
                let _ = writeln!(text, "include <{n}>");
                text
            }),
        ),
        ("custom.comment", "# include <a> ".repeat(30_000)),
        ("custom.words", "include ".repeat(60_000)),
    ] {
        node.put(name, text);
    }
    let plan = ["plan", "profiles", "--max-profile-size", "1MiB"];
    let run = limited(&node, 256, &plan).assert(1);
    run.line(&["+ load", "custom.good"]);
    assert!(run.stdout().ends_with("1 to load, 5 refused\n"), "{run}");
}

/// A text of `count` profiles.
fn profiles(count: usize) -> String {
    let further = (1..count).map(|n| format!("profile custom.many.{n} {{\n}}\n"));
    let further: String = further.collect();
    format!("profile custom.many {{\n}}\n{further}")
}

#[test]
fn a_text_defines_at_most_256_profiles_or_as_many_as_allowed() {
    let node = Node::new();
    node.put("custom.many", profiles(257));
    let run = node.plan(&[]).assert(1);
    run.line(&["✗ refused", "custom.many", "257", "256", "--max-members"]);
    node.plan(&["--max-members", "257"]).assert(0);
    node.put("custom.many", profiles(256));
    node.plan(&[]).assert(0);
}

#[test]
fn a_set_owns_at_most_as_many_names_as_allowed() {
    let node = Node::new();
    node.put("custom.many", profiles(10));
    node.put("custom.small", profile("custom.small"));
    node.plan(&["--max-profiles", "11"]).assert(0);
    let run = node.plan(&["--max-profiles", "10"]).assert(1);
    run.line(&["✗ refused", "10 profiles", "--max-profiles"]);
    assert!(run.stdout().ends_with("1 to load, 1 refused\n"), "{run}");
}

/// Where a kernel shows no hash, the policy itself is read; all profiles of one text share it.
#[test]
fn a_policy_that_many_profiles_share_is_read_once() {
    const SHARED: &str = "sys/kernel/security/apparmor/policy/raw_data/1/raw_data";
    let node = Node::new();
    node.write(SHARED, vec![b'x'; 8 << 20]);
    let mut names = String::new();
    for n in 0..1000 {
        let _ = writeln!(names, "custom.many.{n} (enforce)");
        let entry = format!("sys/kernel/security/apparmor/policy/profiles/custom.many.{n}.1");
        node.write(&format!("{entry}/name"), format!("custom.many.{n}\n"));
        node.link("../../raw_data/1/raw_data", &format!("{entry}/raw_data"));
    }
    node.write("sys/kernel/security/apparmor/profiles", names);
    node.put("custom.many.1", profile("custom.many.1"));
    // Each on its own it would be 8 GB.
    let run = limited(&node, 256, &["plan", "profiles"]).assert(1);
    run.line(&["! conflict", "custom.many.1"]);
}

/// Has the kernel of `node` hold `policy`, which brings `names`.
fn hold(node: &Node, names: &[String], policy: &[u8]) {
    const POLICY: &str = "sys/kernel/security/apparmor";
    let mut list = node.read(&format!("{POLICY}/profiles"));
    let hash = sha256(policy);
    for name in names {
        let _ = writeln!(list, "{name} (enforce)");
        let entry = format!("{POLICY}/policy/profiles/{name}.1");
        node.write(&format!("{entry}/name"), format!("{name}\n"));
        node.write(&format!("{entry}/raw_sha256"), format!("{hash}\n"));
    }
    node.write(&format!("{POLICY}/profiles"), list);
}

/// The policies together are larger than the memory.
#[test]
fn a_pass_over_many_texts_with_further_profiles_holds_few_policies_at_once() {
    const MEMORY: u32 = 32;
    const TEXTS: usize = 24;
    const MEMBERS: usize = 100;
    let node = Node::new();
    let member = |text, number| format!("custom.{text:02}.{number:03}");
    let head = format!("profile {} {{", member(0, 0));
    // One profile, given other names of the same length: the real compiler would take a minute for all.
    let one = node.compile(&paths(40, 20).replace("profile custom.large {", &head), &[]);
    let mut places = one.windows(member(0, 0).len());
    let at = places.position(|bytes| bytes == member(0, 0).as_bytes());
    let at = at.unwrap();
    let mut texts = Vec::new();
    for text in 0..TEXTS {
        let names: Vec<_> = (0..MEMBERS).map(|number| member(text, number)).collect();
        let mut policy = Vec::new();
        for name in &names {
            let start = policy.len() + at;
            policy.extend(&one);
            policy[start..start + name.len()].copy_from_slice(name.as_bytes());
        }
        node.write(&format!("base/{text}"), &policy);
        node.put(&names[0], deeds(&names[0], &[&format!("copy {text}")]));
        texts.push((names, policy));
    }
    let size: usize = texts.iter().map(|(_, policy)| policy.len()).sum();
    assert!(size > (MEMORY << 20) as usize, "{size}");
    let pass = ["reconcile", "profiles", "--parser", &node.stand_in()];
    // This kernel loads nothing by itself.
    let run = limited(&node, MEMORY, &pass).assert(1);
    let loads = run.stderr().lines().filter(|line| line.contains("+ load"));
    assert_eq!(loads.count(), TEXTS, "{run}");
    for (names, policy) in &texts {
        hold(&node, names, policy);
    }
    let run = limited(&node, MEMORY, &pass).assert(0);
    run.line(&["converged", &format!("{TEXTS} profiles in force")]);
    assert_eq!(
        node.set()["owned"].as_object().unwrap().len(),
        TEXTS * MEMBERS
    );
}

/// `count` paths of `length` digits without a common beginning, which take the compiler much memory.
fn paths(count: usize, length: usize) -> String {
    let rules = (0..count).map(|n| {
        let digits = sha256(n.to_string());
        format!("  /srv/{}/x r,\n", &digits[..length])
    });
    format!("profile custom.large {{\n{}}}\n", rules.collect::<String>())
}

/// So many compilers at once that each has the least that makes another worth starting.
const CROWDED: [&str; 2] = ["--jobs", "1000000"];

#[test]
fn a_text_that_takes_too_much_memory_is_refused_with_its_share_and_the_way_to_more() {
    let node = Node::new();
    node.put("custom.large", paths(9000, 38));
    let run = node
        .plan(&[&CROWDED[..], &["--max-profile-size", "1MiB"]].concat())
        .assert(1);
    let line = run.line(&[
        "✗ refused",
        "custom.large",
        "MiB of memory",
        "memory limit",
        "--jobs",
    ]);
    assert!(!line.contains("**"), "{line}");
}

#[test]
fn a_text_of_the_largest_size_fits_the_least_share_of_memory() {
    let node = Node::new();
    let text = paths(3900, 20);
    assert!(
        (126_000..=128 * 1024).contains(&text.len()),
        "{}",
        text.len()
    );
    node.put("custom.large", text);
    node.plan(&CROWDED).assert(0);
}

/// Each path of a line without an end runs on as far as a path may.
#[test]
fn paths_that_run_into_each_other_fill_no_state() {
    let node = Node::with(&["custom.good"]);
    for n in 0..3 {
        let includes = (0..2100).map(|m| format!("include <{n}_{m} "));
        node.put(&format!("custom.{n}"), includes.collect::<String>() + "\n");
    }
    let run = node.reconcile(&[]).assert(1);
    run.line(&["1 profile in force", "3 refused"]);
    let state = node.path("var/lib/armorer/state.json");
    let size = state.metadata().unwrap().len();
    assert!(size < 1 << 20, "the state has {size} bytes");
}

#[test]
fn many_files_that_are_passed_over_are_a_few_words() {
    let node = Node::with(&["custom.a"]);
    for n in 0..1000 {
        node.put(&format!("custom.{n}~"), "");
    }
    node.loop_pass("one", &[]).assert(0);
    let run = node.probe("ready", &[]).assert(0);
    run.line(&["custom.0~ is skipped", "997 more files"]);
    assert!(node.read("var/lib/armorer/status.json").len() < 4096);
}
