//! Every option, once; which commands take it, and under which heading their help shows it.

use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgValue, FromArgs};

use crate::profile::{Mode, quoted};

/// Keeps the AppArmor profiles of a node equal to the desired ones. One run is one pass.
#[derive(FromArgs, ArgsInfo, Debug)]
pub(super) struct Options {
    #[argh(positional)]
    pub(super) words: Vec<String>,
    /// options of acceptance rules that are given
    #[argh(option, hidden_help)]
    pub(super) rule: Vec<String>,

    /// re-base state, copies, metrics, securityfs and proc below this folder
    #[argh(option, arg_name = "DIR", default = "at(\"/\")")]
    pub(super) root: Absolute,
    /// where state and stored policies are [/var/lib/armorer]
    #[argh(option, arg_name = "DIR", default = "at(\"/var/lib/armorer\")")]
    pub(super) state_dir: Absolute,
    /// where securityfs is mounted [/sys/kernel/security]
    #[argh(option, arg_name = "DIR", default = "at(\"/sys/kernel/security\")")]
    pub(super) securityfs: Absolute,
    /// where the host's proc is mounted [/proc]
    #[argh(option, arg_name = "DIR", default = "at(\"/proc\")")]
    pub(super) proc: Absolute,
    /// the set of profiles; sets never touch each other's [default]
    #[argh(option, arg_name = "NAME")]
    pub(super) set: Option<SetName>,
    /// the log on stderr as text or json; RUST_LOG sets its level [text]
    #[argh(option, arg_name = "FORMAT", from_str_fn(format))]
    pub(super) log_format: Option<&'static str>,

    /// what each name begins with, '' for anything [custom.]
    #[argh(option, arg_name = "TEXT", default = "\"custom.\".to_owned()")]
    pub(super) prefix: String,
    /// the largest text [128KiB]
    #[argh(option, arg_name = "SIZE", default = "Size(128 << 10)")]
    pub(super) max_profile_size: Size,
    /// the most texts, and the most names that a set may own [4096]
    #[argh(option, arg_name = "N", default = "Count(4096)")]
    pub(super) max_profiles: Count,
    /// the most profiles, children and hats in one text [256]
    #[argh(option, arg_name = "N", default = "Count(256)")]
    pub(super) max_members: Count,
    /// processor time to compile one text [30s]
    #[argh(option, arg_name = "TIME", default = "Span::of(30)")]
    pub(super) max_compile_time: Span,

    /// the compiler [apparmor_parser in the usual folders]
    #[argh(option, arg_name = "FILE")]
    pub(super) parser: Option<Absolute>,
    /// the folder of included files
    #[argh(option, arg_name = "DIR", default = "at(\"/etc/apparmor.d\")")]
    pub(super) base: Absolute,
    /// compilers at once [as many as cores and memory allow]
    #[argh(option, arg_name = "N")]
    pub(super) jobs: Option<Count>,
    /// load all profiles in complain mode
    #[argh(switch)]
    pub(super) complain: bool,

