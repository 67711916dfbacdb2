//! The log on stderr: text for people, or one JSON event a line for collectors.

use std::collections::BTreeMap;
use std::io::Write;

use env_logger::{Builder, Target};
use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Record};

use crate::clock::Time;
use crate::settings::LogFormat;

/// Starts the log; `RUST_LOG` sets the level, info by default.
pub(crate) fn start(format: LogFormat) {
    let mut builder = Builder::new();
    builder
        .filter_level(LevelFilter::Info)
        .filter_module("ureq", LevelFilter::Warn)
        .filter_module("rustls", LevelFilter::Warn)
        .parse_env("RUST_LOG")
        .target(Target::Stderr);
    match format {
        LogFormat::Text => builder.format(|out, record| {
            let level = match record.level() {
                log::Level::Error => "error: ",
                log::Level::Warn => "warning: ",
                _ => "",
            };
            writeln!(out, "{} {level}{}", Time::now(), record.args())
        }),
        LogFormat::Json => builder.format(|out, record| writeln!(out, "{}", json(record))),
    };
    // A second start in one process would be a bug, and the first log serves as well.
    let _ = builder.try_init();
}

/// One event: time, level, message, and what the event names (profile, action, reason).
fn json(record: &Record) -> String {
    struct Fields(BTreeMap<String, String>);
    impl<'kvs> VisitSource<'kvs> for Fields {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            self.0.insert(key.to_string(), value.to_string());
            Ok(())
        }
    }
    let mut fields = Fields(BTreeMap::from([
        ("time".into(), Time::now().to_string()),
        ("level".into(), record.level().as_str().to_lowercase()),
        ("message".into(), record.args().to_string()),
    ]));
    let _ = record.key_values().visit(&mut fields);
    serde_json::to_string(&fields.0).expect("strings")
}
