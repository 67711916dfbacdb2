//! From files as found to profiles that may be loaded: names, doubles, members. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::blob;
use crate::plan::parent;
use crate::profile::{
    Digest, Mode, NAME_LIMIT, ProfileName, RawProfile, Refusal, RefusalKind, Text, quoted,
};
use crate::settings::Rules;
use crate::state::Member;

/// One wanted profile, not compiled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) name: ProfileName,
    pub(crate) source: String,
    pub(crate) text: String,
    pub(crate) digest: Digest,
}

impl Unit {
    /// As the compiler takes it.
    pub(crate) fn to_compile(&self) -> Text<'_> {
        Text {
            name: self.name.as_str(),
            contents: &self.text,
            source: &self.source,
        }
    }
}

/// Everything that the sources want.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(crate) units: Vec<Unit>,
    /// What is refused before it is compiled, by its name as found.
    pub(crate) refused: BTreeMap<String, Refusal>,
    /// Names and digests of all of it, in order.
    pub(crate) digest: Vec<u8>,
    /// How many profiles each source holds, by the source's name.
    pub(crate) counts: BTreeMap<String, usize>,
    /// Where each name that is refused was found first.
    refused_in: BTreeMap<String, String>,
}

impl Wish {
    /// Sorts out what `found` wants.
    pub(crate) fn new(found: Vec<RawProfile>, rules: &Rules) -> Self {
        let mut wish = Self::default();
        let digests: Vec<Digest> = found.iter().map(digest_of).collect();
        let parts = found.iter().zip(&digests).flat_map(|(raw, digest)| {
            [raw.name.as_bytes(), raw.source.as_bytes(), digest.as_ref()]
        });
        wish.digest = Digest::of_parts(parts).as_ref().to_vec();
        let doubles = found_twice(&found);
        wish.units.reserve_exact(found.len());
        for (raw, digest) in found.into_iter().zip(digests) {
            match wish.counts.get_mut(&raw.source) {
                Some(count) => *count += 1,
                None => drop(wish.counts.insert(raw.source.clone(), 1)),
            }
            let holders = doubles.get(&raw.name).map_or(&[][..], Vec::as_slice);
            match accept(raw, digest, holders, rules) {
                Ok(unit) => wish.units.push(unit),
                Err((name, source, refusal)) => {
                    wish.refused_in.entry(name.clone()).or_insert(source);
                    wish.refused.insert(name, refusal);
                }
            }
        }
        wish.units.sort_by(|a, b| a.name.cmp(&b.name));
        wish
    }

    /// Where `name` was found.
    pub(crate) fn source_of(&self, name: &str) -> &str {
        let accepted = self
            .units
            .binary_search_by(|unit| unit.name.as_str().cmp(name));
        match accepted {
            Ok(at) => &self.units[at].source,
            Err(_) => self.refused_in.get(name).map_or("", String::as_str),
        }
    }

    /// Every name that a file has, refused or not.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        let units = self.units.iter().map(|unit| unit.name.as_str());
        units
            .chain(self.refused.keys().map(String::as_str))
            .collect()
    }
}

fn digest_of(raw: &RawProfile) -> Digest {
    raw.text.as_ref().map_or_else(
        |refusal| Digest::of_parts(["refused", &refusal.message]),
        |text| Digest::of(text.as_bytes()),
    )
}

/// The names that were found more than once, with where.
fn found_twice(found: &[RawProfile]) -> BTreeMap<String, Vec<String>> {
    let mut by_name: Vec<&RawProfile> = found.iter().collect();
    by_name.sort_by(|a, b| a.name.cmp(&b.name));
    let same_names = by_name.chunk_by(|a, b| a.name == b.name);
    let doubles = same_names.filter(|same| same.len() > 1);
    doubles
        .map(|same| {
            let holders = same.iter().map(|raw| raw.source.clone());
            (same[0].name.clone(), holders.collect())
        })
        .collect()
}

/// `holders` are all the places of a name that was found more than once.
fn accept(
    raw: RawProfile,
    digest: Digest,
    holders: &[String],
    rules: &Rules,
) -> Result<Unit, (String, String, Refusal)> {
    let refuse = |refusal| Err((raw.name.clone(), raw.source.clone(), refusal));
    let name = match ProfileName::parse(&raw.name) {
        Ok(name) => name,
        Err(refusal) => return refuse(refusal),
    };
    if !name.as_str().starts_with(&rules.prefix) {
        return refuse(Refusal::new(
            RefusalKind::Name,
            format!(
                "the file {} does not start with the prefix {}: rename file and profile, or set --prefix",
                quoted(name.as_str()),
                quoted(&rules.prefix)
            ),
        ));
    }
    if !holders.is_empty() {
        let places = holders.join(" and ");
        return refuse(Refusal::new(
            RefusalKind::Duplicate,
            format!("{name} is wanted twice, by {places}: keep one"),
        ));
    }
    match raw.text {
        Ok(text) => Ok(Unit {
            name,
            source: raw.source,
            text,
            digest,
        }),
        Err(refusal) => Err((raw.name, raw.source, refusal)),
    }
}

