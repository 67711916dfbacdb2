//! The command line: argh's structs. What they mean is in `settings`.

use argh::FromArgs;

/// Keeps the AppArmor profiles of this node equal to what is wanted. One run is one pass.
///
/// Each option can also be set by the environment variable ARMORER_ and its name in capitals
/// (--remove-after: ARMORER_REMOVE_AFTER); the option on the command line wins.
#[derive(FromArgs, Debug)]
#[argh(
    note = "A SOURCE is a folder (a mounted ConfigMap, or any tree of files named like their profiles),
configmap://NAMESPACE/NAME, or configmap://NAMESPACE?selector=KEY%3DVALUE.",
    note = "Try first what a pass would do: {command_name} plan SOURCE",
    note = "{command_name} --version says which one this is.",
    error_code(0, "converged: the kernel holds what is wanted"),
    error_code(
        1,
        "a profile is refused, failed, in conflict or missing, or a scan was incomplete"
    ),
    error_code(2, "bad usage"),
    error_code(
        3,
        "could not run: no AppArmor, no parser, source or state unreadable, lock not had in time"
    ),
    error_code(4, "changes are pending (plan --exit-code)")
)]
pub(crate) struct Armorer {
    #[argh(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum Command {
    Reconcile(Reconcile),
    Plan(Plan),
    Wait(Wait),
    Status(Status),
    Check(Check),
    Restore(Restore),
    Remove(Removal),
}

