//! The command line: options once, the environment folded into them, and each room's settings.

mod fold;
mod options;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs as _;

use crate::commands::{self, check, reconcile, remove, restore, status, wait};
use crate::compiler;
use crate::error::{Error, Exit};
use crate::kernel;
use crate::kubernetes::access::{Access, server_of_pod};
use crate::kubernetes::{self, is_dns, node};
use crate::pass::{self, Place, Removal};
use crate::plan;
use crate::profile::{NAME_LIMIT, nearest, quoted};
use crate::report;
use crate::rules::{Rules, SWITCHES};
use crate::source::{Limits, Source};
use options::{COMMANDS, Command, Options, SpanOrNever};

/// The most bytes of compiled policy that one text may become.
const POLICY_BYTES: u64 = 16 << 20;

/// Each question about a missing profile leaves an audit record, so it is asked no more often.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// A command, ready to run.
pub(crate) struct Invocation {
    pub(crate) run: Box<dyn FnOnce() -> Result<Exit, Error>>,
    /// Whether the log is JSON.
    pub(crate) json_log: bool,
    pub(crate) warnings: Vec<String>,
}

/// The invocation that `words` (without the program) and the variables `env` ask for.
///
/// # Errors
/// [`Error::Usage`], in one line.
pub(crate) fn parse(words: &[String], env: &[(OsString, OsString)]) -> Result<Invocation, Error> {
    let print = |text: String| Invocation {
        run: Box::new(move || commands::print(&text).map(|()| Exit::Converged)),
        json_log: false,
        warnings: Vec::new(),
    };
    let is_help = |word: &str| matches!(word, "-h" | "--help" | "help");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (command, rest) = match words.as_slice() {
        [] => return usage("no command: see armorer --help"),
        ["-V" | "--version", ..] => {
            return Ok(print(
                concat!("armorer ", env!("CARGO_PKG_VERSION"), "\n").into(),
            ));
        }
        [first, second, ..] if is_help(first) => {
            return Ok(print(fold::help_of(find(second)?)));
        }
        [first] if is_help(first) => return Ok(print(fold::help())),
        [first, rest @ ..] => (find(first)?, rest),
    };
    let mut options = rest.iter().take_while(|word| **word != "--");
    if options.any(|word| matches!(*word, "-h" | "--help")) {
        return Ok(print(fold::help_of(command)));
    }
    let folded = fold::fold(command, rest, env)?;
    let arguments: Vec<&str> = folded.words.iter().map(String::as_str).collect();
    let options = Options::from_args(&["armorer"], &arguments)
        .map_err(|exit| Error::Usage(fold::complaint(&exit.output, &folded.from_variables)))?;
    let json_log = options.log_format == Some("json");
    Ok(Invocation {
        json_log,
        run: Builder { options, env }.command(command.name)?,
        warnings: folded.warnings,
    })
}

fn find(name: &str) -> Result<&'static Command, Error> {
    let known = COMMANDS.iter().find(|command| command.name == name);
    known.ok_or_else(|| {
        let names = COMMANDS.iter().map(|command| command.name);
        let hint = match nearest(name, names) {
            Some(nearest) => format!("is {nearest} meant?"),
            None => "see armorer --help".to_owned(),
        };
        Error::Usage(format!("unknown command {}: {hint}", quoted(name)))
    })
}

fn usage<T>(line: impl Into<String>) -> Result<T, Error> {
    Err(Error::Usage(line.into()))
}

/// Makes settings of options.
struct Builder<'a> {
    options: Options,
    env: &'a [(OsString, OsString)],
}

