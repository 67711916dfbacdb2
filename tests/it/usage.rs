//! The command line: flags, variables, and what is said to those who get them wrong.

use crate::node::{Node, assert_plain, profile, run};

const COMMANDS: [&str; 7] = [
    "reconcile",
    "plan",
    "wait",
    "status",
    "check",
    "restore",
    "remove",
];

const COMMON: [&str; 7] = [
    "--root",
    "--state-dir",
    "--securityfs",
    "--proc",
    "--set",
    "--log-format",
    "--termination-log",
];

const RULES: [&str; 9] = [
    "--prefix",
    "--allow-attachment",
    "--allow-unconfined",
    "--max-profile-size",
    "--max-profiles",
    "--compile-timeout",
    "--jobs",
    "--parser",
    "--base",
];

const PASS: [&str; 11] = [
    "--remove-after",
    "--allow-empty",
    "--complain",
    "--adopt",
    "--take-over",
    "--copy-to",
    "--metrics-file",
    "--lock-timeout",
    "--deadline",
    "--node-name",
    "--output",
];

#[test]
fn the_version_is_one_line() {
    let version = format!("armorer {}", env!("CARGO_PKG_VERSION"));
    for argument in ["--version", "-V"] {
        run(&[argument]).assert(0).prints(&[&version]);
    }
}

#[test]
fn help_names_every_command_and_every_exit_code() {
    for arguments in [["--help"], ["help"]] {
        let help = run(&arguments).assert(0);
        for command in COMMANDS {
            assert!(help.stdout().contains(&format!("\n  {command}")), "{help}");
        }
        for words in [
            "0 converged",
            "1 a profile is refused",
            "2 bad usage",
            "3 could not run",
            "4 changes are pending",
            "ARMORER_REMOVE_AFTER",
            "--version",
        ] {
            assert!(help.stdout().contains(words), "{words}: {help}");
        }
    }
}

#[test]
fn each_commands_help_names_every_option_with_its_default() {
    let pass = [&COMMON[..], &RULES, &PASS].concat();
    let options: [(&str, Vec<&str>); 7] = [
        ("reconcile", pass.clone()),
        ("plan", [&pass[..], &["--exit-code"]].concat()),
        (
            "wait",
            [
                &COMMON[..],
                &["--from", "--timeout", "--interval", "--mode"],
            ]
            .concat(),
        ),
        (
            "status",
            [
                &COMMON[..],
                &[
                    "--output",
                    "--probe",
                    "--poll-time",
                    "--deadline",
                    "--strict",
                    "--loop-heartbeat",
                ],
            ]
            .concat(),
        ),
        (
            "check",
            [&COMMON[..], &RULES, &["--output", "--strict"]].concat(),
        ),
        ("restore", [&COMMON[..], &["--lock-timeout"]].concat()),
        (
            "remove",
            [
                &COMMON[..],
                &["--all", "--force", "--remove-after", "--lock-timeout"],
            ]
            .concat(),
        ),
    ];
    for (command, options) in options {
        let help = run(&[command, "--help"]).assert(0);
        for option in options {
            assert!(
                help.stdout().contains(&format!("\n  {option}")),
                "{option}: {help}"
            );
        }
    }
}

#[test]
fn wrong_words_are_one_line_on_stderr() {
    for (arguments, words) in [
        (&[][..], "no command"),
        (&["bogus"], "bogus"),
        (&["plan", "--nope"], "--nope"),
        (&["plan", "--nope\u{1b}[31m\nx"], "--nope\\u{1b}[31m"),
        (&["reconcile", "--set"], "--set"),
        (&["plan", "--set", "a", "--set", "b", "/x"], "--set"),
        (&["status", "extra"], "extra"),
        (&["restore", "extra"], "extra"),
    ] {
        let run = run(arguments).fails(2, &[words]);
        assert!(run.stderr().contains("armorer"), "{run}");
    }
}

#[test]
fn an_option_may_have_its_value_behind_an_equals_sign() {
    let node = Node::with(&["custom.a"]);
    node.plan(&["--remove-after=0s", "--output=text", "--prefix="])
        .assert(0);
    node.plan(&["--remove-after=soon"])
        .fails(2, &["--remove-after is \"soon\""]);
    node.plan(&["--nope=soon"]).fails(2, &["--nope"]);
}

#[test]
fn arguments_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let wrong = std::ffi::OsStr::from_bytes(b"a\xff");
    run(&[std::ffi::OsStr::new("plan"), wrong]).fails(2, &["UTF-8"]);
}

