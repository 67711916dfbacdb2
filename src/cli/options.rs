//! Every option, once, with its commands and its heading in their help.

use std::{path::PathBuf, time::Duration};

use argh::{ArgsInfo, FromArgs};

use crate::profile::{Mode, quoted};
use crate::rules::SWITCHES;

/// Keeps the AppArmor profiles of a node equal to the desired ones. One run is one pass.
///
/// Help ends with the default in brackets, but that of an `Option`, a list or a switch.
#[derive(FromArgs, ArgsInfo, Debug)]
pub(super) struct Options {
    #[argh(positional)]
    pub(super) words: Vec<String>,
    /// the given options of acceptance rules
    #[argh(option, hidden_help)]
    pub(super) rule: Vec<String>,

    /// resolve state, copies, metrics, securityfs and proc below this folder [/]
    #[argh(option, arg_name = "DIR", from_str_fn(path))]
    pub(super) root: PathBuf,
    /// the folder of state and stored policies [/var/lib/armorer]
    #[argh(option, arg_name = "DIR", from_str_fn(path))]
    pub(super) state_dir: PathBuf,
    /// the mount point of securityfs [/sys/kernel/security]
    #[argh(option, arg_name = "DIR", from_str_fn(path))]
    pub(super) securityfs: PathBuf,
    /// the mount point of the host's proc [/proc]
    #[argh(option, arg_name = "DIR", from_str_fn(path))]
    pub(super) proc: PathBuf,
    /// the set of profiles; sets never touch each other's [default]
    #[argh(option, arg_name = "NAME", from_str_fn(set_name))]
    pub(super) set: Option<String>,
    /// the log on stderr; RUST_LOG sets its level [text]
    #[argh(option, arg_name = "text|json")]
    pub(super) log_format: String,

    /// the prefix that each name must have, '' for none [custom.]
    #[argh(option, arg_name = "TEXT")]
    pub(super) prefix: String,
    /// the largest text [128KiB]
    #[argh(option, arg_name = "SIZE", from_str_fn(size))]
    pub(super) max_profile_size: u64,
    /// the most texts, and the most names that a set may own [4096]
    #[argh(option, arg_name = "N", from_str_fn(count))]
    pub(super) max_profiles: usize,
    /// the most profiles, children and hats in one text [256]
    #[argh(option, arg_name = "N", from_str_fn(count))]
    pub(super) max_members: usize,
    /// processor time to compile one text [30s]
    #[argh(option, arg_name = "TIME", from_str_fn(span))]
    pub(super) max_compile_time: Duration,

    /// the compiler [apparmor_parser in the usual folders]
    #[argh(option, arg_name = "FILE", from_str_fn(path))]
    pub(super) parser: Option<PathBuf>,
    /// the folder of included files [/etc/apparmor.d]
    #[argh(option, arg_name = "DIR", from_str_fn(path))]
    pub(super) base: PathBuf,
    /// compilers at once [as many as cores and memory allow]
    #[argh(option, arg_name = "N", from_str_fn(count))]
    pub(super) jobs: Option<usize>,
    /// load all profiles in complain mode
    #[argh(switch)]
    pub(super) complain: bool,

    /// how long a profile is unwanted and unused before it is removed: 15m, 0s (as soon as unused) or never [15m]
    #[argh(option, arg_name = "TIME", from_str_fn(span_or_never))]
    pub(super) remove_after: SpanOrNever,
    /// let an empty source remove the profiles that came from it
    #[argh(switch)]
    pub(super) allow_empty: bool,
    /// let sources other than the recorded ones remove profiles
    #[argh(switch)]
    pub(super) take_over: bool,
    /// take over other programs' loaded profiles whose names match (* and ?); repeatable
    #[argh(option, arg_name = "PATTERN")]
    pub(super) adopt: Vec<String>,

    /// how long the whole pass may take [5m]
    #[argh(option, arg_name = "TIME", from_str_fn(span))]
    pub(super) deadline: Duration,
    /// how long to wait for another pass to end [30s]
    #[argh(option, arg_name = "TIME", from_str_fn(span))]
    pub(super) lock_timeout: Duration,
    /// the format of the result on stdout
    #[argh(option, arg_name = "text|json|github")]
    pub(super) output: Option<String>,
    /// keep readable copies of the loaded texts in this folder
    #[argh(option, arg_name = "DIR", from_str_fn(path))]
    pub(super) copy_to: Option<PathBuf>,
    /// write figures for Prometheus to this file, at each pass
    #[argh(option, arg_name = "FILE", from_str_fn(path))]
    pub(super) metrics_file: Option<PathBuf>,
    /// the identity of the loop that repeats the pass: its probes ask for it, and its idle passes log hourly
    #[argh(option, arg_name = "ID")]
    pub(super) r#loop: Option<String>,

