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

/// `rows` below `titles`, each column as wide as its widest cell, a line each.
pub(crate) fn table<const N: usize>(
    titles: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let lines: Vec<_> = std::iter::once(titles.map(str::to_owned))
        .chain(rows)
        .collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |line: &[String; N]| {
        let cells = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}
