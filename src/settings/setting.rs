//! One setting: the flag's value, else the environment's, else the default.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::Env;
use crate::error::Error;
use crate::profile::quoted;

/// One setting, from the flag, else from its environment variable.
pub(crate) struct Setting<'a> {
    value: Option<String>,
    /// Where the value is from, as the user calls it.
    place: String,
    env: Env<'a>,
}

impl<'a> Setting<'a> {
    /// The setting of `flag` (without dashes), whose value on the command line is `value`.
    pub(crate) fn new(flag: &'static str, value: Option<&String>, env: Env<'a>) -> Self {
        Self {
            value: value.cloned(),
            place: format!("--{flag}"),
            env,
        }
        .or_env(&variable(flag))
    }

    /// Another variable that is asked when neither flag nor its own variable is set.
    pub(crate) fn or_env(mut self, name: &str) -> Self {
        if self.value.is_none() {
            self.value = (self.env)(name);
            name.clone_into(&mut self.place);
        }
        self
    }

    pub(crate) fn text(self) -> Option<String> {
        self.value
    }

    pub(crate) fn path(self) -> Option<PathBuf> {
        self.value.map(PathBuf::from)
    }

    /// The value as `read` understands it, or `default`.
    pub(crate) fn read<T>(
        self,
        default: T,
        wanted: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Error> {
        let Some(value) = &self.value else {
            return Ok(default);
        };
        read(value.trim()).ok_or_else(|| {
            Error::Usage(format!(
                "{} is {}: give {wanted}",
                self.place,
                quoted(value)
            ))
        })
    }

    pub(crate) fn duration(self, default: Duration) -> Result<Duration, Error> {
        self.read(default, "a time such as 30s, 15m or 2h", duration)
    }

    /// A whole number from `least` to `most`.
    pub(crate) fn number<T: FromStr + PartialOrd + std::fmt::Display + Copy>(
        self,
        default: T,
        least: T,
        most: T,
    ) -> Result<T, Error> {
        self.read(
            default,
            &format!("a whole number from {least} to {most}"),
            |text| text.parse().ok().filter(|n| *n >= least && *n <= most),
        )
    }
}

/// Whether a switch is on, by flag or by environment.
pub(crate) fn switch(flag: &'static str, on: bool, env: Env) -> Result<bool, Error> {
    if on {
        return Ok(true);
    }
    Setting::new(flag, None, env).read(false, "true or false", |text| {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        }
    })
}

fn variable(flag: &str) -> String {
    format!("ARMORER_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// A time with its unit: `500ms`, `30s`, `15m`, `2h`, `1d`; `0` needs none. At most a year.
pub(super) fn duration(text: &str) -> Option<Duration> {
    const YEAR: u64 = 366 * 24 * 3600;
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let time = match &text[digits..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        "d" => Duration::from_secs(number.checked_mul(86_400)?),
        _ => return None,
    };
    (time.as_secs() <= YEAR).then_some(time)
}

/// A size in bytes: `65536`, `512KiB`, `1MiB`. At most 1 GiB, at least one byte.
pub(super) fn size(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "B" => 1,
        "K" | "KiB" | "k" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        _ => return None,
    };
    number
        .checked_mul(unit)
        .filter(|bytes| (1..=1 << 30).contains(bytes))
}
