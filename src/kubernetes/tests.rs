use super::*;

#[test]
fn names_are_as_kubernetes_has_them() {
    for name in ["a", "a.b-c.9", "kube-system", &"a".repeat(63)] {
        assert!(is_dns(name), "{name}");
    }
    let (long, longer) = ("a".repeat(64), vec!["a".repeat(63); 4].join("."));
    for wrong in [
        "", "A", "a_b", "-a", "a-", "a..b", ".a", "a.", "a/b", "ü", &long, &longer,
    ] {
        assert!(!is_dns(wrong), "{wrong}");
    }
    assert!(is_dns_label("kube-system") && !is_dns_label("a.b"));
}
