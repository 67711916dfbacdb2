//! Promise 6, by machine: a pass killed at each of its system calls, with each of its writes
//! failing, and with the power cut. Run by `tests/kill/run`.

mod folder;
mod guest;
mod policy;
mod power;
mod restore;
mod soak;
#[allow(dead_code, unused_imports, reason = "shared with tests/guest")]
#[path = "../guest/support/mod.rs"]
mod support;
mod sweep;
mod trace;
