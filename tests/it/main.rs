//! The binary from outside: a folder that looks like a node as its root, and the real compiler.

mod compiler;
mod metrics;
mod node;
mod pass;
mod plan;
mod preflight;
mod refusals;
mod repeat;
mod sources;
mod standing;
mod state;
mod uninstall;
mod usage;
