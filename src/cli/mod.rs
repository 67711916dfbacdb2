//! The command line: options once, the environment folded into them, and each room's settings.

mod fold;
mod options;

use std::path::{Path, PathBuf};
use std::{ffi::OsString, time::Duration};

use argh::FromArgs as _;

use crate::commands::{self, can, check, denials, reconcile, remove, restore, status, wait};
use crate::error::{Error, Exit};
use crate::kubernetes::access::{Access, server_of_pod};
use crate::kubernetes::{self, is_dns, node};
use crate::pass::{self, Place, Removal};
use crate::profile::{NAME_LIMIT, is_control, nearest, quoted};
use crate::rules::{Rules, SWITCHES};
use crate::source::{Limits, Source};
use crate::{compiler, kernel, plan, report};
use options::{Command, Options};

const VERSION: &str = concat!("armorer ", env!("CARGO_PKG_VERSION"), "\n");

/// The most bytes of compiled policy that one text may become.
const POLICY_BYTES: u64 = 16 << 20;

/// The pause between queries: each query about a missing profile leaves an audit record.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// The environment.
type Variables = [(OsString, OsString)];

/// A command, ready to run.
pub(crate) type Run = Box<dyn FnOnce() -> Result<Exit, Error>>;

/// A parsed command line.
pub(crate) struct Invocation {
    pub(crate) run: Run,
    /// Whether the log is JSON.
    pub(crate) json_log: bool,
    pub(crate) warnings: Vec<String>,
}

/// Parses `words` (without the program) and the variables `env`.
///
/// # Errors
/// [`Error::Usage`], in one line.
pub(crate) fn parse(words: &[String], env: &Variables) -> Result<Invocation, Error> {
    let print = |text: String| -> Result<Invocation, Error> {
        let run = Box::new(move || commands::print(&text).map(|()| Exit::Converged));
        Ok(Invocation {
            run,
            json_log: false,
            warnings: Vec::new(),
        })
    };
    let is_help = |word: &str| matches!(word, "-h" | "--help" | "help");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (command, rest) = match words.as_slice() {
        [] => return usage("no command: see armorer --help"),
        ["-V" | "--version", ..] => return print(VERSION.to_owned()),
        [first, second, ..] if is_help(first) => return print(fold::help_of(&find(second)?)),
        [first] if is_help(first) => return print(fold::help()),
        [first, rest @ ..] => (find(first)?, rest),
    };
    let mut options = rest.iter().take_while(|word| **word != "--");
    if options.any(|word| matches!(*word, "-h" | "--help")) {
        return print(fold::help_of(&command));
    }
    let folded = fold::fold(&command, rest, env)?;
    let words: Vec<&str> = folded.words.iter().map(String::as_str).collect();
    let options = Options::from_args(&["armorer"], &words);
    let options = options.map_err(|exit| Error::Usage(folded.complaint(&exit.output)))?;
    let json_log = options.log_format == "json";
    let run = Builder { options, env }.command(command.name)?;
    Ok(Invocation {
        run,
        json_log,
        warnings: folded.warnings,
    })
}

fn find(name: &str) -> Result<Command, Error> {
    let known = Command::all().find(|command| command.name == name);
    known.ok_or_else(|| {
        let near = nearest(name, Command::all().map(|command| command.name));
        let hint = near.map(|near| format!("did you mean {near}?"));
        let hint = hint.unwrap_or_else(|| "see armorer --help".into());
        Error::Usage(format!("unknown command {}: {hint}", quoted(name)))
    })
}

fn usage<T>(line: impl Into<String>) -> Result<T, Error> {
    Err(Error::Usage(line.into()))
}

/// Makes settings from options.
struct Builder<'a> {
    options: Options,
    env: &'a Variables,
}