    /// how long a profile is unwanted and unused before it is removed: 15m, 0s (as soon as unused) or never [15m]
    #[argh(
        option,
        arg_name = "TIME",
        default = "SpanOrNever(Some(Span::of(900)))"
    )]
    pub(super) remove_after: SpanOrNever,
    /// let an empty source remove the profiles that came from it
    #[argh(switch)]
    pub(super) allow_empty: bool,
    /// let other sources than the recorded ones remove profiles
    #[argh(switch)]
    pub(super) take_over: bool,
    /// take over loaded profiles of other programs whose names match (* and ?); repeatable
    #[argh(option, arg_name = "PATTERN")]
    pub(super) adopt: Vec<String>,

    /// how long the whole pass may take [5m]
    #[argh(option, arg_name = "TIME", default = "Span::of(300)")]
    pub(super) deadline: Span,
    /// how long to wait for another pass to end [30s]
    #[argh(option, arg_name = "TIME", default = "Span::of(30)")]
    pub(super) lock_timeout: Span,
    /// the result on stdout: text, json or github (check)
    #[argh(option, arg_name = "FORMAT", from_str_fn(format))]
    pub(super) output: Option<&'static str>,
    /// keep readable copies of the loaded texts in this folder
    #[argh(option, arg_name = "DIR")]
    pub(super) copy_to: Option<Absolute>,
    /// write figures for Prometheus to this file, at each pass
    #[argh(option, arg_name = "FILE")]
    pub(super) metrics_file: Option<Absolute>,
    /// the identity of the loop that repeats the pass: its probes ask for it, and its idle passes log hourly
    #[argh(option, arg_name = "ID")]
    pub(super) r#loop: Option<String>,

    /// the API server [in a pod: its cluster's]
    #[argh(option, arg_name = "URL")]
    pub(super) api_server: Option<String>,
    /// the file with the bearer token [in a pod: its ServiceAccount's]
    #[argh(option, arg_name = "FILE")]
    pub(super) token_file: Option<Absolute>,
    /// the certificates that the API server's is checked against [in a pod: its ServiceAccount's]
    #[argh(option, arg_name = "FILE")]
    pub(super) ca_file: Option<Absolute>,
    /// the name of this Kubernetes node [$NODE_NAME]
    #[argh(option, arg_name = "NAME")]
    pub(super) node_name: Option<String>,
    /// the name of this pod, in events [$POD_NAME]
    #[argh(option, arg_name = "NAME")]
    pub(super) pod_name: Option<String>,
    /// write changes and new problems as Events on the node
    #[argh(switch)]
    pub(super) events: bool,
    /// take this taint from the node when it is ready for the first time
    #[argh(option, arg_name = "KEY")]
    pub(super) clear_taint: Option<String>,
    /// label the node with the state and a digest of the profiles in force
    #[argh(switch)]
    pub(super) label_node: bool,

    /// exit 4 when a pass would change something
    #[argh(switch)]
    pub(super) exit_code: bool,
    /// self asks the kernel without any right, kernel reads securityfs [self]
    #[argh(option, arg_name = "WHERE", from_str_fn(asked_place))]
    pub(super) from: Option<&'static str>,
    /// the mode that each profile must be in, such as enforce (with --from kernel)
    #[argh(option, arg_name = "MODE")]
    pub(super) mode: Option<DesiredMode>,
    /// how long to wait [5m]
    #[argh(option, arg_name = "TIME", default = "Span::of(300)")]
    pub(super) timeout: Span,
    /// how often to ask [5s; with --from kernel 1s]
    #[argh(option, arg_name = "TIME")]
    pub(super) interval: Option<Span>,
    /// answer a Kubernetes probe: ready or live
    #[argh(option, arg_name = "PROBE", from_str_fn(probe))]
    pub(super) probe: Option<&'static str>,
    /// fail on less: on warnings (check), on refused and conflicting profiles (status --probe ready)
    #[argh(switch)]
    pub(super) strict: bool,
    /// seconds between the loop's passes [$POLL_TIME, 30]
    #[argh(option, arg_name = "SECONDS")]
    pub(super) poll_time: Option<Count>,
    /// the file in which the loop notes time and identity
    #[argh(option, arg_name = "FILE", default = "at(\"/run/armorer/loop\")")]
    pub(super) loop_heartbeat: Absolute,
    /// all that the set owns
    #[argh(switch)]
    pub(super) all: bool,
    /// remove even from under running processes, which are unconfined by it
    #[argh(switch)]
    pub(super) force: bool,
}

/// A heading, and the options below it.
pub(super) type Group = (&'static str, &'static str);

const PLACES: Group = ("Places", "root state-dir securityfs proc set log-format");
/// The options of [`crate::rules::SWITCHES`] belong here too.
pub(super) const RULES: Group = (
    "Acceptance",
    "prefix max-profile-size max-profiles max-members max-compile-time",
);
const COMPILER: Group = ("Compiler", "parser base jobs complain");
const REMOVAL: Group = (
    "Removal and ownership",
    "remove-after allow-empty take-over adopt",
);
const PASS: Group = (
    "Pass",
    "deadline lock-timeout output copy-to metrics-file loop",
);
const CLUSTER: Group = (
    "Kubernetes",
    "api-server token-file ca-file node-name pod-name events clear-taint label-node",
);

/// A command, its arguments, its purpose, its options.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) usage: &'static str,
    pub(super) help: &'static str,
    pub(super) groups: &'static [Group],
}

const fn command(
    name: &'static str,
    usage: &'static str,
    help: &'static str,
    groups: &'static [Group],
) -> Command {
    Command {
        name,
        usage,
        help,
        groups,
    }
}