/// Wrong values, with the words that answer each: for the flag, and for its variable.
#[test]
fn a_wrong_value_is_one_line_that_names_the_place_and_what_to_give() {
    let node = Node::with(&["custom.a"]);
    let profiles = node.profiles();
    let time = "give a time such as";
    let pass: &[(&str, &str, &str)] = &[
        (
            "remove-after",
            "soon",
            "15m, 0s for as soon as unused, or never",
        ),
        ("remove-after", "15", "15m"),
        ("lock-timeout", "-1s", time),
        ("deadline", "5", time),
        ("compile-timeout", "1.5s", time),
        ("max-profile-size", "0", "512KiB"),
        ("max-profile-size", "many", "512KiB"),
        ("max-profiles", "0", "a whole number from 1 to"),
        ("max-profiles", "-3", "a whole number from 1 to"),
        ("jobs", "0", "a whole number from 1 to 256"),
        ("jobs", "257", "a whole number from 1 to 256"),
        ("output", "yaml", "give text or json"),
        ("output", "github", "give text or json"),
        ("log-format", "xml", "give text or json"),
        ("set", "../x", "a set's name"),
        ("set", "A", "a set's name"),
    ];
    let wait: &[(&str, &str, &str)] = &[
        ("from", "moon", "self, kernel or state"),
        ("timeout", "x", time),
        ("interval", "x", time),
        ("mode", "strict", "enforce, complain"),
    ];
    let status: &[(&str, &str, &str)] = &[
        ("output", "text", "table or json"),
        ("probe", "healthy", "ready or live"),
        ("poll-time", "0", "a whole number from 1 to 86400"),
        ("poll-time", "86401", "a whole number from 1 to 86400"),
    ];
    let check: &[(&str, &str, &str)] = &[("output", "table", "text, json or github")];
    let remove: &[(&str, &str, &str)] =
        &[("remove-after", "x", "15m"), ("lock-timeout", "x", time)];
    for (command, values) in [
        (&["plan", profiles.as_str()][..], pass),
        (&["reconcile", &profiles], pass),
        (&["wait", "custom.a"], wait),
        (&["status"], status),
        (&["check", &profiles], check),
        (&["remove", "custom.a"], remove),
        (&["restore"], &[("lock-timeout", "x", time)]),
    ] {
        for (flag, value, words) in values {
            let option = format!("--{flag}");
            let mut arguments = command.to_vec();
            arguments.extend([option.as_str(), value]);
            let place = format!("{option} is \"{value}\"");
            node.run(&arguments).fails(2, &[&place, words]);
            let variable = format!("ARMORER_{}", flag.to_uppercase().replace('-', "_"));
            let place = format!("{variable} is \"{value}\"");
            node.run_with(command, &[(&variable, value)])
                .fails(2, &[&place, words]);
        }
    }
    assert!(!node.exists("var"), "nothing was touched");
}

#[test]
fn a_wrong_switch_in_a_variable_is_one_line() {
    let node = Node::with(&["custom.a"]);
    for variable in [
        "ARMORER_ALLOW_EMPTY",
        "ARMORER_ALLOW_ATTACHMENT",
        "ARMORER_ALLOW_UNCONFINED",
        "ARMORER_COMPLAIN",
        "ARMORER_TAKE_OVER",
        "ARMORER_EXIT_CODE",
    ] {
        node.run_with(&["plan", &node.profiles()], &[(variable, "perhaps")])
            .fails(
                2,
                &[&format!("{variable} is \"perhaps\": give true or false")],
            );
    }
    for variable in ["ARMORER_ALL", "ARMORER_FORCE"] {
        node.run_with(&["remove"], &[(variable, "perhaps")])
            .fails(2, &[&format!("{variable} is \"perhaps\"")]);
    }
    for command in [&["status", "--probe", "ready"][..], &["check", "profiles"]] {
        node.run_with(command, &[("ARMORER_STRICT", "perhaps")])
            .fails(2, &["ARMORER_STRICT is \"perhaps\""]);
    }
}

#[test]
fn a_wrong_poll_time_is_told_by_the_name_it_has() {
    let node = Node::new();
    node.run_with(&["status"], &[("POLL_TIME", "0")])
        .fails(2, &["POLL_TIME is \"0\""])
        .stderr()
        .contains("ARMORER_POLL_TIME")
        .then(|| panic!("the variable is POLL_TIME"));
}

#[test]
fn a_variable_that_is_no_text_is_refused_and_not_passed_over() {
    use std::os::unix::ffi::OsStrExt as _;
    let node = Node::with(&["custom.a"]);
    let wrong = std::ffi::OsStr::from_bytes(b"a\xff");
    for variable in ["ARMORER_STATE_DIR", "PROFILES_DIR"] {
        let mut command = node.command(&["plan"]);
        command.env(variable, wrong);
        crate::node::Run(command.output().unwrap()).fails(2, &[variable, "UTF-8"]);
    }
}

