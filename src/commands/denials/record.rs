//! One line of a log, and the AppArmor record in it. Pure.
//!
//! The kernel writes `audit(SECONDS.MILLISECONDS:SERIAL): apparmor="DENIED" KEY=VALUE …`
//! (security/apparmor/audit.c, security/lsm_audit.c). A value in quotes holds no quote; one without
//! quotes is a word, a number, or bytes in hex (kernel/audit.c, `audit_log_n_untrustedstring`).

use std::collections::HashMap;

use serde_json::Value;

use crate::time::Time;

/// The beginnings of the names of AppArmor's writers. A container can write a record too, and would so
/// choose the proposed rule.
const SOURCES: &str = "kernel: kern.notice: :notice: audit: audit( audit[ audisp dbus[ dbus-";
const UNTRUSTED: &str = "skipped: records not written by the kernel, auditd or D-Bus";
const NAMESPACE: &str = "skipped: records of other policy namespaces";

/// The kernel's words for records that are missing (lib/ratelimit.c, kernel/audit.c, printk.c).
const GAPS: &str = "_printk_skb: |__ratelimit: |audit_lost=| printk messages dropped";
const GAP: &str = "the log reports missing records: the counts are lower bounds";

/// A denial, or one that complain mode allowed: the record's fields, and `verdict`, `time` (RFC 3339 in
/// UTC, where the line has it), and `id`, which is the same in every log of the event.
pub(super) struct Record<'a>(HashMap<&'a str, String>);

/// The line as text: the journal's JSON (systemd.journal-fields(7)) becomes a line as of syslog.
pub(super) fn text(line: &str) -> String {
    let Ok(entry @ Value::Object(_)) = serde_json::from_slice(line.as_bytes()) else {
        return line.to_owned();
    };
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    let time = text("_SOURCE_REALTIME_TIMESTAMP").parse();
    let time = time.map_or("-".into(), |time: u64| Time(time / 1_000_000).to_string());
    format!("{time} {}: {}", text("_TRANSPORT"), text("MESSAGE"))
}

impl<'a> Record<'a> {
    /// The record in `line`.
    ///
    /// # Errors
    /// There is no record of a denial; with a note about the line, if it deserves one.
    pub(super) fn new(line: &'a str) -> Result<Self, Option<&'static str>> {
        let is_gap = GAPS.split('|').any(|words| line.contains(words));
        let gap = is_gap.then_some(GAP);
        let (before, record) = line.split_once("apparmor=\"").ok_or(gap)?;
        let (verdict, record) = record.split_once('"').ok_or(None)?;
        let verdict = match verdict {
            "DENIED" => "denied",
            "ALLOWED" => "would be denied",
            "KILLED" => "killed",
            _ => return Err(None),
        };
        let words = before.split([' ', ';', '=']);
        let mut sources = words.filter(|word| word.ends_with(':'));
        let is_known = |word: &str| SOURCES.split(' ').any(|known| word.starts_with(known));
        sources.all(is_known).then_some(()).ok_or(Some(UNTRUSTED))?;
        let mut fields = HashMap::new();
        let mut rest = record;
        while let Some((key, value, after)) = field(rest) {
            rest = after;
            fields.entry(key).or_insert(value);
        }
        let is_here = !fields.contains_key("namespace");
        is_here.then_some(()).ok_or(Some(NAMESPACE))?;
        if fields.contains_key("ouid") && fields.get("ouid") == fields.get("fsuid") {
            fields.insert("owner", "owner".into());
        }
        let modes = modes(fields.get("denied_mask").map_or("", String::as_str));
        fields.insert("modes", modes);
        let id = before.split(['(', ')']).nth(1).unwrap_or_default();
        let seconds = id.split('.').next().and_then(|text| text.parse().ok());
        let first = before.split(' ').next().unwrap_or_default();
        let written = if first.ends_with('Z') { first } else { "" };
        let time = seconds.map_or_else(|| written.into(), |seconds| Time(seconds).to_string());
        fields.insert("verdict", verdict.into());
        fields.insert("id", id.into());
        fields.insert("time", time);
        Ok(Self(fields))
    }

    /// A value; empty where there is none. Of a repeated key the first counts, since a process' own
    /// words come last.
    pub(super) fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }
}

/// The first key in `text`, its value, and the rest; none too where a value was cut.
fn field(text: &str) -> Option<(&str, String, &str)> {
    let (before, value) = text.split_once('=')?;
    let key = match before.rsplit([' ', '\u{1d}', '"']).next()? {
        "denied" | "mask" => "denied_mask",
        "label" => "profile",
        "peer_label" | "peer_profile" => "peer",
        "method" => "member",
        key => key,
    };
    if let Some(quoted) = value.strip_prefix('"') {
        let (value, rest) = quoted.split_once('"')?;
        return Some((key, value.into(), rest));
    }
    let end = value.find([' ', '\u{1d}', '\'']).unwrap_or(value.len());
    let (value, rest) = value.split_at(end);
    let bytes = hex::decode(value).unwrap_or_else(|_| value.into());
    Some((key, String::from_utf8_lossy(&bytes).into(), rest))
}

/// The letters of a file rule for the kernel's (lib.c, `aa_file_perm_chrs`); w is a too.
fn modes(denied: &str) -> String {
    let pairs = "r:r wcd:w a:a m:m k:k x:ix".split(' ');
    let pairs = pairs.filter_map(|pair| pair.split_once(':'));
    let modes = pairs.filter(|(kernel, _)| denied.contains(|letter| kernel.contains(letter)));
    let modes: String = modes.map(|(_, mode)| mode).collect();
    modes.replace("wa", "w")
}