/// Whether everything that a file's blob would load may be loaded; the file's own profile first.
///
/// # Errors
/// The first thing that is not allowed.
pub(crate) fn check_members(
    file: &ProfileName,
    members: &[blob::Member],
    rules: &Rules,
) -> Result<Vec<Member>, Refusal> {
    let refuse = |kind, text: String| Err(Refusal::new(kind, format!("{file}: {text}")));
    if members.is_empty() {
        return refuse(RefusalKind::Compile, "the text defines no profile".into());
    }
    let mut seen = BTreeSet::new();
    for member in members {
        check_member(file, member, rules)?;
        if !seen.insert(&member.name) {
            return refuse(
                RefusalKind::Duplicate,
                format!("defines {} twice", quoted(&member.name)),
            );
        }
        if let Some(parent) = parent(&member.name)
            && !members.iter().any(|other| other.name == parent)
        {
            return refuse(
                RefusalKind::Name,
                format!(
                    "{} is a child of a profile that the file does not define",
                    quoted(&member.name)
                ),
            );
        }
    }
    let Some(main) = members.iter().position(|m| is_main(&m.name, file.as_str())) else {
        let names: Vec<_> = members.iter().map(|m| quoted(&m.name)).collect();
        return refuse(
            RefusalKind::Name,
            format!(
                "defines {}, not {}: give file and profile the same name",
                names.join(", "),
                quoted(file.as_str())
            ),
        );
    };
    let mut accepted: Vec<Member> = members
        .iter()
        .map(|m| Member {
            name: m.name.clone(),
            mode: m.mode,
        })
        .collect();
    accepted[..=main].rotate_right(1);
    Ok(accepted)
}

fn check_member(file: &ProfileName, member: &blob::Member, rules: &Rules) -> Result<(), Refusal> {
    let name = &member.name;
    let refuse = |kind, text: String| Err(Refusal::new(kind, format!("{file}: {text}")));
    if let Some(namespace) = &member.namespace {
        return refuse(
            RefusalKind::Namespace,
            format!(
                "{} is in the policy namespace {}: only the node's own namespace is served",
                quoted(name),
                quoted(namespace)
            ),
        );
    }
    if !name.starts_with(&rules.prefix) {
        return refuse(
            RefusalKind::Name,
            format!(
                "defines {}, which does not start with the prefix {}",
                quoted(name),
                quoted(&rules.prefix)
            ),
        );
    }
    if name.len() >= NAME_LIMIT {
        return refuse(
            RefusalKind::Name,
            format!(
                "defines {} of {} bytes: the limit is {}",
                quoted(name),
                name.len(),
                NAME_LIMIT - 1
            ),
        );
    }
    let trick = name.is_empty()
        || name.starts_with([':', '&'])
        || name.chars().any(char::is_control)
        || name.split('/').any(|part| part == ".." || part == ".");
    if trick {
        return refuse(
            RefusalKind::Name,
            format!("defines {}, which is no plain name", quoted(name)),
        );
    }
    let top_level = parent(name).is_none();
    if top_level && member.attaches && !rules.allow_attachment {
        return refuse(
            RefusalKind::Attachment,
            format!(
                "{} attaches itself to programs by path, and so would confine the host's processes: \
                 take the path out of its first line, or set --allow-attachment",
                quoted(name)
            ),
        );
    }
    if member.mode == Mode::Unconfined && !rules.allow_unconfined {
        return refuse(
            RefusalKind::Unconfined,
            format!(
                "{} is in mode unconfined, and so confines nobody: take the flag out, or set --allow-unconfined",
                quoted(name)
            ),
        );
    }
    Ok(())
}

/// A profile named by a path has a file name as Debian gives it: /usr/bin/x in usr.bin.x.
fn is_main(profile: &str, file: &str) -> bool {
    profile == file
        || profile
            .strip_prefix('/')
            .is_some_and(|path| path.replace('/', ".") == file)
}

/// Whether `members` of `file` take a name that another file has.
pub(crate) fn check_intruder(
    file: &ProfileName,
    members: &[Member],
    files: &BTreeSet<&str>,
) -> Result<(), Refusal> {
    let intruder = members[1..]
        .iter()
        .find(|m| files.contains(m.name.as_str()));
    match intruder {
        None => Ok(()),
        Some(member) => Err(Refusal::new(
            RefusalKind::Duplicate,
            format!(
                "{file}: defines {} too, which has a file of its own: keep one",
                quoted(&member.name)
            ),
        )),
    }
}

/// The further profiles that more than one of `files` define, each with those files.
pub(crate) fn doubles<'a>(
    files: impl Iterator<Item = (&'a ProfileName, &'a [Member])>,
) -> BTreeMap<&'a str, Vec<&'a ProfileName>> {
    let mut definers = BTreeMap::<&str, Vec<&ProfileName>>::new();
    for (file, members) in files {
        let further = members.iter().skip(1).filter(|m| parent(&m.name).is_none());
        for member in further {
            definers.entry(&member.name).or_default().push(file);
        }
    }
    definers.retain(|_, files| files.len() > 1);
    definers
}

#[cfg(test)]
#[path = "wanted/tests.rs"]
mod tests;
