//! The binary from outside: a folder that looks like a node as its root, and the real compiler.

mod advice;
mod can;
mod changes;
mod check;
mod compiler;
mod copies;
mod gate;
mod includes;
mod limits;
mod metrics;
mod output;
mod ownership;
mod pass;
mod plan;
mod preflight;
mod ready;
mod refusals;
mod removal;
mod repeat;
mod sources;
mod state;
mod uninstall;
mod usage;
mod vocabulary;
