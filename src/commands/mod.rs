//! The commands, one file each.

pub(crate) mod can;
pub(crate) mod check;
pub(crate) mod denials;
mod probe;
pub(crate) mod reconcile;
pub(crate) mod remove;
pub(crate) mod restore;
pub(crate) mod status;
pub(crate) mod wait;

use std::io::{self, Write as _};
use std::path::Path;

use crate::compiler::features;
use crate::error::{Error, Exit};

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

/// `features`: prints the kernel's features in `folder` as an abi file.
///
/// # Errors
/// They cannot be read.
pub(crate) fn features(folder: &Path) -> Result<Exit, Error> {
    let text = features::text(folder);
    let purpose = format!("read the kernel's features in {}", folder.display());
    print(&text.map_err(Error::io(purpose))?)?;
    Ok(Exit::Converged)
}

/// A line for each of `rows`, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let cells = |column: usize| rows.iter().map(move |row| row[column].chars().count());
    let widths: [usize; N] = std::array::from_fn(|column| cells(column).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line += &format!("{cell:width$}  ");
        }
        text = text + line.trim_end() + "\n";
    }
    text
}
