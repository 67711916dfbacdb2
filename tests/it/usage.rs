//! The command line: options, variables, and the answer to mistakes.

use harness::{Node, Run, armorer, assert_plain, run};
use insta::assert_snapshot;

#[test]
fn the_version_is_one_line() {
    let version = format!("armorer {}", env!("CARGO_PKG_VERSION"));
    for argument in ["--version", "-V"] {
        run(&[argument]).assert(0).prints(&[&version]);
    }
}

#[test]
fn help_names_commands_sources_and_exit_codes() {
    let help = run(&["--help"]).assert(0);
    assert_snapshot!(help.stdout(), @r#"
    armorer keeps the AppArmor profiles of a node equal to the desired ones.

    Usage: armorer COMMAND [OPTION...]

    Commands:
      reconcile               One pass: load, replace and remove profiles until the
                              desired ones are in force
      plan                    Print the changes of a pass without making them
      wait                    The gate: wait until every named profile is loaded
      status                  Show each profile, its state in the kernel and its
                              processes
      check                   Validate profiles without a kernel
      can                     Answer whether a profile allows an access, by its
                              compiled policy
      denials                 Show denials in kernel and audit logs, and the rules
                              that would allow them
      features                Print the features of this node's kernel, for check
                              --features
      restore                 At boot: load the last good policies, without source,
                              network or compiler
      remove                  Remove profiles that the set owns and no process uses

    Options of a command: armorer COMMAND --help. Each option is also a variable:
    --remove-after is ARMORER_REMOVE_AFTER. armorer --version prints the version.

    A SOURCE is a folder (a mounted ConfigMap, or any tree of files named like their
    profiles), configmap://NAMESPACE/NAME, or
    configmap://NAMESPACE?selector=KEY%3DVALUE.

    Exit status: 0 converged; 1 a profile is refused, failed, in conflict, blocked or
    missing; 2 bad usage; 3 could not run; 4 changes are pending (plan --exit-code).
    "#);
    for arguments in [["help"], ["-h"]] {
        assert_eq!(run(&arguments).assert(0).stdout(), help.stdout());
    }
}

#[test]
fn the_help_of_a_command_names_each_option_with_default_and_variable() {
    assert_snapshot!(run(&["help", "remove"]).assert(0).stdout(), @r#"
    Remove profiles that the set owns and no process uses.

    Usage: armorer remove [OPTION...] NAME... | --all

    Remove:
      --all                   remove all profiles that the set owns
                              ARMORER_ALL
      --force                 remove profiles in use too; their processes run on
                              unconfined
                              ARMORER_FORCE
      --remove-after TIME     how long a profile is unwanted and unused before it
                              is removed: 15m, 0s (as soon as unused) or never
                              [15m]
                              ARMORER_REMOVE_AFTER
      --lock-timeout TIME     how long to wait for another pass to end [30s]
                              ARMORER_LOCK_TIMEOUT

    Places:
      --root DIR              resolve state, copies, metrics, securityfs and proc
                              below this folder [/]
                              ARMORER_ROOT
      --state-dir DIR         the folder of state and stored policies
                              [/var/lib/armorer]
                              ARMORER_STATE_DIR
      --securityfs DIR        the mount point of securityfs [/sys/kernel/security]
                              ARMORER_SECURITYFS
      --proc DIR              the mount point of the host's proc [/proc]
                              ARMORER_PROC
      --set NAME              the set of profiles; sets never touch each other's
                              [default]
                              ARMORER_SET
      --log-format text|json  the log on stderr; RUST_LOG sets its level [text]
                              ARMORER_LOG_FORMAT
    "#);
    let help = run(&["wait", "-h"]).assert(0);
    assert_eq!(run(&["help", "wait"]).stdout(), help.stdout());
    help.line(&["--from self|kernel"]);
    help.line(&["how often to check", "[5s; with --from kernel 1s]"]);
    for (command, options) in [
        (
            "reconcile",
            "remove-after prefix max-profile-size jobs deadline copy-to events set",
        ),
        ("plan", "exit-code remove-after prefix deny-complain output"),
        ("status", "probe strict poll-time loop-heartbeat"),
        ("check", "strict output allow-attachment parser base"),
        ("restore", "lock-timeout state-dir"),
    ] {
        let help = run(&[command, "--help"]).assert(0);
        for option in options.split(' ') {
            help.line(&[&format!("  --{option}")]);
            help.line(&[&format!(
                "  ARMORER_{}",
                option.to_uppercase().replace('-', "_")
            )]);
        }
        let widest = help.stdout().lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{help}");
    }
}

#[test]
fn a_mistake_is_one_line_on_stderr() {
    for (arguments, words) in [
        (&[][..], &["no command"][..]),
        (&["bogus"], &["\"bogus\""]),
        (&["recconcile"], &["reconcile"]),
        (&["plan", "--nope"], &["\"nope\""]),
        (&["plan", "--remove-aftr", "0s"], &["--remove-after"]),
        (&["plan", "--probe", "ready"], &["--probe", "status"]),
        (&["plan", "-x"], &["\"-x\""]),
        (&["plan", "--nope\u{1b}[31m\nx"], &["nope\\u{1b}[31m"]),
        (&["reconcile", "--set"], &["--set"]),
        (&["plan", "--set", "a", "--set", "b", "/x"], &["--set"]),
        (&["plan", "/x", "--complain=no"], &["--complain"]),
        (&["status", "extra"], &["extra"]),
        (&["restore", "extra"], &["extra"]),
        (&["plan", "/x", "--output", "github"], &["github", "check"]),
    ] {
        let run = run(arguments).fails(2, words);
        assert!(run.stderr().starts_with("armorer: "), "{run}");
    }
}

#[test]
fn an_option_may_have_its_value_behind_an_equals_sign() {
    let node = Node::with(&["custom.a"]);
    node.plan(&[
        "--remove-after=0s",
        "--output=text",
        "--prefix=",
        "--adopt=*",
    ])
    .assert(0);
    node.plan(&["--remove-after=soon"])
        .fails(2, &["--remove-after", "\"soon\""]);
}

#[test]
fn words_behind_two_dashes_are_no_options() {
    let node = Node::with(&["custom.a"]);
    node.run(&["plan", "--", "--help"])
        .fails(3, &["--help does not exist"]);
}

#[test]
fn arguments_that_are_not_utf8_are_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let wrong = std::ffi::OsStr::from_bytes(b"a\xff");
    run(&[std::ffi::OsStr::new("plan"), wrong]).fails(2, &["UTF-8"]);
}

/// Wrong values, with words of the answer: for the option and for its variable.
#[test]
fn a_wrong_value_is_one_line_with_its_place_and_an_example() {
    let node = Node::with(&["custom.a"]);
    let (time, number) = ("a time such as", "a whole number from 1 to");
    let pass: &[(&str, &str, &str)] = &[
        ("remove-after", "soon", "never"),
        ("remove-after", "15", "15m"),
        ("lock-timeout", "-1s", time),
        ("deadline", "5", time),
        ("deadline", "1000000y", time),
        ("max-compile-time", "1 fortnight", time),
        ("max-profile-size", "0", "128KiB"),
        ("max-profile-size", "many", "128KiB"),
        ("max-profiles", "0", number),
        ("max-members", "-3", number),
        ("jobs", "0", number),
        ("output", "yaml", "json"),
        ("log-format", "xml", "json"),
        ("set", "../x", "letters"),
        ("set", "A", "letters"),
    ];
    let wait: &[(&str, &str, &str)] = &[
        ("from", "moon", "kernel"),
        ("timeout", "x", time),
        ("interval", "x", time),
        ("mode", "strict", "enforce, complain"),
    ];
    let status: &[(&str, &str, &str)] =
        &[("probe", "healthy", "ready"), ("poll-time", "0", number)];
    let source = node.source();
    for (command, values) in [
        (&["plan", source.as_str()][..], pass),
        (&["reconcile", &source], pass),
        (&["wait", "custom.a"], wait),
        (&["status"], status),
        (&["check", &source], &[("output", "table2", "github")]),
        (&["remove", "custom.a"], &[("remove-after", "x", "15m")]),
        (&["restore"], &[("lock-timeout", "x", time)]),
    ] {
        for (option, value, words) in values {
            let place = format!("--{option}");
            let shown = format!("\"{value}\"");
            node.run(&[command, &[&place, value]].concat())
                .fails(2, &[&place, &shown, words]);
            let variable = format!("ARMORER_{}", option.to_uppercase().replace('-', "_"));
            node.run_with(command, &[(&variable, value)])
                .fails(2, &[&variable, &shown, words]);
        }
    }
    assert!(!node.exists("var"), "the state folder was made");
}

#[test]
fn a_variable_of_a_switch_is_true_or_false() {
    let node = Node::with(&["custom.a"]);
    for variable in [
        "ALLOW_EMPTY",
        "ALLOW_ATTACHMENT",
        "ALLOW_UNCONFINED",
        "DENY_COMPLAIN",
        "COMPLAIN",
        "TAKE_OVER",
        "EXIT_CODE",
    ] {
        let variable = format!("ARMORER_{variable}");
        let plan = ["plan", &node.source()];
        node.run_with(&plan, &[(&variable, "perhaps")])
            .fails(2, &[&variable, "\"perhaps\"", "true or false"]);
        node.run_with(&plan, &[(&variable, "false")]).assert(0);
    }
    node.run_with(&["remove"], &[("ARMORER_ALL", "perhaps")])
        .fails(2, &["ARMORER_ALL", "\"perhaps\""]);
}

#[test]
fn a_misspelt_variable_is_an_error_that_names_the_nearest_and_a_warning_in_a_pass() {
    let node = Node::with(&["custom.a"]);
    let wrong = [("ARMORER_REMOVE_AFTR", "never")];
    for command in [
        &["plan", "profiles"][..],
        &["status"],
        &["check", "profiles"],
        &["restore"],
        &["remove", "x"],
    ] {
        node.run_with(command, &wrong)
            .fails(2, &["ARMORER_REMOVE_AFTR", "ARMORER_REMOVE_AFTER"]);
    }
    let run = node.run_with(&["reconcile", "profiles"], &wrong).assert(0);
    run.line(&["warning", "ARMORER_REMOVE_AFTR", "ARMORER_REMOVE_AFTER"]);
    // Variables of other commands, of the scripts, and those that the kubelet sets for services.
    for variable in [
        "ARMORER_TIMEOUT",
        "ARMORER_WAIT_FOR",
        "ARMORER_SERVICE_HOST",
        "ARMORER_METRICS_SERVICE_PORT",
        "ARMORER_METRICS_PORT_9478_TCP_ADDR",
        "ARMORER_PORT",
        "ARMORER_SERVICE_PORT_METRICS",
    ] {
        node.run_with(&["plan", "profiles"], &[(variable, "1s")])
            .assert(0);
    }
}

#[test]
fn an_empty_variable_is_a_value() {
    let node = Node::new();
    node.put("other", "profile other {\n}\n");
    node.plan(&[]).assert(1);
    node.run_with(&["plan", "profiles"], &[("ARMORER_PREFIX", "")])
        .assert(0)
        .line(&["+ load", "other"]);
    node.run_with(&["plan", "profiles"], &[("ARMORER_SET", "")])
        .fails(2, &["ARMORER_SET", "\"\""]);
}

#[test]
fn a_wrong_poll_time_is_named_as_it_was_given() {
    let node = Node::new();
    let run = node
        .run_with(&["status"], &[("POLL_TIME", "0")])
        .fails(2, &["POLL_TIME", "\"0\""]);
    run.lacks("ARMORER_POLL_TIME");
}

#[test]
fn a_variable_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let node = Node::with(&["custom.a"]);
    let wrong = std::ffi::OsStr::from_bytes(b"a\xff");
    for variable in ["ARMORER_STATE_DIR", "PROFILES_DIR"] {
        Run::of(node.command(&["plan"]).env(variable, wrong)).fails(2, &[variable, "UTF-8"]);
    }
}

