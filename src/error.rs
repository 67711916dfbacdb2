//! What ends a pass, and the exit code that says so.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::process::ExitCode;

/// How an invocation ended: the exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// 0: the kernel holds what is wanted.
    Converged,
    /// 1: a profile is refused, failed, in conflict or missing, or a scan was incomplete.
    Incomplete,
    /// 2: bad usage.
    Usage,
    /// 3: the pass could not run.
    CouldNotRun,
    /// 4: changes are pending (`plan --exit-code`).
    ChangesPending,
}

impl Exit {
    /// The number the process exits with.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Converged => 0,
            Self::Incomplete => 1,
            Self::Usage => 2,
            Self::CouldNotRun => 3,
            Self::ChangesPending => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What stops a whole invocation. What stops one profile is a [`crate::profile::Refusal`].
///
/// Each variant's text is one line that says what, where and what to do next; the cause, if
/// there is one, is its `source()`.
#[derive(Debug)]
pub(crate) enum Error {
    /// The command line or a setting is wrong.
    Usage(String),
    /// This node, or this container, cannot do it: no AppArmor, no securityfs, no right, no parser.
    Node(String),
    /// A source cannot be read wholly, so nothing is known about what is wanted.
    Source(String),
    /// The state folder cannot be used.
    State(String),
    /// Another pass holds the lock.
    Lock(String),
    /// A system call failed; the text says what for.
    Io(String, io::Error),
}

impl Error {
    /// An I/O failure, with the purpose as in "read the profiles in force".
    pub(crate) fn io(purpose: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let purpose = purpose.into();
        move |source| Self::Io(purpose, source)
    }

    /// The exit code that this error ends with.
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            _ => Exit::CouldNotRun,
        }
    }

    /// The whole chain on one line.
    pub(crate) fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text)
            | Self::Node(text)
            | Self::Source(text)
            | Self::State(text)
            | Self::Lock(text) => f.write_str(text),
            Self::Io(purpose, _) => write!(f, "cannot {purpose}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io(_, source) => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_codes_are_those_of_the_contract() {
        let codes = [
            Exit::Converged,
            Exit::Incomplete,
            Exit::Usage,
            Exit::CouldNotRun,
            Exit::ChangesPending,
        ]
        .map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_chain_is_one_line_from_purpose_to_cause() {
        let error = Error::io("read the state")(io::Error::other("disk gone"));
        assert_eq!(error.chain(), "cannot read the state: disk gone");
        assert_eq!(error.exit(), Exit::CouldNotRun);
    }
}