#[test]
fn a_source_must_be_named() {
    let node = Node::new();
    for command in ["plan", "reconcile"] {
        node.run(&[command])
            .fails(2, &["no source", "PROFILES_DIR"]);
        node.run(&[command, ""]).fails(2, &["a source is empty"]);
        node.run(&[command, "/a", "/a"])
            .fails(2, &["\"/a\" is named twice"]);
        node.run(&[command, "ftp://x"]).fails(2, &["\"ftp://x\""]);
    }
}

#[test]
fn names_must_be_given_to_wait_and_remove_and_paths_to_check() {
    let node = Node::new();
    node.run(&["wait"]).fails(2, &["no profile named"]);
    node.run(&["wait", ""])
        .fails(2, &["cannot be a profile's name"]);
    node.run(&["wait", "a\u{1b}[2J"])
        .fails(2, &["\"a\\u{1b}[2J\" cannot be"]);
    node.run(&["wait", &"x".repeat(255)])
        .fails(2, &["cannot be a profile's name"]);
    node.run(&["wait", "x", "--mode", "enforce"])
        .fails(2, &["--mode needs --from kernel or --from state"]);
    node.run(&["remove"])
        .fails(2, &["name the profiles to remove, or give --all"]);
    node.run(&["remove", "--all", "custom.a"])
        .fails(2, &["name the profiles to remove, or give --all"]);
    node.run(&["check"]).fails(2, &["no path"]);
}

#[test]
fn a_usage_error_goes_to_the_termination_log_too() {
    let node = Node::new();
    let log = node.arg("termination");
    for arguments in [
        &["plan", "/x", "--jobs", "0"][..],
        &["plan", "/x", "--set", "A"],
    ] {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--termination-log", &log]);
        node.run(&arguments).assert(2);
        assert!(node.read("termination").contains(arguments[2]));
        node.remove("termination");
    }
}

#[test]
fn the_flag_wins_over_its_variable() {
    let node = Node::with(&["custom.a"]);
    let run = node.run_with(
        &["plan", &node.profiles(), "--output", "text"],
        &[("ARMORER_OUTPUT", "json")],
    );
    run.assert(0).prints(&[
        "= own       custom.a: what is loaded is what is wanted",
        "1 own",
    ]);
    node.run_with(
        &["reconcile", &node.profiles(), "--set", "flag"],
        &[("ARMORER_SET", "variable"), ("PROFILES_DIR", "/nowhere")],
    )
    .assert(0);
    assert!(node.state()["sets"]["flag"].is_object());
    assert!(node.state()["sets"]["variable"].is_null());
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let node = Node::with(&["custom.a"]);
    let empty = ["SET", "OUTPUT", "REMOVE_AFTER", "PREFIX", "STATE_DIR"]
        .map(|name| format!("ARMORER_{name}"));
    let env: Vec<(&str, &str)> = empty.iter().map(|name| (name.as_str(), "")).collect();
    node.run_with(&["reconcile", &node.profiles()], &env)
        .assert(0);
    assert!(node.state()["sets"]["default"].is_object());
}

#[test]
fn places_come_from_variables_too() {
    let node = Node::with(&["custom.a"]);
    node.folder("elsewhere");
    std::fs::rename(
        node.path("sys/kernel/security"),
        node.path("elsewhere/securityfs"),
    )
    .unwrap();
    std::fs::rename(node.path("proc"), node.path("elsewhere/proc")).unwrap();
    node.folder("proc/self");
    for file in ["status", "uid_map"] {
        let text = node.read(&format!("elsewhere/proc/self/{file}"));
        node.write(&format!("proc/self/{file}"), text);
    }
    let root = node.arg("");
    let profiles = node.profiles();
    let run = crate::node::Run(
        crate::node::armorer(&["reconcile"])
            .env("ARMORER_ROOT", &root)
            .env("ARMORER_STATE_DIR", "/state")
            .env("ARMORER_SECURITYFS", "/elsewhere/securityfs")
            .env("ARMORER_PROC", "/elsewhere/proc")
            .env("ARMORER_BASE", node.arg("base"))
            .env("ARMORER_COPY_TO", "/copies")
            .env("ARMORER_NODE_NAME", "ours")
            .env("NODE_NAME", "theirs")
            .env("PROFILES_DIR", &profiles)
            .env("ARMORER_LOG_FORMAT", "json")
            .env("ARMORER_OUTPUT", "json")
            .output()
            .unwrap(),
    )
    .assert(0);
    // The folder for the copies is not there: a warning.
    assert!(run.events().iter().any(|event| event["action"] == "copy"));
    assert_eq!(run.json()["in_force"], 1);
    assert!(node.read("state/state.json").contains("\"node\":\"ours\""));
}