/// Gives a subcommand the options that all have, and, with `+ pass`, those of a pass.
macro_rules! subcommand {
    ($(#[$meta:meta])* struct $name:ident { $($fields:tt)* }) => {
        #[derive(FromArgs, Debug)]
        $(#[$meta])*
        pub(crate) struct $name {
            $($fields)*
            /// re-base state, copies, metrics, securityfs and proc below this folder
            #[argh(option, arg_name = "DIR")]
            pub(crate) root: Option<String>,
            /// where state and stored policy live (/var/lib/armorer)
            #[argh(option, arg_name = "DIR")]
            pub(crate) state_dir: Option<String>,
            /// where securityfs is mounted (/sys/kernel/security)
            #[argh(option, arg_name = "DIR")]
            pub(crate) securityfs: Option<String>,
            /// where the host's proc is mounted (/proc)
            #[argh(option, arg_name = "DIR")]
            pub(crate) proc: Option<String>,
            /// the set of profiles that is meant; sets never touch each other's (default)
            #[argh(option, arg_name = "NAME")]
            pub(crate) set: Option<String>,
            /// the log on stderr as text or json; RUST_LOG sets the level (text)
            #[argh(option, arg_name = "FORMAT")]
            pub(crate) log_format: Option<String>,
            /// write the reason of a failure there too (/dev/termination-log in a pod)
            #[argh(option, arg_name = "FILE")]
            pub(crate) termination_log: Option<String>,
        }
        impl $name {
            pub(crate) fn common(&self) -> CommonFlags {
                CommonFlags {
                    root: self.root.clone(),
                    state_dir: self.state_dir.clone(),
                    securityfs: self.securityfs.clone(),
                    proc: self.proc.clone(),
                    set: self.set.clone(),
                    log_format: self.log_format.clone(),
                    termination_log: self.termination_log.clone(),
                }
            }
        }
    };
    (+ rules $(#[$meta:meta])* struct $name:ident { $($fields:tt)* }) => {
        subcommand! {
            $(#[$meta])*
            struct $name {
                $($fields)*
                /// what each profile's name must start with, '' for anything (custom.)
                #[argh(option, arg_name = "TEXT")]
                pub(crate) prefix: Option<String>,
                /// accept profiles that attach themselves to programs by path
                #[argh(switch)]
                pub(crate) allow_attachment: bool,
                /// accept profiles in mode unconfined
                #[argh(switch)]
                pub(crate) allow_unconfined: bool,
                /// the largest text accepted (512KiB)
                #[argh(option, arg_name = "SIZE")]
                pub(crate) max_profile_size: Option<String>,
                /// the most profiles accepted (4096)
                #[argh(option, arg_name = "N")]
                pub(crate) max_profiles: Option<String>,
                /// how long one profile may compile (30s)
                #[argh(option, arg_name = "TIME")]
                pub(crate) compile_timeout: Option<String>,
                /// how many compilers run at once (the cores, bounded by memory)
                #[argh(option, arg_name = "N")]
                pub(crate) jobs: Option<String>,
                /// the compiler (apparmor_parser in the usual folders)
                #[argh(option, arg_name = "FILE")]
                pub(crate) parser: Option<String>,
                /// the folder that includes are taken from (/etc/apparmor.d)
                #[argh(option, arg_name = "DIR")]
                pub(crate) base: Option<String>,
            }
        }
        impl $name {
            pub(crate) fn rules(&self) -> RuleFlags {
                RuleFlags {
                    prefix: self.prefix.clone(),
                    allow_attachment: self.allow_attachment,
                    allow_unconfined: self.allow_unconfined,
                    max_profile_size: self.max_profile_size.clone(),
                    max_profiles: self.max_profiles.clone(),
                    compile_timeout: self.compile_timeout.clone(),
                    jobs: self.jobs.clone(),
                    parser: self.parser.clone(),
                    base: self.base.clone(),
                }
            }
        }
    };
    (+ pass $(#[$meta:meta])* struct $name:ident { $($fields:tt)* }) => {
        subcommand! {
            + rules
            $(#[$meta])*
            struct $name {
                /// what is wanted: folders or ConfigMaps ($PROFILES_DIR)
                #[argh(positional, arg_name = "SOURCE")]
                pub(crate) sources: Vec<String>,
                $($fields)*
                /// how long a profile must be unwanted and unused before it is removed: 15m, 0s
                /// (as soon as unused) or never (15m)
                #[argh(option, arg_name = "TIME")]
                pub(crate) remove_after: Option<String>,
                /// let an empty source remove what is owned
                #[argh(switch)]
                pub(crate) allow_empty: bool,
                /// load everything in complain mode
                #[argh(switch)]
                pub(crate) complain: bool,
                /// take over loaded profiles of others whose names match (* and ?); repeatable
                #[argh(option, arg_name = "PATTERN")]
                pub(crate) adopt: Vec<String>,
                /// let another list of sources than the recorded one remove what is owned
                #[argh(switch)]
                pub(crate) take_over: bool,
                /// keep readable copies of what is loaded there
                #[argh(option, arg_name = "DIR")]
                pub(crate) copy_to: Option<String>,
                /// write figures about this set and its passes there, for Prometheus, at each pass
                #[argh(option, arg_name = "FILE")]
                pub(crate) metrics_file: Option<String>,
                /// how long to wait for another pass to end (30s)
                #[argh(option, arg_name = "TIME")]
                pub(crate) lock_timeout: Option<String>,
                /// how long the whole pass may take (5m)
                #[argh(option, arg_name = "TIME")]
                pub(crate) deadline: Option<String>,
                /// the API server's URL, for configmap:// sources (in a pod: its own cluster's)
                #[argh(option, arg_name = "URL")]
                pub(crate) api_server: Option<String>,
                /// the file with the bearer token (in a pod: the service account's)
                #[argh(option, arg_name = "FILE")]
                pub(crate) token_file: Option<String>,
                /// the certificates that the API server's is checked against (in a pod: the
                /// service account's)
                #[argh(option, arg_name = "FILE")]
                pub(crate) ca_file: Option<String>,
                /// a client certificate, instead of a token
                #[argh(option, arg_name = "FILE")]
                pub(crate) client_cert: Option<String>,
                /// the client certificate's key
                #[argh(option, arg_name = "FILE")]
                pub(crate) client_key: Option<String>,
                /// auto: the compiler runs in armorer's own profile, armorer.compiler, where the
                /// kernel allows; or never (auto)
                #[argh(option, arg_name = "WHEN")]
                pub(crate) confine_compiler: Option<String>,
                /// the node's name, in reports and to the API server ($NODE_NAME)
                #[argh(option, arg_name = "NAME")]
                pub(crate) node_name: Option<String>,
                /// this pod's name, in events ($POD_NAME)
                #[argh(option, arg_name = "NAME")]
                pub(crate) pod_name: Option<String>,
                /// say by Events on the Kubernetes node what was done and what is in the way
                #[argh(switch)]
                pub(crate) events: bool,
                /// take this taint from the Kubernetes node when it is ready for the first time
                #[argh(option, arg_name = "KEY")]
                pub(crate) clear_taint: Option<String>,
                /// before a removal, ask the API server whether a pod of this node names the profile
                #[argh(switch)]
                pub(crate) check_pods: bool,
                /// text or json: the changes on stdout (text for plan, none for reconcile)
                #[argh(option, arg_name = "FORMAT")]
                pub(crate) output: Option<String>,
            }
        }
        impl $name {
            pub(crate) fn pass(&self) -> PassFlags {
                PassFlags {
                    common: self.common(),
                    rules: self.rules(),
                    sources: self.sources.clone(),
                    remove_after: self.remove_after.clone(),
                    allow_empty: self.allow_empty,
                    complain: self.complain,
                    adopt: self.adopt.clone(),
                    take_over: self.take_over,
                    copy_to: self.copy_to.clone(),
                    metrics_file: self.metrics_file.clone(),
                    lock_timeout: self.lock_timeout.clone(),
                    deadline: self.deadline.clone(),
                    api_server: self.api_server.clone(),
                    token_file: self.token_file.clone(),
                    ca_file: self.ca_file.clone(),
                    client_cert: self.client_cert.clone(),
                    client_key: self.client_key.clone(),
                    confine_compiler: self.confine_compiler.clone(),
                    node_name: self.node_name.clone(),
                    pod_name: self.pod_name.clone(),
                    cluster: ClusterFlags {
                        events: self.events,
                        clear_taint: self.clear_taint.clone(),
                        check_pods: self.check_pods,
                    },
                    output: self.output.clone(),
                }
            }
        }
    };
}

/// The options that every subcommand has.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommonFlags {
    pub(crate) root: Option<String>,
    pub(crate) state_dir: Option<String>,
    pub(crate) securityfs: Option<String>,
    pub(crate) proc: Option<String>,
    pub(crate) set: Option<String>,
    pub(crate) log_format: Option<String>,
    pub(crate) termination_log: Option<String>,
}

/// The options that say which profiles are accepted, and how they are compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleFlags {
    pub(crate) prefix: Option<String>,
    pub(crate) allow_attachment: bool,
    pub(crate) allow_unconfined: bool,
    pub(crate) max_profile_size: Option<String>,
    pub(crate) max_profiles: Option<String>,
    pub(crate) compile_timeout: Option<String>,
    pub(crate) jobs: Option<String>,
    pub(crate) parser: Option<String>,
    pub(crate) base: Option<String>,
}

/// The options of a pass, real or planned.
#[derive(Clone, Debug, Default)]
pub(crate) struct PassFlags {
    pub(crate) common: CommonFlags,
    pub(crate) rules: RuleFlags,
    pub(crate) sources: Vec<String>,
    pub(crate) remove_after: Option<String>,
    pub(crate) allow_empty: bool,
    pub(crate) complain: bool,
    pub(crate) adopt: Vec<String>,
    pub(crate) take_over: bool,
    pub(crate) copy_to: Option<String>,
    pub(crate) metrics_file: Option<String>,
    pub(crate) lock_timeout: Option<String>,
    pub(crate) deadline: Option<String>,
    pub(crate) api_server: Option<String>,
    pub(crate) token_file: Option<String>,
    pub(crate) ca_file: Option<String>,
    pub(crate) client_cert: Option<String>,
    pub(crate) client_key: Option<String>,
    pub(crate) confine_compiler: Option<String>,
    pub(crate) node_name: Option<String>,
    pub(crate) pod_name: Option<String>,
    pub(crate) cluster: ClusterFlags,
    pub(crate) output: Option<String>,
}

/// The options that say what a pass has to do with its Kubernetes node.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterFlags {
    pub(crate) events: bool,
    pub(crate) clear_taint: Option<String>,
    pub(crate) check_pods: bool,
}

subcommand! {
    + pass
    /// One pass: load, replace and remove until the kernel holds what the sources want.
    #[argh(subcommand, name = "reconcile")]
    struct Reconcile {}
}

subcommand! {
    + pass
    /// Print what a pass would do, and change nothing.
    #[argh(subcommand, name = "plan")]
    struct Plan {
        /// exit 4 when a pass would change something
        #[argh(switch)]
        pub(crate) exit_code: bool,
    }
}

subcommand! {
    /// The gate: wait until every named profile is loaded.
    #[argh(subcommand, name = "wait")]
    struct Wait {
        /// the profiles
        #[argh(positional, arg_name = "NAME")]
        pub(crate) names: Vec<String>,
        /// who is asked: self (the kernel, with no mount and no right), kernel (securityfs), or
        /// state (this node's published status) (self)
        #[argh(option, arg_name = "WHERE")]
        pub(crate) from: Option<String>,
        /// how long to wait (5m)
        #[argh(option, arg_name = "TIME")]
        pub(crate) timeout: Option<String>,
        /// how often to ask (5s; 1s for kernel and state)
        #[argh(option, arg_name = "TIME")]
        pub(crate) interval: Option<String>,
        /// the mode it must be in, such as enforce (not with --from self)
        #[argh(option, arg_name = "MODE")]
        pub(crate) mode: Option<String>,
    }
}

subcommand! {
    /// Show each owned or wanted profile, what the kernel holds, and who is confined by it.
    #[argh(subcommand, name = "status")]
    struct Status {
        /// table or json (table)
        #[argh(option, arg_name = "FORMAT")]
        pub(crate) output: Option<String>,
        /// ready or live: answer a Kubernetes probe by exit code and one line, from files only
        #[argh(option, arg_name = "WHAT")]
        pub(crate) probe: Option<String>,
        /// seconds between the loop's passes ($POLL_TIME, 30)
        #[argh(option, arg_name = "SECONDS")]
        pub(crate) poll_time: Option<String>,
        /// how long a pass may take (5m)
        #[argh(option, arg_name = "TIME")]
        pub(crate) deadline: Option<String>,
        /// not ready either while a profile is refused or in conflict
        #[argh(switch)]
        pub(crate) strict: bool,
        /// the file in which the loop says that it is alive (/run/armorer/loop)
        #[argh(option, arg_name = "FILE")]
        pub(crate) loop_heartbeat: Option<String>,
    }
}

subcommand! {
    + rules
    /// Validate profiles without a kernel, and warn of what hurts in a cluster.
    #[argh(subcommand, name = "check")]
    struct Check {
        /// files or folders
        #[argh(positional, arg_name = "PATH")]
        pub(crate) paths: Vec<String>,
        /// text, json or github (annotations of a workflow) (text)
        #[argh(option, arg_name = "FORMAT")]
        pub(crate) output: Option<String>,
        /// exit 1 on warnings too
        #[argh(switch)]
        pub(crate) strict: bool,
    }
}

subcommand! {
    /// At boot: load the last good compiled policy, without source, network or compiler.
    #[argh(subcommand, name = "restore")]
    struct Restore {
        /// how long to wait for another pass to end (30s)
        #[argh(option, arg_name = "TIME")]
        pub(crate) lock_timeout: Option<String>,
    }
}

subcommand! {
    /// Remove profiles that the set owns and nobody uses, for an uninstall.
    #[argh(subcommand, name = "remove")]
    struct Removal {
        /// the profiles
        #[argh(positional, arg_name = "NAME")]
        pub(crate) names: Vec<String>,
        /// everything that the set owns
        #[argh(switch)]
        pub(crate) all: bool,
        /// even from under running processes, which are unconfined by it: says how many
        #[argh(switch)]
        pub(crate) force: bool,
        /// how long it must be unwanted and unused before: 15m, 0s (as soon as unused) (15m)
        #[argh(option, arg_name = "TIME")]
        pub(crate) remove_after: Option<String>,
        /// how long to wait for another pass to end (30s)
        #[argh(option, arg_name = "TIME")]
        pub(crate) lock_timeout: Option<String>,
    }
}
