//! `reconcile` and `plan`: one pass, or what it would do.

use super::print;
use crate::error::{Error, Exit};
use crate::pass;

/// What a user may set.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) pass: pass::Settings,
    /// `text` or `json`, if it is printed.
    pub(crate) output: Option<&'static str>,
    /// Change nothing.
    pub(crate) dry: bool,
    /// Exit 4 where a pass would change something.
    pub(crate) exit_code: bool,
}

/// Makes the pass and prints its result.
///
/// # Errors
/// The pass could not run, or its result could not be printed.
pub(crate) fn run(settings: &Settings) -> Result<Exit, Error> {
    let report = pass::reconcile(&settings.pass, settings.dry)?;
    match settings.output {
        None => {}
        Some("json") => print(&report.to_json())?,
        Some(_) => print(&report.to_text())?,
    }
    if settings.exit_code && report.has_changes() {
        return Ok(Exit::ChangesPending);
    }
    Ok(report.exit)
}