    /// the API server [in a pod: its cluster's]
    #[argh(option, arg_name = "URL")]
    pub(super) api_server: Option<String>,
    /// the file with the bearer token [in a pod: its ServiceAccount's]
    #[argh(option, arg_name = "FILE", from_str_fn(path))]
    pub(super) token_file: Option<PathBuf>,
    /// the CA certificates that verify the API server [in a pod: its ServiceAccount's]
    #[argh(option, arg_name = "FILE", from_str_fn(path))]
    pub(super) ca_file: Option<PathBuf>,
    /// the name of this Kubernetes node [$NODE_NAME]
    #[argh(option, arg_name = "NAME")]
    pub(super) node_name: Option<String>,
    /// the name of this pod, in events [$POD_NAME]
    #[argh(option, arg_name = "NAME")]
    pub(super) pod_name: Option<String>,
    /// write changes and new problems as Events on the node
    #[argh(switch)]
    pub(super) events: bool,
    /// remove this taint from the node when it is first ready
    #[argh(option, arg_name = "KEY")]
    pub(super) clear_taint: Option<String>,
    /// label the node with the state and a digest of the profiles in force
    #[argh(switch)]
    pub(super) label_node: bool,

    /// exit 4 when a pass would change something
    #[argh(switch)]
    pub(super) exit_code: bool,
    /// self queries the kernel without privileges, kernel reads securityfs [self]
    #[argh(option, arg_name = "self|kernel")]
    pub(super) from: String,
    /// the mode that each profile must be in, such as enforce (with --from kernel)
    #[argh(option, arg_name = "MODE", from_str_fn(mode))]
    pub(super) mode: Option<Mode>,
    /// how long to wait [5m]
    #[argh(option, arg_name = "TIME", from_str_fn(span))]
    pub(super) timeout: Duration,
    /// how often to check [5s; with --from kernel 1s]
    #[argh(option, arg_name = "TIME", from_str_fn(span))]
    pub(super) interval: Option<Duration>,
    /// answer a Kubernetes probe
    #[argh(option, arg_name = "ready|live")]
    pub(super) probe: Option<String>,
    /// fail also on warnings (check), on refused, conflicting and blocked profiles (status --probe ready)
    #[argh(switch)]
    pub(super) strict: bool,
    /// seconds between the loop's passes; $POLL_TIME too [30]
    #[argh(option, arg_name = "SECONDS", from_str_fn(count))]
    pub(super) poll_time: usize,
    /// ask as the owner of the file
    #[argh(switch)]
    pub(super) owner: bool,
    /// compare with the expectations in this file, such as `deny write /etc/passwd`, and print those that fail
    #[argh(option, arg_name = "FILE", from_str_fn(path))]
    pub(super) expect: Option<PathBuf>,
    /// the features to compile for, an abi file or the output of `armorer features`; repeatable [this kernel's, else Linux 6.12's]
    #[argh(option, arg_name = "FILE", from_str_fn(path))]
    pub(super) features: Vec<PathBuf>,
    /// only the denials of this profile and its children
    #[argh(option, arg_name = "NAME")]
    pub(super) profile: Option<String>,
    /// the loop's heartbeat: time and identity [/run/armorer/loop]
    #[argh(option, arg_name = "FILE", from_str_fn(path))]
    pub(super) loop_heartbeat: PathBuf,
    /// remove all profiles that the set owns
    #[argh(switch)]
    pub(super) all: bool,
    /// remove profiles in use too; their processes run on unconfined
    #[argh(switch)]
    pub(super) force: bool,
}

/// None: never. The alias keeps argh from treating the option as optional.
type SpanOrNever = Option<Duration>;

/// `HEADING: OPTION...`, a line each. The options of [`SWITCHES`] belong to Acceptance too.
const GROUPS: &str = "\
Places: root state-dir securityfs proc set log-format
Acceptance: prefix max-profile-size max-profiles max-members max-compile-time
Compiler: parser base jobs complain
Removal and ownership: remove-after allow-empty take-over adopt
Pass: deadline lock-timeout output copy-to metrics-file loop
Kubernetes: api-server token-file ca-file node-name pod-name events clear-taint label-node
Plan: exit-code
Wait: from mode timeout interval
Check: features output strict
Can: owner expect features max-profile-size max-compile-time
Denials: profile output
Restore: lock-timeout
Remove: all force remove-after lock-timeout
Status: output probe strict poll-time deadline loop-heartbeat";