#[test]
fn a_source_must_be_named() {
    let node = Node::new();
    for command in ["plan", "reconcile"] {
        node.run(&[command])
            .fails(2, &["no source", "PROFILES_DIR"]);
        node.run(&[command, ""]).fails(2, &["\"\""]);
        node.run(&[command, "/a", "/a"])
            .fails(2, &["\"/a\"", "twice"]);
        node.run(&[command, "ftp://x"]).fails(2, &["\"ftp://x\""]);
        node.run(&[command, "configmap://x"])
            .fails(2, &["\"configmap://x\"", "configmap://NAMESPACE/NAME"]);
    }
}

#[test]
fn names_and_paths_must_be_given() {
    let node = Node::new();
    node.run(&["wait"])
        .fails(2, &["no profile", "ARMORER_WAIT_FOR"]);
    for wrong in ["", "a\u{1b}[2J", &"x".repeat(255), "a,b", "custom.*"] {
        node.run(&["wait", wrong]).assert(2);
    }
    node.run(&["wait", "localhost/custom.a"])
        .fails(2, &["\"localhost/custom.a\"", "without localhost/"]);
    node.run(&["wait", "x", "--mode", "enforce"])
        .fails(2, &["--mode", "--from kernel"]);
    node.run(&["remove"]).fails(2, &["--all"]);
    node.run(&["remove", "--all", "custom.a"])
        .fails(2, &["--all"]);
    node.run(&["check"]).fails(2, &["no path"]);
}

