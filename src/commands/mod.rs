//! The commands, one file each.

pub(crate) mod check;
pub(crate) mod reconcile;
pub(crate) mod remove;
pub(crate) mod restore;
pub(crate) mod status;
pub(crate) mod wait;

use std::io::{self, Write as _};

use crate::error::Error;

/// Prints `text` to standard output. A reader that has gone away ends the program quietly.
///
/// # Errors
/// The output cannot be written: a full disk.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::io("write to standard output")),
    }
}