/// `NAME; ARGUMENTS; GROUPS; PURPOSE`, a line each; a group by the first word of its heading.
const COMMANDS: &str = "\
reconcile; [SOURCE...]; Removal Acceptance Compiler Pass Kubernetes Places; One pass: load, replace and remove profiles until the desired ones are in force
plan; [SOURCE...]; Plan Removal Acceptance Compiler Pass Kubernetes Places; Print the changes of a pass without making them
wait; NAME...; Wait Places; The gate: wait until every named profile is loaded
status; ; Status Places; Show each profile, its state in the kernel and its processes
check; PATH...; Check Acceptance Compiler Places; Validate profiles without a kernel
can; PROFILE PERMISSION OBJECT...; Can Compiler Places; Answer whether a profile allows an access, by its compiled policy
denials; [FILE...]; Denials; Show denials in kernel and audit logs, and the rules that would allow them
features; ; Places; Print the features of this node's kernel, for check --features
restore; ; Restore Places; At boot: load the last good policies, without source, network or compiler
remove; NAME... | --all; Remove Places; Remove profiles that the set owns and no process uses";

/// A command, its arguments, its groups of options, its purpose.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) usage: &'static str,
    groups: &'static str,
    pub(super) help: &'static str,
}

impl Command {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        COMMANDS.lines().map(|row| {
            let mut columns = row.splitn(4, "; ");
            let mut next = || columns.next().unwrap_or_default();
            Self {
                name: next(),
                usage: next(),
                groups: next(),
                help: next(),
            }
        })
    }

    pub(super) fn takes(&self, option: &str) -> bool {
        self.options().any(|(_, known)| known == option)
    }

    /// Its options, with their headings.
    pub(super) fn options(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let groups = GROUPS.lines().filter_map(|row| row.split_once(": "));
        let groups = self.groups.split(' ').filter_map(move |word| {
            let is_named = |(heading, _): &(&str, _)| heading.split(' ').next() == Some(word);
            groups.clone().find(is_named)
        });
        groups.flat_map(|(heading, options)| {
            let rules = SWITCHES.iter().filter(move |_| heading == "Acceptance");
            let options = options.split(' ').chain(rules.map(|rule| rule.option));
            options.map(move |option| (heading, option))
        })
    }
}

/// `value`, or the error that `text` is not `expected`.
fn value<T>(text: &str, expected: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("{} is not {expected}", quoted(text)))
}

fn path(text: &str) -> Result<PathBuf, String> {
    value(text, "a path", std::path::absolute(text).ok())
}

/// At most a year.
fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text.trim()).ok();
    let span = span.filter(|span| *span <= Duration::from_hours(366 * 24));
    value(text, "a time such as 30s, 15m or 2h", span)
}

fn span_or_never(text: &str) -> Result<SpanOrNever, String> {
    match text.trim() {
        "never" => Ok(None),
        text => span(text).map(Some).map_err(|e| e + ", or never"),
    }
}

fn count(text: &str) -> Result<usize, String> {
    let count = text.trim().parse().ok();
    let count = count.filter(|n| (1..=1_000_000).contains(n));
    value(text, "a whole number from 1 to 1000000", count)
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "" | "B" => Some(1),
        "K" | "KiB" | "k" => Some(1 << 10),
        "M" | "MiB" => Some(1 << 20),
        _ => None,
    };
    let bytes = unit.and_then(|unit| digits.trim().parse::<u64>().ok()?.checked_mul(unit));
    let bytes = bytes.filter(|bytes| (1..=1 << 30).contains(bytes));
    value(text, "a size from 1 to 1024MiB such as 128KiB", bytes)
}

fn mode(text: &str) -> Result<Mode, String> {
    let mode = Some(Mode::of(text)).filter(|mode| !matches!(mode, Mode::Unknown | Mode::Mixed));
    value(text, "enforce, complain, kill, prompt or unconfined", mode)
}

fn set_name(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let fits = (1..=63).contains(&text.len()) && text.bytes().all(fits);
    let expected = "a name of at most 63 small letters, digits and dashes";
    value(text, expected, fits.then(|| text.to_owned()))
}
