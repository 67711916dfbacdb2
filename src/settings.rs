//! Flags, environment and defaults made into typed settings.

mod setting;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::{ClusterFlags, CommonFlags, PassFlags, RuleFlags};
use crate::error::Error;
use crate::kubernetes::access::{Access, server_of_pod};
use crate::kubernetes::encoding::is_dns;
use crate::kubernetes::taint;
use crate::parser;
use crate::profile::quoted;
use crate::source::{Limits, Source};
pub(crate) use setting::{Setting, switch};
use setting::{duration, size};

/// The most bytes of compiled policy that one text may become.
const MAX_BLOB: u64 = 32 << 20;

/// Where a setting that no flag gives is looked up: the environment.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's own environment; a variable that is set but empty counts as not set.
pub(crate) fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A variable of ours whose value is not UTF-8: passing over it would be another wish.
pub(crate) fn unreadable_variable() -> Option<String> {
    const OTHERS: [&str; 5] = [
        "PROFILES_DIR",
        "POLL_TIME",
        "NODE_NAME",
        "POD_NAME",
        "RUST_LOG",
    ];
    std::env::vars_os().find_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let ours = name.starts_with("ARMORER_") || OTHERS.contains(&name.as_str());
        (ours && value.to_str().is_none()).then_some(name)
    })
}

/// What every command needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) root: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) securityfs: PathBuf,
    pub(crate) proc: PathBuf,
    pub(crate) set: String,
    pub(crate) log_format: LogFormat,
    pub(crate) termination_log: Option<PathBuf>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Which profiles are accepted, and how they are compiled.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) prefix: String,
    pub(crate) allow_attachment: bool,
    pub(crate) allow_unconfined: bool,
    pub(crate) limits: Limits,
    pub(crate) compile_timeout: Duration,
    pub(crate) jobs: Option<usize>,
    pub(crate) parser: Option<PathBuf>,
    pub(crate) base: PathBuf,
}

/// How long a profile must be unwanted and unused before it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemoveAfter {
    Time(Duration),
    Never,
}

/// Whether the compiler is confined by armorer's own profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confine {
    /// Where that works.
    Auto,
    Never,
}

/// Everything a pass needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    pub(crate) common: Common,
    pub(crate) rules: Rules,
    pub(crate) sources: Vec<Source>,
    pub(crate) remove_after: RemoveAfter,
    pub(crate) allow_empty: bool,
    pub(crate) complain: bool,
    pub(crate) adopt: Vec<String>,
    pub(crate) take_over: bool,
    pub(crate) copy_to: Option<PathBuf>,
    pub(crate) metrics_file: Option<PathBuf>,
    pub(crate) lock_timeout: Duration,
    pub(crate) deadline: Duration,
    pub(crate) access: Access,
    pub(crate) node: Option<String>,
    pub(crate) pod: Option<String>,
    /// What is told to the API server, or asked of it, besides the sources.
    pub(crate) cluster: Cluster,
    pub(crate) output: Option<Output>,
    pub(crate) confine_compiler: Confine,
}

/// What a pass has to do with its Kubernetes node. None of it without the node's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Events on the node say what a pass did.
    pub(crate) events: bool,
    /// This taint goes when the node is ready for the first time.
    pub(crate) clear_taint: Option<String>,
    /// A profile that a pod of the node names is not removed.
    pub(crate) check_pods: bool,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Text,
    Json,
    Github,
}

impl Common {
    pub(crate) fn new(flags: &CommonFlags, env: Env) -> Result<Self, Error> {
        let root = Setting::new("root", flags.root.as_ref(), env)
            .path()
            .unwrap_or_else(|| "/".into());
        let place = |flag, value: &Option<String>, default: &str| {
            let path = Setting::new(flag, value.as_ref(), env).path();
            rebase(&root, &path.unwrap_or_else(|| default.into()))
        };
        Ok(Self {
            state_dir: place("state-dir", &flags.state_dir, "/var/lib/armorer"),
            securityfs: place("securityfs", &flags.securityfs, "/sys/kernel/security"),
            proc: place("proc", &flags.proc, "/proc"),
            set: Setting::new("set", flags.set.as_ref(), env).read(
                "default".into(),
                "a set's name of at most 63 small letters, digits and dashes",
                set_name,
            )?,
            log_format: Setting::new("log-format", flags.log_format.as_ref(), env).read(
                LogFormat::Text,
                "text or json",
                |text| match text {
                    "text" => Some(LogFormat::Text),
                    "json" => Some(LogFormat::Json),
                    _ => None,
                },
            )?,
            termination_log: termination_log(flags, env),
            root,
        })
    }
}

