//! What is about to be loaded, recorded before it is: promise 6.

use super::Applier;
use crate::error::Error;
use crate::plan::{Candidate, Decision, Policy};
use crate::profile::ProfileName;
use crate::state::{Owned, Pending};

impl Applier<'_> {
    /// Records, before anything is written, what this pass is about to load: `ready`, which has
    /// policy, and `fresh`, which is compiled later. A name that somebody else has loaded is not
    /// claimed here.
    pub(crate) fn claim<'n>(
        &mut self,
        ready: impl Iterator<Item = &'n Candidate>,
        fresh: impl Iterator<Item = &'n ProfileName>,
        policy: &Policy,
    ) -> Result<(), Error> {
        let mut claims = Vec::new();
        for candidate in ready {
            if let Decision::Write(write) = self.view(policy).decide(candidate) {
                let members = candidate.members.iter().map(|m| m.name.clone());
                claims.extend(members.map(|member| (member, &candidate.name, write.intent)));
            }
        }
        let mut claimed = Vec::new();
        for name in fresh {
            let intent = match self.observed.loaded.contains_key(name.as_str()) {
                true if self.set().owned.contains_key(name.as_str()) => Pending::Replace,
                true => continue,
                false => Pending::Load,
            };
            claimed.push((name.as_str().to_owned(), name, intent));
        }
        let mut news = false;
        for (member, name, intent) in claims.into_iter().chain(claimed) {
            news |= self.claim_one(member, name, intent);
        }
        if news { self.save() } else { Ok(()) }
    }

    /// Whether that was not recorded before.
    fn claim_one(&mut self, member: String, profile: &ProfileName, intent: Pending) -> bool {
        let known = self.set().owned.get(&member);
        let news = known.is_none_or(|known| known.pending != Some(intent));
        let owned = self.set_mut().owned.entry(member).or_insert(Owned {
            profile: profile.clone(),
            pending: None,
            unwanted: None,
        });
        owned.pending = Some(intent);
        news
    }

    /// Takes back the claim to a name that was not loaded after all.
    pub(crate) fn release_claim(&mut self, name: &str) {
        if !self.observed.loaded.contains_key(name) {
            self.set_mut().owned.remove(name);
        }
    }

    /// A blob may bring names that were not known before it was compiled.
    pub(super) fn claim_members(
        &mut self,
        candidate: &Candidate,
        intent: Pending,
    ) -> Result<(), Error> {
        let new: Vec<String> = candidate
            .members
            .iter()
            .map(|member| member.name.clone())
            .filter(|name| !self.set().owned.contains_key(name))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        for member in new {
            self.claim_one(member, &candidate.name, intent);
        }
        self.save()
    }

    pub(super) fn release_claims(&mut self, candidate: &Candidate) {
        for member in &candidate.members {
            let was_ours = self.before.owned.contains_key(&member.name);
            if !was_ours || !self.observed.loaded.contains_key(&member.name) {
                self.set_mut().owned.remove(&member.name);
            }
        }
    }
}
