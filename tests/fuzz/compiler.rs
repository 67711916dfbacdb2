//! Properties of the compiler's messages and of a text's includes, for any bytes.
//!
//! Each function panics where its property does not hold.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use super::explain::explain;
use super::includes::scan;
use super::resources::Resources;
use super::{Compiler, Settings, Text};
use crate::outcome::Refusal;
use crate::properties::assert_clean;

/// A compiler's messages become one clean line, which shows nothing of an included file.
pub(crate) fn message(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for code in [0, 1, 126, 127] {
        assert_clean(&explained(&text, code).to_string());
    }
    let contents = text.replace(['\n', '\r'], " ");
    let message = format!(
        "AppArmor parser error for /proc/self/fd/0 in profile /etc/apparmor.d/abstractions/z at line 7: \
         {contents} c4n4ry\n"
    );
    let refusal = explained(&message, 1);
    assert!(!refusal.message.contains("c4n4ry"), "{refusal}");
}

/// Found includes are in the text, in its order.
pub(crate) fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let found = scan(&text);
    assert!(found.is_sorted_by_key(|include| include.line));
    let lines = text.split_inclusive('\n').count();
    for include in found {
        assert!(!include.path.is_empty() && text.contains(include.path));
        assert!((1..=lines).contains(&usize::try_from(include.line).expect("a line")));
    }
}

fn explained(messages: &str, code: i32) -> Refusal {
    let compiler = Compiler {
        program: "/usr/sbin/apparmor_parser".into(),
        settings: Settings {
            program: None,
            base: "/etc/apparmor.d".into(),
            features: "/nowhere".into(),
            proc: "/proc".into(),
            time: Duration::from_secs(30),
            jobs: None,
            complain: false,
            policy_bytes: 1000,
        },
        resources: Resources {
            jobs: 2,
            address_space: 160 << 20,
        },
        launcher: Vec::new(),
        features_name: String::new(),
        other_features: None,
    };
    let ended = ExitStatus::from_raw(code << 8);
    let text = Text {
        name: "custom.x",
        contents: messages,
        last: false,
    };
    explain(&text, &compiler, messages, ended, 1000)
}
