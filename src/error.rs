//! The errors that end a whole invocation, and the exit codes.

use std::error::Error as StdError;
use std::{io, process::ExitCode};

/// How an invocation ended: the exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// The desired profiles are in force; for a question: allowed.
    Converged = 0,
    /// A profile is refused, failed, in conflict or missing, or a scan was incomplete; denied.
    Incomplete = 1,
    /// Bad usage.
    Usage = 2,
    /// The command could not run.
    CouldNotRun = 3,
    /// Changes are pending (`plan --exit-code`).
    ChangesPending = 4,
}

impl Exit {
    /// How a command ends that found everything as desired, or did not.
    pub(crate) const fn of(converged: bool) -> Self {
        match converged {
            true => Self::Converged,
            false => Self::Incomplete,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The reason why an invocation ends early. One profile's is a [`crate::outcome::Refusal`].
///
/// Each text is one line: the place, the problem and the way out; a cause is its `source()`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line or a variable is wrong.
    #[error("{0}")]
    Usage(String),
    /// This node, or this container, cannot do it: no AppArmor, no securityfs, no right, no parser.
    #[error("{0}")]
    Node(String),
    /// A source cannot be read completely, so the desired profiles are not known.
    #[error("{0}")]
    Source(String),
    /// The state folder cannot be used, or another pass holds its lock.
    #[error("{0}")]
    State(String),
    /// A system call failed; the text says for which purpose.
    #[error("cannot {0}")]
    Io(String, #[source] io::Error),
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
        match self.source() {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_one_line_from_purpose_to_cause() {
        let error = Error::io("read the state")(io::Error::other("disk gone"));
        assert_eq!(error.chain(), "cannot read the state: disk gone");
        assert_eq!(error.exit() as u8, 3);
    }
}
