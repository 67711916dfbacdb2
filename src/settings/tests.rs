use super::*;

fn nothing(_: &str) -> Option<String> {
    None
}

#[test]
fn times_want_a_unit() {
    let seconds = |text| duration(text).map(|time| time.as_secs());
    assert_eq!(seconds("15m"), Some(900));
    assert_eq!(seconds("0s"), Some(0));
    assert_eq!(seconds("0"), Some(0));
    assert_eq!(seconds("1d"), Some(86_400));
    for wrong in [
        "",
        "15",
        "m",
        "-1s",
        "1.5h",
        "1w",
        "99999999999999999999s",
        "400d",
    ] {
        assert_eq!(duration(wrong), None, "{wrong}");
    }
}

#[test]
fn sizes_are_bytes_or_binary_units() {
    assert_eq!(size("512KiB"), Some(524_288));
    assert_eq!(size("7"), Some(7));
    for wrong in ["", "0", "KiB", "1TB", "-1", "99999MiB"] {
        assert_eq!(size(wrong), None, "{wrong}");
    }
}

#[test]
fn the_flag_wins_over_the_environment_and_that_over_the_default() {
    let env = |name: &str| (name == "ARMORER_SET").then(|| "from-env".to_owned());
    let mut flags = CommonFlags::default();
    assert_eq!(Common::new(&flags, &nothing).unwrap().set, "default");
    assert_eq!(Common::new(&flags, &env).unwrap().set, "from-env");
    flags.set = Some("from-flag".into());
    assert_eq!(Common::new(&flags, &env).unwrap().set, "from-flag");
}

#[test]
fn a_wrong_value_names_where_it_came_from() {
    let env = |name: &str| (name == "ARMORER_SET").then(|| "../x".to_owned());
    let error = Common::new(&CommonFlags::default(), &env).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("ARMORER_SET is \"../x\": give")
    );
    let flags = CommonFlags {
        set: Some("A".into()),
        ..CommonFlags::default()
    };
    let error = Common::new(&flags, &nothing).unwrap_err();
    assert!(error.to_string().starts_with("--set is \"A\": give"));
}

#[test]
fn the_root_rebases_every_place_of_the_host() {
    let flags = CommonFlags {
        root: Some("/tmp/node".into()),
        proc: Some("/host/proc".into()),
        ..CommonFlags::default()
    };
    let common = Common::new(&flags, &nothing).unwrap();
    assert_eq!(common.state_dir, Path::new("/tmp/node/var/lib/armorer"));
    assert_eq!(common.proc, Path::new("/tmp/node/host/proc"));
}

#[test]
fn switches_read_the_environment_too() {
    let env = |value: &'static str| move |_: &str| Some(value.to_owned());
    assert!(switch("allow-empty", false, &env("true")).unwrap());
    assert!(!switch("allow-empty", false, &env("0")).unwrap());
    assert!(switch("allow-empty", false, &env("maybe")).is_err());
    assert!(switch("allow-empty", true, &env("maybe")).unwrap());
}