impl Builder<'_> {
    fn command(self, name: &str) -> Result<Run, Error> {
        let options = &self.options;
        if options.output.as_deref() == Some("github") && name != "check" {
            return usage("--output github is for check: give text or json");
        }
        if let (Some(word), "status" | "restore" | "features") = (options.words.first(), name) {
            let word = quoted(word);
            return usage(format!("{name} takes no argument: leave out {word}"));
        }
        match name {
            "reconcile" | "plan" => self.pass(name == "plan"),
            "wait" => self.wait(),
            "status" => Ok(self.status()),
            "check" => self.check(),
            "can" => self.can(),
            "denials" => Ok(self.denials()),
            "features" => {
                let folder = self.place().kernel.features();
                Ok(Box::new(move || commands::features(&folder)))
            }
            "restore" => {
                let place = self.place();
                Ok(Box::new(move || restore::run(&place)))
            }
            _ => self.remove(),
        }
    }

    /// A variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<String> {
        let value = self.env.iter().find(|(known, _)| known == name)?;
        let value = value.1.to_str()?;
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn rebased(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix("/").unwrap_or(path);
        self.options.root.join(path)
    }

    fn place(&self) -> Place {
        let options = &self.options;
        let kernel = kernel::Settings {
            root: options.root.clone(),
            securityfs: self.rebased(&options.securityfs),
            proc: self.rebased(&options.proc),
        };
        Place {
            kernel,
            state_dir: self.rebased(&options.state_dir),
            set: options.set.clone().unwrap_or_else(|| "default".into()),
            lock_timeout: options.lock_timeout,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            profile_bytes: self.options.max_profile_size,
            profiles: self.options.max_profiles,
        }
    }

    fn rules(&self) -> Rules {
        let options = &self.options;
        let given = |option: &&str| options.rule.iter().any(|rule| rule == option);
        let switches = SWITCHES.iter().map(|switch| switch.option);
        Rules {
            prefix: options.prefix.clone(),
            switches: switches.filter(given).collect(),
            members: options.max_members,
        }
    }

    fn compiler(&self) -> compiler::Settings {
        let (options, kernel) = (&self.options, self.place().kernel);
        compiler::Settings {
            program: options.parser.clone(),
            base: options.base.clone(),
            features: kernel.features(),
            proc: kernel.proc,
            time: options.max_compile_time,
            jobs: options.jobs,
            complain: options.complain,
            policy_bytes: POLICY_BYTES,
        }
    }

    fn plan_options(&self) -> plan::Options {
        let options = &self.options;
        plan::Options {
            remove_after: options.remove_after,
            allow_empty: options.allow_empty,
            take_over: options.take_over,
            adopt: options.adopt.clone(),
            most_names: options.max_profiles,
        }
    }

    fn pass(self, dry: bool) -> Result<Run, Error> {
        let options = &self.options;
        let rebased = |path: &Option<PathBuf>| path.as_ref().map(|path| self.rebased(path));
        let report = report::Settings {
            copy_to: rebased(&options.copy_to),
            metrics_file: rebased(&options.metrics_file),
            loop_id: options.r#loop.clone(),
        };
        let settings = pass::Settings {
            place: self.place(),
            sources: self.sources()?,
            limits: self.limits(),
            rules: self.rules(),
            compiler: self.compiler(),
            options: self.plan_options(),
            deadline: options.deadline,
            cluster: self.cluster()?,
            report,
        };
        let output = options.output.clone().or(dry.then(|| "text".into()));
        let exit_code = options.exit_code;
        Ok(Box::new(move || {
            reconcile::run(&settings, dry, output.as_deref(), exit_code)
        }))
    }

    fn sources(&self) -> Result<Vec<Source>, Error> {
        let mut names = self.options.words.clone();
        if names.is_empty() {
            names.extend(self.variable("PROFILES_DIR"));
        }
        let mut sources = Vec::new();
        for name in &names {
            let source = Source::parse(name)?;
            if sources.contains(&source) {
                return usage(format!("the source {} is given twice", quoted(name)));
            }
            sources.push(source);
        }
        let hint = "give a folder or configmap://NAMESPACE/NAME, or set PROFILES_DIR";
        match sources.is_empty() {
            true => usage(format!("no source: {hint}")),
            false => Ok(sources),
        }
    }

    fn cluster(&self) -> Result<kubernetes::Settings, Error> {
        let options = &self.options;
        let port = self.variable("KUBERNETES_SERVICE_PORT");
        let in_pod = self.variable("KUBERNETES_SERVICE_HOST");
        let in_pod = in_pod.map(|host| server_of_pod(&host, port.as_deref()));
        let access = Access {
            api_server: options.api_server.clone().or(in_pod),
            token_file: options.token_file.clone(),
            ca_file: options.ca_file.clone(),
        };
        let asked = [
            ("--events", options.events),
            ("--clear-taint", options.clear_taint.is_some()),
            ("--label-node", options.label_node),
        ];
        let needs = match options.node_name.as_deref().is_some_and(is_dns) {
            false => Some("the node's name: set NODE_NAME from spec.nodeName, or --node-name"),
            true if access.api_server.is_some() => None,
            true => Some("an API server: outside a pod, give --api-server"),
        };
        let asked = asked.into_iter().find(|(_, asked)| *asked);
        if let (Some((option, _)), Some(needs)) = (asked, needs) {
            return usage(format!("{option} needs {needs}"));
        }
        let key = options.clear_taint.as_deref();
        if let Some(key) = key.filter(|key| !node::is_key(key)) {
            let line = "is not a taint key such as example.com/starting";
            return usage(format!("--clear-taint: {} {line}", quoted(key)));
        }
        Ok(kubernetes::Settings {
            access,
            node: options.node_name.clone(),
            pod: options.pod_name.clone(),
            events: options.events,
            clear_taint: options.clear_taint.clone(),
            label_node: options.label_node,
        })
    }

    fn wait(self) -> Result<Run, Error> {
        let options = &self.options;
        let mut names = options.words.clone();
        if names.is_empty() {
            let listed = self.variable("ARMORER_WAIT_FOR").unwrap_or_default();
            names.extend(listed.split_whitespace().map(str::to_owned));
        }
        if names.is_empty() {
            return usage("no profile given: armorer wait NAME..., or set ARMORER_WAIT_FOR");
        }
        for name in &names {
            let problem = if name.starts_with("localhost/") {
                "is an annotation's value: give the profile without localhost/"
            } else if name.contains([',', '*']) {
                "is not a profile name: give full names, separated by spaces"
            } else if name.is_empty() || name.len() >= NAME_LIMIT || name.contains(is_control) {
                "cannot be a profile name"
            } else {
                continue;
            };
            return usage(format!("{} {problem}", quoted(name)));
        }
        let kernel = (options.from == "kernel").then(|| self.place().kernel);
        if options.mode.is_some() && kernel.is_none() {
            return usage("--mode needs --from kernel: modes are hidden without privileges");
        }
        let (default, least) = match kernel {
            Some(_) => (Duration::from_secs(1), Duration::from_millis(100)),
            None => (ASK_EVERY, ASK_EVERY),
        };
        let settings = wait::Settings {
            names,
            kernel,
            mode: options.mode,
            timeout: options.timeout,
            interval: options.interval.unwrap_or(default).max(least),
        };
        Ok(Box::new(move || wait::run(&settings)))
    }

    fn status(self) -> Run {
        let options = &self.options;
        let settings = status::Settings {
            place: self.place(),
            one_set: options.set.is_some(),
            json: options.output.as_deref() == Some("json"),
            probe: options.probe.clone(),
            poll_time: Duration::from_secs(options.poll_time as u64),
            deadline: options.deadline,
            strict: options.strict,
            loop_file: self.rebased(&options.loop_heartbeat),
        };
        Box::new(move || status::run(&settings))
    }

    fn check(self) -> Result<Run, Error> {
        let options = &self.options;
        if options.words.is_empty() {
            return usage("no path: armorer check FILE-OR-FOLDER...");
        }
        let settings = check::Settings {
            paths: options.words.iter().map(PathBuf::from).collect(),
            limits: self.limits(),
            rules: self.rules(),
            compiler: self.compiler(),
            features: options.features.clone(),
            output: options.output.clone().unwrap_or_else(|| "text".into()),
            strict: options.strict,
        };
        Ok(Box::new(move || check::run(&settings)))
    }

    fn can(self) -> Result<Run, Error> {
        let mut words = self.options.words.iter().cloned();
        let Some(profile) = words.next() else {
            return usage("no profile: armorer can PROFILE PERMISSION OBJECT...");
        };
        let mut question: Vec<String> = words.collect();
        if question.is_empty() == self.options.expect.is_none() {
            return usage("give either a question such as `read /etc/hosts`, or --expect FILE");
        }
        if self.options.owner {
            question.insert(0, "owner".to_owned());
        }
        let settings = can::Settings {
            profile,
            question,
            expect: self.options.expect.clone(),
            features: self.options.features.clone(),
            place: self.place(),
            limits: self.limits(),
            compiler: self.compiler(),
        };
        Ok(Box::new(move || can::run(&settings)))
    }

    fn denials(self) -> Run {
        let options = self.options;
        let settings = denials::Settings {
            files: options.words.into_iter().map(PathBuf::from).collect(),
            profile: options.profile,
            json: options.output.as_deref() == Some("json"),
        };
        Box::new(move || denials::run(&settings))
    }

    fn remove(self) -> Result<Run, Error> {
        let (place, mut plan_options) = (self.place(), self.plan_options());
        let (all, force, words) = (self.options.all, self.options.force, self.options.words);
        if words.is_empty() != all {
            return usage("give the profiles to remove, or --all");
        }
        (plan_options.take_over, plan_options.allow_empty) = (true, true);
        let names = (!all).then(|| words.into_iter().collect());
        let removal = Removal::Named { names, force };
        Ok(Box::new(move || {
            remove::run(&place, removal, &plan_options)
        }))
    }
}

#[cfg(test)]
mod tests;
