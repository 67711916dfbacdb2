//! The commands besides the pass itself.

pub(crate) mod check;
pub(crate) mod probe;
pub(crate) mod remove;
pub(crate) mod restore;
pub(crate) mod status;
pub(crate) mod wait;
