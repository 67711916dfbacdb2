//! What several texts became, told apart.

use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::process::Process;
use crate::blob;

/// What is written, and not yet taken.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// Of `bytes`, this many were looked at.
    seen: usize,
    /// Bytes of the file that were read.
    read: u64,
}

impl Output {
    /// The policy of the next text, if `mark` after it is there.
    pub(super) fn next(&mut self, mark: &str) -> Option<Vec<u8>> {
        while let Ok((name, length)) = blob::first(&self.bytes[self.seen..]) {
            let before = self.seen;
            self.seen += length;
            if name == mark {
                let rest = self.bytes.split_off(self.seen);
                let mut policy = std::mem::replace(&mut self.bytes, rest);
                policy.truncate(before);
                self.seen = 0;
                return Some(policy);
            }
        }
        None
    }

    /// Reads what was written since.
    pub(super) fn read(&mut self, process: &Process) -> io::Result<()> {
        let length = process.output.metadata()?.size();
        let at = self.bytes.len();
        let more = usize::try_from(length.saturating_sub(self.read)).unwrap_or(usize::MAX);
        self.bytes.resize(at.saturating_add(more), 0);
        let file = &process.output;
        if let Err(error) = file.read_exact_at(&mut self.bytes[at..], self.read) {
            self.bytes.truncate(at);
            return Err(error);
        }
        self.read += more as u64;
        Ok(())
    }
}
