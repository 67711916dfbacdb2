//! The network side from outside: an API server on loopback with TLS, and a folder as the node.
//!
//! Run by tests/network/run, which makes the certificates and has the server's packages.

mod access;
mod cluster;
mod events;
mod faults;
mod measured;
mod node;
mod source;