#[test]
fn settings_come_from_variables_too() {
    let node = Node::new();
    node.want("custom.u", "profile custom.u flags=(unconfined) {\n}\n");
    node.want("custom.x", "profile custom.x /usr/bin/x {\n file,\n}\n");
    node.want("other", "profile other {\n file,\n}\n");
    let plan = |env: &[(&str, &str)]| node.run_with(&["plan", &node.profiles()], env);
    let refused = |env: &[(&str, &str)]| plan(env).stdout().matches("refused ").count();
    assert_eq!(refused(&[]), 3);
    assert_eq!(refused(&[("ARMORER_ALLOW_UNCONFINED", "true")]), 2);
    assert_eq!(refused(&[("ARMORER_ALLOW_ATTACHMENT", "1")]), 2);
    assert_eq!(refused(&[("ARMORER_PREFIX", "''")]), 2);
    assert_eq!(refused(&[("ARMORER_PREFIX", "oth")]), 2);
    assert_eq!(refused(&[("ARMORER_MAX_PROFILE_SIZE", "40")]), 3);
    plan(&[("ARMORER_MAX_PROFILES", "2")]).fails(3, &["more than 2 profiles", "--max-profiles"]);
    plan(&[("ARMORER_PARSER", "/nowhere")]).fails(3, &["no compiler at /nowhere"]);
    plan(&[("ARMORER_BASE", "/nowhere"), ("ARMORER_JOBS", "1")]).assert(1);
    plan(&[
        ("ARMORER_ALLOW_ATTACHMENT", "yes"),
        ("ARMORER_EXIT_CODE", "on"),
    ])
    .assert(4);
    let late = plan(&[("ARMORER_DEADLINE", "0s")]).assert(1);
    assert!(
        late.stdout().contains("the time for this pass was up"),
        "{late}"
    );
}

#[test]
fn complain_from_a_variable_compiles_in_complain_mode() {
    let node = Node::with(&["custom.a"]);
    let plan = |env: &[(&str, &str)]| node.run_with(&["plan", &node.profiles()], env).assert(0);
    assert!(plan(&[]).stdout().starts_with("= own"));
    // No proof any more: what would be loaded differs.
    let run = node.run_with(&["plan", &node.profiles()], &[("ARMORER_COMPLAIN", "true")]);
    assert!(run.assert(1).stdout().starts_with("! conflict"));
    let run = plan(&[
        ("ARMORER_COMPLAIN", "true"),
        ("ARMORER_ADOPT", "nobody custom.*"),
    ]);
    assert!(run.stdout().contains("taken over by --adopt"), "{run}");
}

#[test]
fn several_patterns_may_be_adopted() {
    let node = Node::new();
    for name in ["custom.a", "custom.b", "custom.c"] {
        node.want(name, profile(name));
        node.load(name, "profile custom.other {\n}\n");
    }
    let run = node
        .plan(&[
            "--adopt",
            "custom.a",
            "--adopt",
            "custom.[b]",
            "--adopt",
            "*.c",
        ])
        .assert(1);
    assert_eq!(run.stdout().matches("~ replace").count(), 2, "{run}");
    assert!(run.stdout().contains("! conflict  custom.b"), "{run}");
    assert!(
        run.stdout().ends_with("2 to replace, 1 conflict\n"),
        "{run}"
    );
}

#[test]
fn what_is_said_holds_nothing_that_a_terminal_obeys() {
    let node = Node::new();
    for arguments in [
        &["plan", "/\u{1b}[31m"][..],
        &["plan", "/x", "--set", "\u{1b}[31m"],
        &["plan", "/x", "--state-dir", "/\u{1b}[31m"],
        &["plan", "/x", "--securityfs", "/\u{1b}[31m"],
        &["plan", "/x", "--parser", "/\u{1b}[31m"],
        &["check", "/\u{1b}[31m"],
        &[
            "status",
            "--probe",
            "live",
            "--loop-heartbeat",
            "/\u{1b}[31m",
        ],
        &["\u{1b}[31m"],
    ] {
        let run = node.run(arguments);
        assert_ne!(run.code(), 0, "{run}");
        assert_plain(run.stdout());
        assert_plain(run.stderr());
        assert_eq!(
            run.stderr().lines().count() + run.stdout().lines().count(),
            1,
            "{run}"
        );
    }
}
