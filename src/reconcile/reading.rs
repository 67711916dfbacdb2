//! What is wanted: the sources, read, and the digest of all of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::kubernetes::Api;
use crate::profile::{Digest, RawProfile};
use crate::settings::{Confine, Pass as Settings};
use crate::source::{self, Content, Reading, Source};
use crate::state::folder::Folder;
use crate::state::{Object, State};
use crate::wanted::Wish;

/// The API server is not waited for longer: the lock is held meanwhile.
const API_TIME: Duration = Duration::from_secs(60);

/// Everything that the sources hold, and what to record of the API server's objects. Of objects
/// at a recorded version the stored texts are taken.
pub(super) fn read(
    settings: &Settings,
    started: Instant,
    folder: &Folder,
    state: &State,
    api: &Api,
) -> Result<(Vec<RawProfile>, BTreeMap<String, Object>), Error> {
    let none = BTreeMap::new();
    let set = state.sets.get(&settings.common.set);
    let recorded = set.map_or(&none, |set| &set.objects);
    let mut stored = BTreeMap::new();
    for (key, object) in recorded {
        let texts = object.texts.iter().map(|(name, digest)| {
            let text = folder.text(*digest).ok()?;
            let fits = text.len() as u64 <= settings.rules.limits.profile_bytes;
            fits.then(|| RawProfile {
                name: name.clone(),
                source: key.clone(),
                text: Ok(text),
            })
        });
        if let Some(texts) = texts.collect::<Option<Vec<_>>>() {
            stored.insert(key.clone(), texts);
        }
    }
    let known = recorded
        .iter()
        .filter(|(key, _)| stored.contains_key(*key))
        .map(|(key, object)| (key.clone(), object.version.clone()))
        .collect();
    let reading = Reading {
        limits: settings.rules.limits.clone(),
        api: api.clone(),
        deadline: started + settings.deadline.min(API_TIME),
        allow_empty: settings.allow_empty,
    };
    let mut found = Vec::new();
    let mut objects = BTreeMap::new();
    for part in source::read_parts(&settings.sources, &reading, &known)? {
        let profiles = match part.content {
            Content::Profiles(profiles) => profiles,
            Content::Unchanged => stored.remove(&part.key).unwrap_or_default(),
        };
        if let Some(version) = part.version {
            let texts: Option<BTreeMap<String, Digest>> = profiles
                .iter()
                .map(|raw| {
                    let text = raw.text.as_ref().ok()?;
                    Some((raw.name.clone(), Digest::of(text.as_bytes())))
                })
                .collect();
            if let Some(texts) = texts {
                objects.insert(part.key, Object { version, texts });
            }
        }
        found.extend(profiles);
    }
    Ok((found, objects))
}

/// The digest of everything wanted, and of the options that change what comes of it.
pub(super) fn wanted_digest(settings: &Settings, wish: &Wish) -> Digest {
    let sources = settings.sources.iter().map(Source::to_string);
    let mut parts: Vec<Vec<u8>> = sources.map(String::into_bytes).collect();
    parts.push(wish.digest.clone());
    parts.push(rules_digest(settings).as_ref().to_vec());
    parts.push(settings.adopt.join("\n").into_bytes());
    parts.push(vec![u8::from(settings.confine_compiler == Confine::Auto)]);
    let copies = settings.copy_to.as_deref().unwrap_or(Path::new(""));
    parts.push(copies.as_os_str().as_encoded_bytes().to_vec());
    Digest::of_parts(parts)
}

/// The digest of the options that decide whether a text is accepted.
pub(super) fn rules_digest(settings: &Settings) -> Digest {
    let rules = &settings.rules;
    let switches = [
        rules.allow_attachment,
        rules.allow_unconfined,
        settings.complain,
    ];
    Digest::of_parts([
        env!("CARGO_PKG_VERSION").as_bytes(),
        rules.prefix.as_bytes(),
        rules.base.as_os_str().as_encoded_bytes(),
        &switches.map(u8::from),
    ])
}
