//! One write to the kernel a profile, and the look at what came of it.

use std::io;

use rustix::io::Errno;

use super::Applier;
use crate::error::Error;
use crate::plan::{Candidate, Change, Verb, Write, parent};
use crate::state::{Pending, ProblemKind};

impl Applier<'_> {
    /// Writes `candidate` to the kernel; what fails is a problem of this profile alone.
    ///
    /// # Errors
    /// The state cannot be saved.
    pub(crate) fn write(
        &mut self,
        candidate: Candidate,
        blob: Option<&[u8]>,
        write: &Write,
    ) -> Result<(), Error> {
        let name = candidate.name.as_str().to_owned();
        let verb = match write.intent {
            Pending::Load => Verb::Load,
            Pending::Replace | Pending::Remove => Verb::Replace,
        };
        if !self.dry {
            if blob.is_none()
                && let Err(why) = self.folder.blob(candidate.blob, &mut self.read)
            {
                self.forget_key(&candidate.name);
                let message = format!("{name}: {why}; the next pass compiles it again");
                self.problem(&name, ProblemKind::Failed, Verb::Fail, message);
                return Ok(());
            }
            self.claim_members(&candidate, write.intent)?;
            if let Err(error) = self.kernel.replace(blob.unwrap_or(&self.read)) {
                self.release_claims(&candidate);
                self.set_mut().counters.failures += 1;
                let message = format!("{name}: {}", kernel_refused(&error));
                self.problem(&name, ProblemKind::Failed, Verb::Fail, message);
                return Ok(());
            }
            self.writes += 1;
            let counters = &mut self.set_mut().counters;
            match write.intent {
                Pending::Load => counters.loads += 1,
                Pending::Replace | Pending::Remove => counters.replaces += 1,
            }
            counters.repairs += u64::from(write.repair);
        }
        for member in &candidate.members {
            let loaded = &mut self.observed.loaded;
            loaded.insert(member.name.clone(), member.mode);
        }
        self.change(Change {
            repair: write.repair,
            ..Change::new(name, verb, &*write.reason)
        });
        self.written.push(candidate.clone());
        self.record(candidate, true, write.repair);
        Ok(())
    }

    /// Asks the kernel whether what was written is there.
    pub(crate) fn read_back(&mut self) -> Result<(), Error> {
        if self.dry || self.written.is_empty() {
            return Ok(());
        }
        self.observed.loaded = self.kernel.profiles()?;
        let written = std::mem::take(&mut self.written);
        let names = written.iter().flat_map(|candidate| &candidate.members);
        let names = names
            .map(|m| m.name.as_str())
            .filter(|name| parent(name).is_none());
        let contents = self.kernel.contents(&names.collect(), &self.state.sha1s());
        let digests = contents.digests;
        self.learned.extend(contents.learned);
        for candidate in &written {
            let wrong = candidate.members.iter().find_map(|member| {
                let name = &member.name;
                match self.observed.loaded.get(name) {
                    None => Some(format!("{name} is not loaded")),
                    Some(mode) if *mode != member.mode => Some(format!("{name} is in mode {mode}")),
                    Some(_) => digests
                        .get(name)
                        .filter(|digest| **digest != candidate.blob)
                        .map(|_| format!("{name} has other contents")),
                }
            });
            if let Some(wrong) = wrong {
                self.in_force.remove(&candidate.name);
                self.set_mut().counters.failures += 1;
                let message = format!(
                    "the kernel took it, but now {wrong}: somebody else loads profiles; the next pass looks again"
                );
                self.problem(
                    candidate.name.as_str(),
                    ProblemKind::Failed,
                    Verb::Fail,
                    message,
                );
            }
        }
        self.observed.digests.extend(digests);
        Ok(())
    }
}

/// The kernel's answer to a write, in words.
fn kernel_refused(error: &io::Error) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let words = match errno {
        Some(Errno::PROTONOSUPPORT) => {
            "the kernel does not know this format of policy: compiler and kernel do not fit (a compressed or \
             newer format); see --parser"
        }
        Some(Errno::PROTO) => {
            "the kernel finds this policy damaged or asking for what it lacks; compile it with this node's features"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "the kernel does not let this process load policy: CAP_MAC_ADMIN was lost, or policy was locked"
        }
        Some(Errno::NOMEM) => "the kernel is out of memory; the next pass tries again",
        Some(Errno::NOSPC) => "the kernel's limit on loaded policy is reached",
        _ => return format!("the kernel refused it: {error}"),
    };
    format!("{words} ({error})")
}