const PLAN: Group = ("Plan", "exit-code");
const WAIT: Group = ("Wait", "from mode timeout interval");
const CHECK: Group = ("Check", "output strict");
const RESTORE: Group = ("Restore", "lock-timeout");
const REMOVE: Group = ("Remove", "all force remove-after lock-timeout");
const STATUS: Group = (
    "Status",
    "output probe strict poll-time deadline loop-heartbeat",
);

pub(super) const COMMANDS: [Command; 7] = [
    command(
        "reconcile",
        "[SOURCE...]",
        "One pass: load, replace and remove until the kernel holds what the sources hold",
        &[REMOVAL, RULES, COMPILER, PASS, CLUSTER, PLACES],
    ),
    command(
        "plan",
        "[SOURCE...]",
        "Print what a pass would do, and change nothing",
        &[PLAN, REMOVAL, RULES, COMPILER, PASS, CLUSTER, PLACES],
    ),
    command(
        "wait",
        "NAME...",
        "The gate: wait until every named profile is loaded",
        &[WAIT, PLACES],
    ),
    command(
        "status",
        "",
        "Show each profile, what the kernel holds, and how many processes it confines",
        &[STATUS, PLACES],
    ),
    command(
        "check",
        "PATH...",
        "Validate profiles without a kernel",
        &[CHECK, RULES, COMPILER, PLACES],
    ),
    command(
        "restore",
        "",
        "At boot: load the last good policies, without source, network or compiler",
        &[RESTORE, PLACES],
    ),
    command(
        "remove",
        "NAME... | --all",
        "Remove profiles that the set owns and no process uses",
        &[REMOVE, PLACES],
    ),
];

/// A value: `read` takes its text, or the text is not `expected`.
macro_rules! value {
    ($name:ident($type:ty), $expected:expr, $read:expr) => {
        #[derive(Clone, Debug)]
        pub(super) struct $name(pub(super) $type);

        impl FromArgValue for $name {
            fn from_arg_value(text: &str) -> Result<Self, String> {
                let read: fn(&str) -> Option<$type> = $read;
                let wrong = || format!("{} is not {}", quoted(text), $expected);
                read(text.trim()).map(Self).ok_or_else(wrong)
            }
        }
    };
}

value!(Absolute(PathBuf), "a path", |text| std::path::absolute(
    text
)
.ok());
value!(Span(Duration), "a time such as 30s, 15m or 2h", span);
value!(
    SpanOrNever(Option<Span>),
    "a time such as 15m, or never",
    |text| {
        match text {
            "never" => Some(None),
            text => span(text).map(|span| Some(Span(span))),
        }
    }
);
value!(Count(usize), "a whole number from 1 to 1000000", |text| {
    text.parse().ok().filter(|n| (1..=1_000_000).contains(n))
});
value!(Size(u64), "a size from 1 to 1024MiB such as 128KiB", size);
value!(
    DesiredMode(Mode),
    "enforce, complain, kill, prompt or unconfined",
    |text| {
        let mode = Mode::of(text);
        (!matches!(mode, Mode::Unknown | Mode::Mixed)).then_some(mode)
    }
);
value!(
    SetName(String),
    "a name of at most 63 small letters, digits and dashes",
    |text| {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = (1..=63).contains(&text.len()) && text.bytes().all(fits);
        fits.then(|| text.to_owned())
    }
);

impl Span {
    const fn of(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

fn at(path: &str) -> Absolute {
    Absolute(path.into())
}

/// At most a year.
fn span(text: &str) -> Option<Duration> {
    let span = humantime::parse_duration(text).ok()?;
    (span <= Duration::from_hours(366 * 24)).then_some(span)
}

fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "K" | "KiB" | "k" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    (1..=1 << 30).contains(&bytes).then_some(bytes)
}

/// The one of `words` that `text` is.
fn one_of(text: &str, words: &[&'static str]) -> Result<&'static str, String> {
    let known = words.iter().find(|word| **word == text.trim());
    let wrong = || format!("{} is not one of {}", quoted(text), words.join(", "));
    known.copied().ok_or_else(wrong)
}

fn format(text: &str) -> Result<&'static str, String> {
    one_of(text, &["text", "json", "github"])
}

fn asked_place(text: &str) -> Result<&'static str, String> {
    one_of(text, &["self", "kernel"])
}

fn probe(text: &str) -> Result<&'static str, String> {
    one_of(text, &["ready", "live"])
}
