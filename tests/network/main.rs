//! The network side from outside: an API server on loopback with TLS, and a folder as the node.
//!
//! Run by tests/network/run, which makes the certificates and has the server's packages.

mod access;
mod cluster;
mod events;
mod faults;
mod measured;
#[path = "../it/node.rs"]
#[allow(dead_code, reason = "the folder as node is shared with tests/it")]
mod node;
mod pods;
mod source;
mod taint;