#[test]
fn an_option_wins_over_its_variable() {
    let node = Node::with(&["custom.a"]);
    let run = node.run_with(
        &["plan", "profiles", "--output", "text"],
        &[("ARMORER_OUTPUT", "json")],
    );
    run.assert(0).line(&["= own", "custom.a"]);
    let env = [("ARMORER_SET", "variable"), ("PROFILES_DIR", "/nowhere")];
    node.run_with(&["reconcile", "profiles", "--set", "option"], &env)
        .assert(0);
    assert!(node.state()["sets"]["option"].is_object());
    assert!(node.state()["sets"]["variable"].is_null());
    // A repeatable one as a whole.
    node.load("custom.a", "profile custom.a {\n}\n");
    let plan = ["plan", "profiles", "--set", "new", "--adopt", "none"];
    node.run_with(&plan, &[("ARMORER_ADOPT", "custom.*")])
        .assert(1);
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
    let mut command = armorer(&["reconcile"]);
    command
        .env("ARMORER_ROOT", node.path(""))
        .env("ARMORER_STATE_DIR", "/state")
        .env("ARMORER_SECURITYFS", "/elsewhere/securityfs")
        .env("ARMORER_PROC", "/elsewhere/proc")
        .env("ARMORER_BASE", node.path("base"))
        .env("ARMORER_COPY_TO", "/copies")
        .env("ARMORER_NODE_NAME", "ours")
        .env("NODE_NAME", "theirs")
        .env("PROFILES_DIR", node.source())
        .env("ARMORER_LOG_FORMAT", "json")
        .env("ARMORER_OUTPUT", "json");
    let run = Run::of(&mut command).assert(0);
    assert_eq!(run.events().last().unwrap()["action"], "pass");
    assert_eq!(run.json()["in_force"], 1);
    assert!(node.exists("copies/custom.a"));
    assert!(node.read("state/state.json").contains("\"node\":\"ours\""));
}

