use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::tests::Folder;

/// A base tree.
fn tree() -> Folder {
    let base = Folder::new();
    base.write("abi/4.0", "");
    base.write(
        "abstractions/base",
        "abi <abi/3.0>,\n/a r,\n#include <abstractions/base>\ninclude if exists <abstractions/base.d>\n",
    );
    base.write("abstractions/base.d/local", "/b r,\n");
    for skipped in ["old.dpkg-old", ".hidden", "README", "below/deep"] {
        base.write(&format!("abstractions/base.d/{skipped}"), "include <x>\n");
    }
    base
}

/// Why `text` is refused.
#[track_caller]
fn refusal(base: &Folder, text: &str) -> Refusal {
    let refusal = Includes::new(base.path()).of(text).1;
    let refusal = refusal.unwrap_or_else(|| panic!("accepted: {text}"));
    assert_eq!(refusal.reason, "include");
    refusal
}

fn closure(base: &Folder, text: &str) -> Closure {
    let (closure, refusal) = Includes::new(base.path()).of(text);
    assert_eq!(refusal, None);
    closure
}

/// Each was opened by parser 3.0.8 or 4.1.0.
#[test]
fn a_file_outside_the_base_is_refused_however_the_compiler_is_led_there() {
    let base = Folder::new();
    for (line, text) in [
        (1, "include \"/etc/shadow\""),
        (1, "include /etc/shadow"),
        (1, "profile x {include\t/etc/shadow\n}"),
        (1, "#include /etc/shadow"),
        (1, "#include\n\n/etc/shadow\n"),
        (1, "#include/etc/shadow\n"),
        (1, "include if exists \"/etc/shadow\""),
        (1, "include if\texists /etc/shadow"),
        (1, "include <\"/etc/shadow\">"),
        (1, "include </etc/shadow>"),
        (1, "include < /etc/shadow>"),
        (1, "include <../shadow>"),
        (1, "include <a/../../shadow>"),
        (1, "include \"\\057etc/shadow\""),
        (1, "abi\"/etc/shadow\","),
        (1, "abi/etc/shadow,"),
        (1, "abi </etc/shadow>,"),
        (2, "profile x {\n priority=1include /etc/shadow\n}"),
        (3, "\n\n#include\n\n/etc/shadow\n"),
        (1, "include <a>include </etc/shadow>"),
    ] {
        let refusal = refusal(&base, text);
        assert_eq!(refusal.line, Some(line), "{text}");
        let shown = refusal.message.contains("shadow") || text.contains("057");
        assert!(shown, "{refusal}");
    }
}

/// In each the compiler takes the comment for more, and reads the file: it counts, and if it changes,
/// the text is compiled anew.
#[test]
fn an_include_in_a_comment_counts() {
    let base = tree();
    for text in [
        "profile x {\n mount \n# , include <abstractions/base>\n}",
        "profile x {\n /foo px -> \n# include <abstractions/base>\n}",
        "profile x {\n /a r,\n signal (send,\n# receive) , include <abstractions/base>\n}",
        "profile x { \"/a\nb\" r,\n signal\n # x, include <abstractions/base>\n}",
    ] {
        let closure = closure(&base, text);
        assert!(closure.contains_key("abstractions/base"), "{text}");
    }
}

#[test]
fn words_that_look_like_includes_are_accepted() {
    let base = Folder::new();
    for text in [
        "# Copyright, (c): does not include /etc/shadow\nprofile x {\n}\n",
        "profile x {\n  # we include /etc/foo here\n  # and include /etc/bar\n  /a r,\n  # include /b\n}\n",
        "include <tunables/global>\n# must include /etc/foo\nprofile x {\n}\n",
        "profile x {\n  /usr/include r,\n /usr/include/** r,\n  /lib/abi/ r,\n /x/abi /,\n}\n",
        "abi <abi/3.0>,\n",
        "include",
        "abi",
    ] {
        assert_eq!(Includes::new(base.path()).of(text).1, None, "{text}");
    }
}

#[test]
fn includes_of_includes_count_and_so_do_missing_files() {
    let base = tree();
    let text = "abi <abi/4.0>,\nprofile x { include <abstractions//./base> }\n";
    let found = closure(&base, text);
    let seen: Vec<_> = found
        .iter()
        .map(|(path, digest)| (path.as_str(), digest.is_some()))
        .collect();
    assert_eq!(
        seen,
        [
            ("abi/3.0", false),
            ("abi/4.0", true),
            ("abstractions/base", true),
            ("abstractions/base.d", true),
            ("abstractions/base.d/local", true),
        ]
    );
}

