//! The log on stderr: text for people, or one JSON event a line for collectors.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};

use env_logger::{Builder, Target};
use log::kv::Key;
use log::{LevelFilter, Record};

use crate::outcome::{Outcome, Severity};
use crate::time::Time;

/// Starts the log; `RUST_LOG` sets the level, info by default. A terminal shows no times.
pub(crate) fn start(json: bool) {
    let mut builder = Builder::new();
    builder
        .filter_level(LevelFilter::Info)
        .filter_module("ureq", LevelFilter::Warn)
        .filter_module("rustls", LevelFilter::Warn)
        .parse_env("RUST_LOG")
        .target(Target::Stderr);
    let plain = std::io::stderr().is_terminal();
    builder.format(move |out, record| {
        if json {
            return writeln!(out, "{}", event(record));
        }
        let level = match record.level() {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            _ => "",
        };
        match plain {
            true => writeln!(out, "{level}{}", record.args()),
            false => writeln!(out, "{} {level}{}", Time::now(), record.args()),
        }
    });
    // A second start in one process would be a bug, and the first log serves as well.
    let _ = builder.try_init();
}

/// Logs `outcome`, a problem as a warning.
pub(crate) fn outcome(outcome: &Outcome) {
    let level = match outcome.severity {
        Severity::Problem => log::Level::Warn,
        _ => log::Level::Info,
    };
    log::log!(
        level,
        profile = outcome.profile.as_str(),
        action:% = outcome.kind,
        reason = outcome.message.as_str();
        "{outcome}"
    );
}

/// One event: time, level, message, and its names (profile, action, reason).
fn event(record: &Record) -> String {
    let mut fields = BTreeMap::from([
        ("time", Time::now().to_string()),
        ("level", record.level().as_str().to_lowercase()),
        ("message", record.args().to_string()),
    ]);
    for name in ["profile", "action", "reason"] {
        let value = record.key_values().get(Key::from(name));
        fields.extend(value.map(|value| (name, value.to_string())));
    }
    serde_json::to_string(&fields).expect("strings")
}
