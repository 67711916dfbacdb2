//! The conditions on the node, as the test sees it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Stdio};

use crate::support::kernel::compile;
use crate::support::{confined, process::label, process::labels, until};

/// A text in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    /// The last has a child.
    Version(usize),
    /// One that does not compile.
    Broken,
}

impl Text {
    pub(crate) fn of(self, name: &str) -> String {
        match self {
            Self::Version(3) => {
                format!("profile {name} {{ file, signal, profile kid {{ file, signal, }} }}\n")
            }
            Self::Version(version) => {
                format!("profile {name} {{ file, signal, deny /v{version} w, }}\n")
            }
            Self::Broken => format!("profile {name} {{ file, signal, this is no rule, }}\n"),
        }
    }
}

/// A confined process, ended when dropped.
pub(crate) struct Held {
    child: Child,
    name: String,
    pub(crate) label: String,
}

impl Held {
    /// None if the profile did not let it start.
    pub(crate) fn start(name: &str) -> Option<Self> {
        let mut command = confined(name, &["sleep", "100000"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut held = Self {
            child: command.spawn().unwrap(),
            name: name.to_owned(),
            label: format!("{name} (enforce)"),
        };
        let mut ended = false;
        until(name, || {
            held.now() == held.label
                || fs::read_to_string(format!("/proc/{}/stat", held.child.id()))
                    .is_ok_and(|stat| stat.contains(") Z "))
        });
        if held.child.try_wait().unwrap().is_some() {
            ended = true;
        }
        (!ended).then_some(held)
    }

    pub(crate) fn now(&self) -> String {
        label(self.child.id())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) desired: BTreeMap<String, Text>,
    /// The version that each name of armorer's has in force, or had last.
    pub(crate) good: BTreeMap<String, usize>,
    pub(crate) held: Vec<Held>,
    /// The names that another program has replaced since the last undisturbed pass.
    pub(crate) replaced: BTreeSet<String>,
    hashes: RefCell<BTreeMap<(String, usize), Vec<u8>>>,
}

/// The required result of a pass.
pub(crate) struct Expected {
    pub(crate) exit: i32,
    /// Every name in force that is armorer's, or was.
    pub(crate) loaded: BTreeSet<String>,
    pub(crate) contents: BTreeMap<String, Vec<u8>>,
}

fn parent(name: &str) -> &str {
    name.split_once("//").map_or(name, |(parent, _)| parent)
}

impl Model {
    pub(crate) fn is_used(&self, name: &str) -> bool {
        self.held.iter().any(|held| parent(&held.name) == name)
    }

    /// Whether no process but those of others is confined by a profile of armorer's.
    pub(crate) fn only_others() -> bool {
        !labels()
            .iter()
            .any(|label| label.contains("custom.s") || label.contains("custom.always"))
    }

    fn members_of(name: &str, version: usize) -> Vec<String> {
        let kid = (version == 3).then(|| format!("{name}//kid"));
        std::iter::once(name.to_owned()).chain(kid).collect()
    }

    /// The names that another program has replaced and no text brings: they are left to it.
    pub(crate) fn left(&self) -> Vec<String> {
        let left = self.replaced.iter();
        let left = left.filter(|name| !self.desired.contains_key(*name));
        left.cloned().collect()
    }

    /// Every name that is desired and was good.
    pub(crate) fn members(&self) -> BTreeSet<String> {
        let desired = self
            .good
            .iter()
            .filter(|(name, _)| self.desired.contains_key(*name));
        desired
            .flat_map(|(name, version)| Self::members_of(name, *version))
            .collect()
    }

    /// The required result of a pass that found `before` loaded. The model moves on to it.
    pub(crate) fn after_pass(&mut self, before: &BTreeSet<String>) -> Expected {
        let mut exit = 0;
        for (name, text) in &self.desired {
            match text {
                Text::Version(version) => _ = self.good.insert(name.clone(), *version),
                Text::Broken => exit = 1,
            }
        }
        let mut loaded = self.members();
        let family = |parent: &str| {
            let child = format!("{parent}//");
            let family = before.iter();
            let family = family.filter(|n| *n == parent || n.starts_with(&child));
            family.cloned().collect::<Vec<_>>()
        };
        for held in self
            .held
            .iter()
            .filter(|held| held.name.starts_with("custom.s"))
        {
            let parent = parent(&held.name);
            if self.desired.contains_key(parent) {
                loaded.insert(held.name.clone());
            } else {
                loaded.extend(family(parent));
            }
        }
        self.good.retain(|name, _| loaded.contains(name));
        for name in self.left() {
            loaded.extend(family(&name));
            self.good.remove(&name);
        }
        let desired = self
            .good
            .iter()
            .filter(|(name, _)| self.desired.contains_key(*name));
        let contents = desired
            .map(|(name, version)| (name.clone(), self.hash(name, *version)))
            .collect();
        Expected {
            exit,
            loaded,
            contents,
        }
    }

    /// How the kernel names the contents of a version.
    pub(crate) fn hash(&self, name: &str, version: usize) -> Vec<u8> {
        let mut known = self.hashes.borrow_mut();
        let hash = known.entry((name.to_owned(), version));
        hash.or_insert_with(|| compile(&Text::Version(version).of(name)))
            .clone()
    }
}
