//! Rules that this kernel does not enforce: their effect on a confined process, and the reports.

use std::fs;

use crate::support::{Case, confined, kernel};

/// Its author means to forbid new user namespaces.
const TEXT: &str = "abi <abi/4.0>,
profile custom.p flags=(attach_disconnected) {
  file,
  capability,
  signal,
  deny userns,
}
";

#[test]
fn a_denial_of_user_namespaces_holds_or_is_reported_everywhere() {
    let case = Case::new();
    case.want("custom.p", TEXT);
    let metrics = case.dir.join("metrics.prom");
    let check = case.armorer(&["check", case.source().to_str().unwrap()]);
    let plan = case.armorer(&["plan"]);
    let pass = case.armorer(&["reconcile", "--metrics-file", metrics.to_str().unwrap()]);
    let made = confined("custom.p", &["unshare", "-U", "true"]).status();
    let made = made.unwrap().success();
    // The kernel forgets, as at a reboot; the store does not.
    kernel::remove("custom.p");
    case.armorer(&["restore"]).exits(0);
    let status = case.armorer(&["status"]);
    let idle = case.armorer(&["reconcile", "--output", "json"]);
    let figures = fs::read_to_string(&metrics).unwrap();
    println!("a new user namespace: {made}");
    for (place, said, words) in [
        (
            "check",
            check.said,
            "userns rules are not enforced: the kernel lacks them",
        ),
        ("plan", plan.said, "userns rules are not enforced"),
        ("pass", pass.said, "userns rules are not enforced"),
        ("status", status.said, "userns rules are not enforced"),
        ("document", idle.said, "\"class\": \"userns\""),
        (
            "metrics",
            figures,
            "armorer_unenforced_rules{set=\"default\",profile=\"custom.p\",class=\"userns\"} 1",
        ),
    ] {
        assert_eq!(said.contains(words), made, "{place}: {said}");
    }
}
