//! The eight promises, on a real kernel: run as root in a throwaway virtual machine by
//! `tests/guest/run`. The assertions are about the kernel's answers and a confined process'
//! accesses; of armorer itself only the exit code, and that it reports something.

mod accepted;
mod adversary;
mod advice;
mod commands;
mod compiler;
mod confinement;
mod denials;
mod ownership;
mod questions;
mod robustness;
mod samples;
mod support;
mod unenforced;
