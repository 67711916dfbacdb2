//! `status --probe`: the answers to a Kubernetes probe, from files only.

use std::time::Duration;

use super::status::Settings;
use crate::report::status::Status;
use crate::time::{Stamp, Time, in_words};

/// The loop counts as dead after three polls, a pass' deadline and this long without an iteration; a
/// pass may wait for the lock in it.
const LIVE_GRACE: Duration = Duration::from_mins(1);

/// The answer: the state that makes it ready or live, or the reason why not.
type Answer = Result<String, String>;

/// Ready: this loop made the last pass, less than 3 polls and a deadline ago; it read its sources
/// completely, and every desired profile is in force but those refused or in conflict.
pub(super) fn ready(settings: &Settings, status: Option<Status>, boot_id: &str) -> Answer {
    let status = status.ok_or("no pass has ended yet")?;
    let (_, id) = heartbeat(settings)?;
    if status.boot_id != boot_id {
        return Err("no pass has ended since the node booted".into());
    }
    if id.is_empty() || status.loop_id.as_deref() != Some(&*id) {
        return Err("this loop's first pass has not ended yet".into());
    }
    let pass = status.last_pass;
    let age = Stamp::now().since(&pass.ended);
    if age > settings.poll_time * 3 + settings.deadline {
        return Err(format!("the last pass ended {} ago", in_words(age)));
    }
    match pass.ready && (pass.clean || !settings.strict) {
        true => Ok(pass.summary),
        false => Err(pass.summary),
    }
}

/// Live: the loop's last iteration is recent. A failed pass does not make it dead.
pub(super) fn live(settings: &Settings) -> Answer {
    let (at, _) = heartbeat(settings)?;
    let age = at.age();
    let line = format!("last iteration {} ago", in_words(age));
    match age <= settings.poll_time * 3 + settings.deadline + LIVE_GRACE {
        true => Ok(line),
        false => Err(line),
    }
}

/// The time of the loop's last iteration, which its file holds in seconds since 1970, and its identity.
fn heartbeat(settings: &Settings) -> Result<(Time, String), String> {
    let file = settings.loop_file.display();
    let text = crate::fs::read(&settings.loop_file, 1024)
        .map_err(|error| format!("no heartbeat from armorer-loop: {file}: {error}"))?;
    let text = String::from_utf8_lossy(&text);
    let (at, id) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let at = at.parse().map_err(|_| format!("{file} holds no time"))?;
    Ok((Time(at), id.to_owned()))
}
