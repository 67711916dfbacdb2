//! `remove`: profiles that a set owns, for an uninstall. Only `--force` may unconfine a process.

use crate::error::{Error, Exit};
use crate::pass::{self, Place, Removal};
use crate::plan::Options;

/// Removes the named profiles, or all.
///
/// # Errors
/// The kernel or the state cannot be used.
pub(crate) fn run(place: &Place, removal: Removal, options: &Options) -> Result<Exit, Error> {
    let report = pass::remove(place, removal, options)?;
    if report.outcomes.is_empty() {
        log::info!(action = "end"; "the set {} owns no profile in this boot", place.set);
    }
    Ok(report.exit)
}
