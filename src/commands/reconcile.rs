//! `reconcile` and `plan`: one pass, or its changes without making them.

use super::print;
use crate::error::{Error, Exit};
use crate::pass::{self, Settings};

/// Makes the pass, or with `dry` plans it, and prints its result as `text` or `json`, if at all. With
/// `exit_code`, changes that a pass would make end with [`Exit::ChangesPending`].
///
/// # Errors
/// The pass could not run, or its result could not be printed.
pub(crate) fn run(
    settings: &Settings,
    dry: bool,
    output: Option<&str>,
    exit_code: bool,
) -> Result<Exit, Error> {
    // Given back by the end of the process, as the inputs are.
    let report = Box::leak(Box::new(pass::reconcile(settings, dry)?));
    match output {
        None => {}
        Some("json") => print(&report.to_json())?,
        Some(_) => print(&report.to_text())?,
    }
    Ok(match exit_code && report.has_changes() {
        true => Exit::ChangesPending,
        false => report.exit,
    })
}
