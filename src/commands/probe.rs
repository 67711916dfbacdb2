//! The answers to Kubernetes' probes: from files only, cheap, one line with the reason.

use std::io;
use std::path::Path;

use fs_err as fs;

use crate::clock::{Stamp, Time, in_words};
use crate::error::Exit;
use crate::report::heartbeat::Heartbeat;
use crate::state::folder::Folder;
use std::time::Duration;

/// The loop is given up on when it has not turned for three polls, a pass' deadline and this long,
/// in which a pass waits for another's lock.
const LIVE_GRACE: u64 = 60;

/// Ready: the last pass is younger than 3 polls and its deadline, it read its source wholly, and
/// every wanted profile that compiles is in force. `strict` also wants nothing refused or in
/// conflict.
pub(crate) fn ready(
    folder: &Folder,
    set: &str,
    boot_id: &str,
    poll_time: Duration,
    deadline: Duration,
    strict: bool,
) -> (Exit, String) {
    let no = |reason: String| (Exit::Incomplete, format!("not ready: {reason}"));
    let text = match fs::read(folder.heartbeat_path(set)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return no("no pass has ended yet".into());
        }
        Err(error) => return no(error.to_string()),
    };
    let Ok(heartbeat) = serde_json::from_slice::<Heartbeat>(&text) else {
        return no("the heartbeat cannot be read; the next pass writes it anew".into());
    };
    if heartbeat.boot_id != boot_id {
        return no("no pass has ended since the node booted".into());
    }
    let age = Duration::from_secs(Stamp::now().uptime.saturating_sub(heartbeat.uptime));
    if age > poll_time * 3 + deadline {
        return no(format!("the last pass ended {} ago", in_words(age)));
    }
    if !heartbeat.ready || (strict && !heartbeat.clean) {
        return no(heartbeat.reason);
    }
    (Exit::Converged, format!("ready: {}", heartbeat.reason))
}

/// Live: the loop has said so lately. A pass that fails does not make it dead.
pub(crate) fn live(
    loop_heartbeat: &Path,
    poll_time: Duration,
    deadline: Duration,
) -> (Exit, String) {
    let no = |reason: String| (Exit::Incomplete, format!("not live: {reason}"));
    let text = match fs::read_to_string(loop_heartbeat) {
        Ok(text) => text,
        Err(error) => return no(format!("no sign of the loop: {error}")),
    };
    let Ok(at) = text.trim().parse::<u64>() else {
        return no(format!("{} holds no time", loop_heartbeat.display()));
    };
    let age = Duration::from_secs(Time::now().0.saturating_sub(at));
    let limit = poll_time * 3 + deadline + Duration::from_secs(LIVE_GRACE);
    if age > limit {
        return no(format!("the loop turned {} ago", in_words(age)));
    }
    (
        Exit::Converged,
        format!("live: the loop turned {} ago", in_words(age)),
    )
}