#[test]
fn settings_come_from_variables_too() {
    let node = Node::new();
    node.put("custom.u", "profile custom.u flags=(unconfined) {\n}\n");
    node.put("custom.x", "profile custom.x /usr/bin/x {\n file,\n}\n");
    node.put("other", "profile other {\n file,\n}\n");
    let plan = |env: &[(&str, &str)]| node.run_with(&["plan", &node.source()], env);
    let refused = |env: &[(&str, &str)]| plan(env).stdout().matches("✗ refused").count();
    assert_eq!(refused(&[]), 3);
    assert_eq!(refused(&[("ARMORER_ALLOW_UNCONFINED", "true")]), 2);
    assert_eq!(refused(&[("ARMORER_ALLOW_ATTACHMENT", "1")]), 2);
    assert_eq!(refused(&[("ARMORER_PREFIX", "oth")]), 2);
    assert_eq!(refused(&[("ARMORER_MAX_PROFILE_SIZE", "40")]), 3);
    plan(&[("ARMORER_MAX_PROFILES", "2")]).fails(3, &["2 profiles", "--max-profiles"]);
    plan(&[("ARMORER_PARSER", "/nowhere")]).fails(3, &["no compiler at /nowhere"]);
    plan(&[
        ("ARMORER_ALLOW_ATTACHMENT", "yes"),
        ("ARMORER_EXIT_CODE", "on"),
    ])
    .assert(4);
    plan(&[("ARMORER_DEADLINE", "0s")])
        .assert(1)
        .line(&["✗ failed", "custom.x", "--deadline"]);
}

#[test]
fn several_patterns_come_from_one_variable() {
    let node = Node::with(&["custom.a"]);
    let plan = |env: &[(&str, &str)]| node.run_with(&["plan", &node.source()], env);
    plan(&[]).assert(0).line(&["= own", "custom.a"]);
    // Its contents are no proof any more.
    let complain = ("ARMORER_COMPLAIN", "true");
    plan(&[complain])
        .assert(1)
        .line(&["! conflict", "custom.a"]);
    plan(&[complain, ("ARMORER_ADOPT", "none custom.*")])
        .assert(0)
        .line(&["~ replace", "custom.a", "--adopt"]);
}

#[test]
fn no_message_holds_anything_that_a_terminal_obeys() {
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
    let unknown = node
        .run_with(&["plan", "/x"], &[("ARMORER_\u{1b}[31m", "x")])
        .assert(2);
    assert_plain(unknown.stderr());
}