impl Builder<'_> {
    fn command(self, name: &str) -> Result<Box<dyn FnOnce() -> Result<Exit, Error>>, Error> {
        let options = &self.options;
        if options.output == Some("github") && name != "check" {
            return usage("--output github is for check: give text or json");
        }
        if let (Some(word), "status" | "restore") = (options.words.first(), name) {
            return usage(format!(
                "{name} takes no argument: leave out {}",
                quoted(word)
            ));
        }
        Ok(match name {
            "reconcile" | "plan" => {
                let (settings, dry) = (self.pass()?, name == "plan");
                let output = options.output.or(dry.then_some("text"));
                let exit_code = options.exit_code;
                Box::new(move || reconcile::run(&settings, dry, output, exit_code))
            }
            "wait" => {
                let settings = self.wait()?;
                Box::new(move || wait::run(&settings))
            }
            "status" => {
                let settings = self.status();
                Box::new(move || status::run(&settings))
            }
            "check" => {
                let settings = self.check()?;
                Box::new(move || check::run(&settings))
            }
            "restore" => {
                let place = self.place();
                Box::new(move || restore::run(&place))
            }
            _ => {
                let (place, removal, options) =
                    (self.place(), self.removal()?, self.plan_options());
                let options = plan::Options {
                    take_over: true,
                    allow_empty: true,
                    ..options
                };
                Box::new(move || remove::run(&place, removal, &options))
            }
        })
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
        let set = options.set.as_ref();
        let kernel = kernel::Settings {
            root: options.root.clone(),
            securityfs: self.rebased(&options.securityfs),
            proc: self.rebased(&options.proc),
        };
        Place {
            kernel,
            state_dir: self.rebased(&options.state_dir),
            set: set.cloned().unwrap_or_else(|| "default".into()),
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
            remove_after: match options.remove_after {
                SpanOrNever::After(time) => Some(time),
                SpanOrNever::Never => None,
            },
            allow_empty: options.allow_empty,
            take_over: options.take_over,
            adopt: options.adopt.clone(),
            most_names: options.max_profiles,
        }
    }

    fn pass(&self) -> Result<pass::Settings, Error> {
        let options = &self.options;
        let rebased = |path: &Option<PathBuf>| path.as_ref().map(|path| self.rebased(path));
        let report = report::Settings {
            copy_to: rebased(&options.copy_to),
            metrics_file: rebased(&options.metrics_file),
            loop_id: options.r#loop.clone(),
        };
        Ok(pass::Settings {
            place: self.place(),
            sources: self.sources()?,
            limits: self.limits(),
            rules: self.rules(),
            compiler: self.compiler(),
            options: self.plan_options(),
            deadline: options.deadline,
            cluster: self.cluster()?,
            report,
        })
    }

    fn sources(&self) -> Result<Vec<Source>, Error> {
        let mut named = self.options.words.clone();
        if named.is_empty() {
            named.extend(self.variable("PROFILES_DIR"));
        }
        let mut sources = Vec::new();
        for name in &named {
            let source = Source::parse(name)?;
            if sources.contains(&source) {
                return usage(format!("the source {} is named twice", quoted(name)));
            }
            sources.push(source);
        }
        if sources.is_empty() {
            return usage(
                "no source: name a folder or configmap://NAMESPACE/NAME, or set PROFILES_DIR",
            );
        }
        Ok(sources)
    }

    fn cluster(&self) -> Result<kubernetes::Settings, Error> {
        let options = &self.options;
        let host = self.variable("KUBERNETES_SERVICE_HOST");
        let port = self.variable("KUBERNETES_SERVICE_PORT");
        let in_pod = host.map(|host| server_of_pod(&host, port.as_deref()));
        let access = Access {
            api_server: options.api_server.clone().or(in_pod),
            token_file: options.token_file.clone(),
            ca_file: options.ca_file.clone(),
        };
        let settings = kubernetes::Settings {
            access,
            node: options.node_name.clone(),
            pod: options.pod_name.clone(),
            events: options.events,
            clear_taint: options.clear_taint.clone(),
            label_node: options.label_node,
        };
        let key = settings.clear_taint.as_ref();
        if let Some(key) = key.filter(|key| !node::is_key(key)) {
            let key = quoted(key);
            return usage(format!(
                "--clear-taint: {key} is not a taint's key such as example.com/starting"
            ));
        }
        let option = match &settings {
            settings if settings.events => "--events",
            settings if settings.clear_taint.is_some() => "--clear-taint",
            settings if settings.label_node => "--label-node",
            _ => return Ok(settings),
        };
        if settings.node.as_deref().is_none_or(|node| !is_dns(node)) {
            return usage(format!(
                "{option} needs the name of this Kubernetes node: set NODE_NAME from spec.nodeName, or --node-name"
            ));
        }
        if settings.access.api_server.is_none() {
            return usage(format!(
                "{option} needs an API server: outside of a pod, name it with --api-server"
            ));
        }
        Ok(settings)
    }

    fn wait(&self) -> Result<wait::Settings, Error> {
        let options = &self.options;
        let mut names = options.words.clone();
        if names.is_empty() {
            let listed = self.variable("ARMORER_WAIT_FOR").unwrap_or_default();
            names.extend(listed.split_whitespace().map(str::to_owned));
        }
        if names.is_empty() {
            return usage("no profile named: armorer wait NAME..., or set ARMORER_WAIT_FOR");
        }
        for name in &names {
            let shown = quoted(name);
            if name.starts_with("localhost/") {
                return usage(format!(
                    "{shown} is an annotation's value: name the profile without localhost/"
                ));
            }
            if name.contains([',', '*']) {
                return usage(format!(
                    "{shown} is no profile's name: name each in full, with spaces between"
                ));
            }
            if name.is_empty() || name.len() >= NAME_LIMIT || name.contains(char::is_control) {
                return usage(format!("{shown} cannot be a profile's name"));
            }
        }
        let from_kernel = options.from == Some("kernel");
        if options.mode.is_some() && !from_kernel {
            return usage("--mode needs --from kernel: a process cannot ask for it without rights");
        }
        let kernel = from_kernel.then(|| self.place().kernel);
        let (default, least) = match kernel {
            Some(_) => (Duration::from_secs(1), Duration::from_millis(100)),
            None => (ASK_EVERY, ASK_EVERY),
        };
        Ok(wait::Settings {
            names,
            kernel,
            mode: options.mode,
            timeout: options.timeout,
            interval: options.interval.unwrap_or(default).max(least),
        })
    }

    fn status(&self) -> status::Settings {
        let options = &self.options;
        status::Settings {
            place: self.place(),
            one_set: options.set.is_some(),
            json: options.output == Some("json"),
            probe: options.probe,
            poll_time: Duration::from_secs(options.poll_time as u64),
            deadline: options.deadline,
            strict: options.strict,
            loop_file: self.rebased(&options.loop_heartbeat),
        }
    }

    fn check(&self) -> Result<check::Settings, Error> {
        let options = &self.options;
        if options.words.is_empty() {
            return usage("no path: armorer check FILE-OR-FOLDER...");
        }
        Ok(check::Settings {
            paths: options.words.iter().map(PathBuf::from).collect(),
            limits: self.limits(),
            rules: self.rules(),
            compiler: self.compiler(),
            output: options.output.unwrap_or("text"),
            strict: options.strict,
        })
    }

    fn removal(&self) -> Result<Removal, Error> {
        let options = &self.options;
        if options.words.is_empty() != options.all {
            return usage("name the profiles to remove, or give --all");
        }
        let names = (!options.all).then(|| options.words.iter().cloned().collect());
        Ok(Removal::Named {
            names,
            force: options.force,
        })
    }
}

#[cfg(test)]
mod tests;
