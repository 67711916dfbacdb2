//! The eight promises, on a real kernel: run as root in a throwaway virtual machine by
//! `tests/guest/run`. What is asserted is what the kernel says and what a confined process can
//! do; of armorer itself only the exit code, and that it says something.

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
