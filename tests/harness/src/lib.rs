//! Shared by the tests from outside: the binary, a folder made like a node, background processes,
//! and a compiler that misbehaves.

mod compiler;
mod node;
mod process;
mod run;

pub use compiler::deeds;
pub use node::{BOOT, Node, profile, sha256};
pub use process::{Background, eventually, until};
pub use run::{Run, armorer, assert_plain, binary, parser, run};
