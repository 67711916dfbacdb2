//! The binary from outside: a folder that looks like a node as its root, and the real compiler.

mod node;
mod usage;
