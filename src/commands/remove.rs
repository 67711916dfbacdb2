//! `remove`: profiles that a set owns, for an uninstall. Only `--force` may unconfine a process.

use std::collections::BTreeSet;

use crate::error::{Error, Exit};
use crate::outcome::Kind;
use crate::pass::{self, Place, Removal};
use crate::plan::Options;

/// What a user may set.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) place: Place,
    /// None: all that the set owns.
    pub(crate) names: Option<BTreeSet<String>>,
    pub(crate) force: bool,
    pub(crate) options: Options,
}

/// Removes the named profiles, or all.
///
/// # Errors
/// The kernel or the state cannot be used.
pub(crate) fn run(settings: &Settings) -> Result<Exit, Error> {
    let Settings {
        place,
        names,
        force,
        options,
    } = settings;
    let removal = Removal::Named {
        names: names.clone(),
        force: *force,
    };
    let report = pass::remove(place, removal, options)?;
    if report.outcomes.is_empty() {
        log::info!(action = "end"; "the set {} owns no profile in this boot", place.set);
    }
    let waiting = report
        .outcomes
        .iter()
        .filter(|outcome| outcome.kind == Kind::Deferred);
    Ok(match waiting.count() {
        0 => report.exit,
        _ => Exit::Incomplete,
    })
}
