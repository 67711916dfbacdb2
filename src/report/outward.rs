//! What the API server learns of a pass: the node's taint, and events.

use std::time::{Duration, Instant};

use crate::clock::Stamp;
use crate::error::{Error, Exit};
use crate::kubernetes::taint::Marker;
use crate::kubernetes::{Api, events, taint};
use crate::report::Report;
use crate::settings::Pass as Settings;
use crate::state::folder::Folder;

/// The node's object and its events are not waited for longer, each.
pub(crate) const NODE_TIME: Duration = Duration::from_secs(10);

/// Takes the start-up taint from the node when it is ready for the first time (`--clear-taint`).
/// What keeps it there makes the pass not converged.
pub(crate) fn clear_taint(
    settings: &Settings,
    api: &Api,
    folder: &Folder,
    boot_id: Option<&str>,
    report: &mut Report,
) {
    const MEMO: &str = "taint";
    let (Some(key), Some(node), Some(boot_id)) =
        (&settings.cluster.clear_taint, &settings.node, boot_id)
    else {
        return;
    };
    let set = &settings.common.set;
    let marker = Marker {
        boot_id: boot_id.to_owned(),
        pod: settings.pod.clone(),
        node: node.clone(),
        key: key.clone(),
        uid: String::new(),
    };
    let noted: Option<Marker> = folder.memo(MEMO, set);
    if !report.is_ready() || marker.is_settled(noted.as_ref()) {
        return;
    }
    let cleared = api.until(Instant::now() + NODE_TIME).and_then(|client| {
        let cleared = taint::clear(&client, &marker, noted.as_ref());
        cleared.map_err(Error::from)
    });
    match cleared {
        Ok((uid, was_there)) => {
            if was_there {
                log::info!(action = "taint"; "the taint {key} is taken from the node {node}");
            }
            folder.keep_memo(MEMO, set, &Marker { uid, ..marker });
        }
        Err(error) => {
            report.exit = report.exit.max(Exit::Incomplete);
            report.remark = Some(format!("the taint {key} stays: {error}"));
        }
    }
}

/// Tells the API server what became of the pass (`--events`). It is not worth failing a pass for.
pub(crate) fn tell(
    settings: &Settings,
    api: &Api,
    folder: &Folder,
    boot_id: Option<String>,
    result: &Result<Report, Error>,
) {
    const MEMO: &str = "events";
    let (true, Some(node)) = (settings.cluster.events, &settings.node) else {
        return;
    };
    let set = &settings.common.set;
    let boot_id = boot_id.unwrap_or_default();
    let noted: Option<events::Ledger> = folder.memo(MEMO, set);
    let before = noted
        .filter(|ledger| ledger.boot_id == boot_id)
        .unwrap_or_else(|| events::Ledger::new(boot_id));
    let mut ledger = before.clone();
    let teller = events::Teller {
        node,
        instance: settings.pod.as_ref().unwrap_or(node),
        set,
    };
    let client = || api.until(Instant::now() + NODE_TIME);
    let told = events::tell(&client, &teller, result, &mut ledger, Stamp::now());
    if let Err(error) = told {
        let why = error.to_string();
        log::warn!(action = "event", reason = why.as_str(); "not all events are written: {why}");
    }
    if ledger != before {
        folder.keep_memo(MEMO, set, &ledger);
    }
}