/// Where the reason of a failure goes too.
pub(crate) fn termination_log(flags: &CommonFlags, env: Env) -> Option<PathBuf> {
    Setting::new("termination-log", flags.termination_log.as_ref(), env).path()
}

impl Rules {
    pub(crate) fn new(flags: &RuleFlags, env: Env) -> Result<Self, Error> {
        let limits = Limits {
            profile_bytes: Setting::new("max-profile-size", flags.max_profile_size.as_ref(), env)
                .read(512 << 10, "a size such as 512KiB or 1MiB", size)?,
            profiles: Setting::new("max-profiles", flags.max_profiles.as_ref(), env)
                .number(4096, 1, 1_000_000)?,
        };
        // An empty prefix is a wish, so this one flag is looked at before the environment.
        let prefix = match &flags.prefix {
            Some(prefix) => prefix.clone(),
            None => env("ARMORER_PREFIX").map_or_else(
                || "custom.".to_owned(),
                |prefix| prefix.trim_matches(['\'', '"']).to_owned(),
            ),
        };
        Ok(Self {
            prefix,
            allow_attachment: switch("allow-attachment", flags.allow_attachment, env)?,
            allow_unconfined: switch("allow-unconfined", flags.allow_unconfined, env)?,
            limits,
            compile_timeout: Setting::new("compile-timeout", flags.compile_timeout.as_ref(), env)
                .duration(Duration::from_secs(30))?,
            jobs: Setting::new("jobs", flags.jobs.as_ref(), env).read(
                None,
                "a whole number from 1 to 256",
                |text| {
                    text.parse()
                        .ok()
                        .filter(|n| (1..=256).contains(n))
                        .map(Some)
                },
            )?,
            parser: Setting::new("parser", flags.parser.as_ref(), env).path(),
            base: Setting::new("base", flags.base.as_ref(), env)
                .path()
                .unwrap_or_else(|| "/etc/apparmor.d".into()),
        })
    }
}

