//! armorer's own AppArmor profile, which the compiler runs in where the kernel allows. Pure.

use std::path::Path;

/// The profile's name; users' profiles have other prefixes.
pub(crate) const PROFILE: &str = "armorer.compiler";

const TEMPLATE: &str = include_str!("armorer.compiler");

/// The profile's text for a compiler at `program` that reads below `base` and `features`.
///
/// # Errors
/// A path that would have to be quoted: it could bring rules of its own.
pub(super) fn text(program: &Path, base: &Path, features: &Path) -> Result<String, String> {
    let mut text = TEMPLATE.to_owned();
    for (word, path) in [("PROGRAM", program), ("BASE", base), ("FEATURES", features)] {
        let path = path.to_str().filter(|path| is_plain(path)).ok_or_else(|| {
            format!(
                "the path {} has characters that no rule of a profile can have as they are",
                path.display()
            )
        })?;
        text = text.replace(&format!("  {word}"), &format!("  {path}"));
    }
    Ok(text)
}

fn is_plain(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    path.starts_with('/') && path.len() > 1 && !path.ends_with('/') && path.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_stand_in_the_rules() {
        let text = text(
            Path::new("/opt/parser"),
            Path::new("/etc/apparmor.d"),
            Path::new("/host/securityfs/apparmor/features"),
        )
        .unwrap();
        for rule in [
            "\n  /opt/parser mr,\n",
            "\n  /etc/apparmor.d/** r,\n",
            "\n  /host/securityfs/apparmor/features/** r,\n",
        ] {
            assert!(text.contains(rule), "{text}");
        }
        let rules = text.lines().filter(|line| !line.starts_with('#'));
        let left = ["PROGRAM", "BASE", "FEATURES"];
        assert!(
            !rules
                .clone()
                .any(|rule| left.iter().any(|l| rule.contains(l)))
        );
    }

    #[test]
    fn a_path_brings_no_rule_of_its_own() {
        for path in [
            "",
            "/",
            "relative",
            "/a b",
            "/a,\n/** rwx",
            "/a{b,c}",
            "/a*",
            "/a\"",
            "/a/",
        ] {
            let plain = Path::new("/plain");
            assert!(text(Path::new(path), plain, plain).is_err(), "{path:?}");
            assert!(text(plain, Path::new(path), plain).is_err(), "{path:?}");
        }
    }
}