#[test]
fn every_change_of_an_included_file_or_folder_is_noticed() {
    type Change = fn(&Folder);
    let changes: [Change; 5] = [
        |base| base.write("abstractions/base", "/other r,\n"),
        |base| base.write("abstractions/base.d/local", "/c r,\n"),
        |base| base.write("abstractions/base.d/new", ""),
        |base| fs::remove_file(base.at("abstractions/base.d/local")).unwrap(),
        |base| base.write("abi/3.0", ""),
    ];
    let text = "profile x { include <abstractions/base> }\n";
    for change in changes {
        let base = tree();
        let before = closure(&base, text);
        assert!(Includes::new(base.path()).are_current(&before));
        base.write("abstractions/other", "");
        base.write("abstractions/base.d/old.dpkg-old", "changed");
        assert!(Includes::new(base.path()).are_current(&before));
        change(&base);
        assert!(!Includes::new(base.path()).are_current(&before));
        assert_ne!(closure(&base, text), before);
    }
}

type Damage = fn(&Folder);

/// The compiler would skip an unreadable file, and make weaker policy silently.
#[test]
fn a_file_that_exists_and_cannot_be_read_is_refused_by_its_name() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let outside = Folder::new();
    outside.write("secret", "");
    let cases: [(Damage, &str); 6] = [
        (
            |base| close(base, "abstractions/base.d/local", 0o640),
            "abstractions/base.d/local",
        ),
        (
            |base| close(base, "abstractions/base", 0o600),
            "abstractions/base",
        ),
        (
            |base| close(base, "abstractions/base.d", 0o750),
            "abstractions/base.d",
        ),
        // It can be listed and not entered.
        (
            |base| close(base, "abstractions/base.d", 0o754),
            "abstractions/base.d",
        ),
        (
            |base| close(base, "abstractions", 0o700),
            "abstractions/base",
        ),
        (
            |base| base.fifo("abstractions/base.d/fifo"),
            "abstractions/base.d/fifo",
        ),
    ];
    let text = "\nprofile x {\n include if exists <abstractions/base>\n}\n";
    for (damage, file) in cases {
        let base = tree();
        damage(&base);
        let refusal = refusal(&base, text);
        assert_eq!(refusal.line, Some(3), "{file}");
        let named = format!("\"{file}\"");
        assert!(refusal.message.contains(&named), "{refusal}");
        // The same file does not harm a text that does not include it.
        assert_eq!(closure(&base, "profile x { /a r, }\n"), Closure::new());
    }
    for target in [outside.at("secret"), outside.path().to_owned()] {
        let base = tree();
        base.link("abstractions/base.d/link", &target);
        let refused = match target.is_dir() {
            // The compiler does not descend into a folder's folders; it reads one that is named.
            true => refusal(&base, "include <abstractions/base.d/link>\n"),
            false => refusal(&base, text),
        };
        assert!(refused.message.contains("link"), "{refused}");
    }
}

fn close(base: &Folder, below: &str, mode: u32) {
    fs::set_permissions(base.at(below), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_link_inside_the_base_is_read_through() {
    let base = tree();
    base.link("abstractions/base.d/link", "../../abi/4.0");
    let found = closure(&base, "include <abstractions/base>\n");
    assert!(found["abstractions/base.d/link"].is_some());
    // The base itself may be a link, too.
    let above = Folder::new();
    above.link("base", base.path());
    let (closure, refusal) = Includes::new(&above.at("base")).of("include <abstractions/base>\n");
    assert_eq!((closure, refusal), (found, None));
}

#[test]
fn files_above_the_limit_are_refused() {
    let base = Folder::new();
    let text = |count: usize| -> String {
        let lines = (0..count).map(|n| format!("include if exists <none/{n}>\n"));
        lines.collect()
    };
    assert_eq!(closure(&base, &text(FILES_LIMIT)).len(), FILES_LIMIT);
    let refusal = refusal(&base, &text(FILES_LIMIT + 1));
    assert!(refusal.message.contains("2000"), "{refusal}");
}

/// The processor time of this thread.
fn spent(work: impl FnOnce()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let before = now();
    work();
    now().saturating_sub(before)
}

/// Texts that cost a scanner the square of their length if it looks at anything twice.
#[test]
fn hostile_texts_are_read_in_linear_time() {
    let base = tree();
    for piece in [
        "abi<;",
        "include <a>",
        "#include <a>",
        "include <",
        "include \"",
        "include if exists ",
        "include\n",
        "abi",
        "#abi ",
        "include\\",
        "# ",
        "\nabi <a",
    ] {
        let text = piece.repeat((512 << 10) / piece.len());
        let time = spent(|| drop(Includes::new(base.path()).of(&text)));
        println!("{time:?} {piece:?}");
        assert!(time < Duration::from_secs(4), "{piece:?}: {time:?}");
    }
}