impl Pass {
    pub(crate) fn new(flags: &PassFlags, env: Env) -> Result<Self, Error> {
        let common = Common::new(&flags.common, env)?;
        let mut named = flags.sources.clone();
        if named.is_empty() {
            named.extend(env("PROFILES_DIR"));
        }
        if named.is_empty() {
            return Err(Error::Usage(
                "no source: name a folder or configmap://NAMESPACE/NAME, or set PROFILES_DIR"
                    .into(),
            ));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = named.iter().find(|name| !seen.insert(*name)) {
            return Err(Error::Usage(format!(
                "the source {} is named twice",
                quoted(twice)
            )));
        }
        let mut adopt = flags.adopt.clone();
        if adopt.is_empty() {
            let listed = env("ARMORER_ADOPT").unwrap_or_default();
            adopt.extend(listed.split_whitespace().map(str::to_owned));
        }
        let access = access(flags, env);
        let node = Setting::new("node-name", flags.node_name.as_ref(), env)
            .or_env("NODE_NAME")
            .text();
        Ok(Self {
            rules: Rules::new(&flags.rules, env)?,
            cluster: cluster(&flags.cluster, env, &access, node.as_deref())?,
            sources: named
                .iter()
                .map(|name| Source::parse(name))
                .collect::<Result<_, _>>()?,
            remove_after: remove_after(flags.remove_after.as_ref(), env)?,
            allow_empty: switch("allow-empty", flags.allow_empty, env)?,
            complain: switch("complain", flags.complain, env)?,
            adopt,
            take_over: switch("take-over", flags.take_over, env)?,
            copy_to: Setting::new("copy-to", flags.copy_to.as_ref(), env)
                .path()
                .map(|path| rebase(&common.root, &path)),
            metrics_file: Setting::new("metrics-file", flags.metrics_file.as_ref(), env)
                .path()
                .map(|path| rebase(&common.root, &path)),
            lock_timeout: lock_timeout(flags.lock_timeout.as_ref(), env)?,
            deadline: deadline(flags.deadline.as_ref(), env)?,
            access,
            node,
            pod: Setting::new("pod-name", flags.pod_name.as_ref(), env)
                .or_env("POD_NAME")
                .text(),
            confine_compiler: Setting::new(
                "confine-compiler",
                flags.confine_compiler.as_ref(),
                env,
            )
            .read(Confine::Auto, "auto or never", |text| match text {
                "auto" => Some(Confine::Auto),
                "never" => Some(Confine::Never),
                _ => None,
            })?,
            output: Setting::new("output", flags.output.as_ref(), env).read(
                None,
                "text or json",
                |text| match text {
                    "text" => Some(Some(Output::Text)),
                    "json" => Some(Some(Output::Json)),
                    _ => None,
                },
            )?,
            common,
        })
    }
}

/// What is wanted of the API server besides sources, if it can be asked at all.
fn cluster(
    flags: &ClusterFlags,
    env: Env,
    access: &Access,
    node: Option<&str>,
) -> Result<Cluster, Error> {
    let key = Setting::new("clear-taint", flags.clear_taint.as_ref(), env);
    let cluster = Cluster {
        events: switch("events", flags.events, env)?,
        clear_taint: key.read(None, "a taint's key such as example.com/starting", |text| {
            taint::is_key(text).then(|| Some(text.to_owned()))
        })?,
        check_pods: switch("check-pods", flags.check_pods, env)?,
    };
    let first = [
        (cluster.events, "--events"),
        (cluster.clear_taint.is_some(), "--clear-taint"),
        (cluster.check_pods, "--check-pods"),
    ];
    if let Some((_, flag)) = first.into_iter().find(|(on, _)| *on) {
        if node.is_none_or(|node| !is_dns(node)) {
            return Err(Error::Usage(format!(
                "{flag} needs the name of this Kubernetes node: set NODE_NAME from spec.nodeName, or --node-name"
            )));
        }
        if access.api_server.is_none() {
            return Err(Error::Usage(format!(
                "{flag} needs an API server: outside of a pod, name it by --api-server"
            )));
        }
    }
    Ok(cluster)
}

/// The way to the API server: as said, else the pod's own.
fn access(flags: &PassFlags, env: Env) -> Access {
    let path = |flag, value: &Option<String>| Setting::new(flag, value.as_ref(), env).path();
    Access {
        api_server: Setting::new("api-server", flags.api_server.as_ref(), env)
            .text()
            .or_else(|| server_of_pod(env)),
        token_file: path("token-file", &flags.token_file),
        ca_file: path("ca-file", &flags.ca_file),
        client_cert: path("client-cert", &flags.client_cert),
        client_key: path("client-key", &flags.client_key),
    }
}

impl Pass {
    /// How the compiler is called.
    pub(crate) fn compiler(&self) -> parser::Settings {
        self.rules.compiler(&self.common, self.complain)
    }
}

impl Rules {
    /// How the compiler is called.
    pub(crate) fn compiler(&self, common: &Common, complain: bool) -> parser::Settings {
        parser::Settings {
            program: self.parser.clone(),
            base: self.base.clone(),
            securityfs: common.securityfs.clone(),
            timeout: self.compile_timeout,
            jobs: self.jobs,
            complain,
            max_blob: MAX_BLOB,
        }
    }
}

pub(crate) fn remove_after(flag: Option<&String>, env: Env) -> Result<RemoveAfter, Error> {
    Setting::new("remove-after", flag, env).read(
        RemoveAfter::Time(Duration::from_secs(15 * 60)),
        "a time such as 15m, 0s for as soon as unused, or never",
        |text| match text {
            "never" => Some(RemoveAfter::Never),
            _ => duration(text).map(RemoveAfter::Time),
        },
    )
}

pub(crate) fn lock_timeout(flag: Option<&String>, env: Env) -> Result<Duration, Error> {
    Setting::new("lock-timeout", flag, env).duration(Duration::from_secs(30))
}

pub(crate) fn deadline(flag: Option<&String>, env: Env) -> Result<Duration, Error> {
    Setting::new("deadline", flag, env).duration(Duration::from_secs(5 * 60))
}

pub(crate) fn rebase(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn set_name(text: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (!text.is_empty() && text.len() <= 63 && text.bytes().all(fits)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
