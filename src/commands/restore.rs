//! `restore`: at boot, before the kubelet, the last good policies of every set.

use crate::error::{Error, Exit};
use crate::pass::{self, Place};

/// Loads the policies that every set last had in force.
///
/// # Errors
/// The kernel or the state cannot be used.
pub(crate) fn run(place: &Place) -> Result<Exit, Error> {
    let reports = pass::restore(place)?;
    if reports.is_empty() {
        log::info!(action = "end"; "nothing to restore: no state in {}", place.state_dir.display());
    }
    let exits = reports.iter().map(|report| report.exit);
    Ok(exits.max().unwrap_or(Exit::Converged))
}
