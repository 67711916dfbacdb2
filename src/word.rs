//! Values that JSON holds as one string, read without a copy of it: a state has thousands of them.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

/// Reads what `parse` takes; `expected` says what that is.
///
/// # Errors
/// No string, or one that `parse` does not take.
pub(crate) fn read<'de, D, T, P>(
    deserializer: D,
    expected: &'static str,
    parse: P,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    P: Fn(&str) -> Option<T>,
{
    deserializer.deserialize_str(Word {
        expected,
        parse,
        value: PhantomData,
    })
}

struct Word<T, P> {
    expected: &'static str,
    parse: P,
    value: PhantomData<T>,
}

impl<T, P: Fn(&str) -> Option<T>> Visitor<'_> for Word<T, P> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}
