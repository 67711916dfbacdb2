use std::fs;

use super::*;
use crate::tests::Folder;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_saved_state_is_loaded_and_closed_to_others() {
    let folder = Folder::new();
    let path = folder.at("new/armorer");
    let mut store = Store::new(&path);
    assert!(!store.is_prepared());
    let _lock = store.lock(Duration::ZERO).unwrap();
    assert!(store.is_prepared());
    assert_eq!(store.load().unwrap(), State::default());
    let mut state = State::default();
    state.enter_boot("x");
    store.save(&state).unwrap();
    let mut other = Store::new(&path);
    assert_eq!(other.load().unwrap(), state);
    assert_eq!(other.saved(), store.saved());
    let modes = ["", "state.json", "lock"].map(|file| mode(&path.join(file)));
    assert_eq!(modes, [0o700, 0o600, 0o600]);
}

#[test]
fn one_pass_holds_the_lock() {
    let folder = Folder::new();
    let store = Store::new(&folder.at("state"));
    let lock = store.lock(Duration::ZERO).unwrap();
    let error = store.lock(Duration::from_millis(30)).err().unwrap();
    assert!(error.to_string().contains("--lock-timeout"), "{error}");
    drop(lock);
    store.lock(Duration::ZERO).unwrap();
}

#[test]
fn damaged_policy_is_not_given_out_and_is_stored_anew() {
    let folder = Folder::new();
    let mut store = Store::new(&folder.at("state"));
    let _lock = store.lock(Duration::ZERO).unwrap();
    let digest = Digest::of(b"policy");
    assert!(store.get(Stored::Policy, digest).is_err());
    store.put(Stored::Policy, digest, b"policy").unwrap();
    assert_eq!(store.get(Stored::Policy, digest).unwrap(), b"policy");
    assert!(store.get(Stored::Text, digest).is_err());
    let file = folder.at(&format!("state/policy/{digest}.policy"));
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    for damage in ["", "polici", "policy and more"] {
        fs::write(&file, damage).unwrap();
        let reason = store.get(Stored::Policy, digest).unwrap_err();
        assert!(reason.contains("damaged"), "{reason}");
        store.put(Stored::Policy, digest, b"policy").unwrap();
        assert_eq!(store.get(Stored::Policy, digest).unwrap(), b"policy");
    }
}

#[test]
fn a_sweep_leaves_all_that_any_set_names_and_nothing_else() {
    let folder = Folder::new();
    let mut store = Store::new(&folder.at("state"));
    let _lock = store.lock(Duration::ZERO).unwrap();
    let state = State::parse(include_bytes!("../../../tests/state/schema-1.json")).unwrap();
    store.save(&state).unwrap();
    let named: Vec<Digest> = state.sets.values().flat_map(Set::stored).collect();
    for digest in &named {
        store.put(Stored::Text, *digest, b"1").unwrap();
        store.put(Stored::Policy, *digest, b"1").unwrap();
    }
    let kept = listed(&folder);
    store.put(Stored::Text, Digest::of(b"2"), b"2").unwrap();
    store.put(Stored::Policy, Digest::of(b"2"), b"2").unwrap();
    for leftover in ["policy/x", "policy/x.policy.0.tmp", "state.json.0.tmp"] {
        folder.write(&format!("state/{leftover}"), "");
    }
    assert_ne!(listed(&folder), kept);
    store.sweep(&state);
    assert_eq!(listed(&folder), kept);
}

fn listed(folder: &Folder) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(folder.path()).sort_by_file_name();
    files
        .into_iter()
        .map(|file| file.unwrap().into_path())
        .collect()
}

#[test]
fn each_set_has_a_status_of_its_own() {
    let store = Store::new(Path::new("/state"));
    let paths = ["default", "web"].map(|set| store.status_path(set));
    let expected = ["/state/status.json", "/state/status-web.json"];
    assert_eq!(paths, expected.map(PathBuf::from));
}
