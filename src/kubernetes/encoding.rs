//! Percent signs in URLs, and the account that a token names. Pure.

use serde::Deserialize;

/// `text` with everything but RFC 3986's unreserved characters as `%XX`.
pub(super) fn percent_encode(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
            encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    encoded
}

/// What `text` stands for; none for a `%` without two digits, or bytes that are not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut decoded = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        decoded.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(decoded).ok()
}

/// The `NAMESPACE/NAME` of the `ServiceAccount` that a token is for: the claim `sub` of its
/// second part, `system:serviceaccount:NAMESPACE:NAME`. Not proven: for messages only.
pub(super) fn service_account(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        sub: String,
    }
    let payload = base64url_decode(token.split('.').nth(1)?)?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    let account = claims.sub.strip_prefix("system:serviceaccount:")?;
    let (namespace, name) = account.split_once(':')?;
    (is_dns(namespace) && is_dns(name)).then(|| format!("{namespace}/{name}"))
}

/// Whether `name` can be a Kubernetes object's: RFC 1123 labels with dots between them.
pub(crate) fn is_dns(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

/// Whether `label` is one RFC 1123 label, as a namespace's name is.
pub(crate) fn is_dns_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// RFC 4648's URL-safe alphabet, without padding.
fn base64url_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for c in text.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_go_there_and_back() {
        for (plain, encoded) in [
            (
                "app=web,tier in (a,b)",
                "app%3Dweb%2Ctier%20in%20%28a%2Cb%29",
            ),
            ("a-._~Z9", "a-._~Z9"),
            ("ü/%", "%C3%BC%2F%25"),
        ] {
            assert_eq!(percent_encode(plain), encoded);
            assert_eq!(percent_decode(encoded).as_deref(), Some(plain));
        }
        assert_eq!(percent_decode("a=b").as_deref(), Some("a=b"));
        for wrong in ["%", "%4", "%zz", "%+1", "%ff", "%é"] {
            assert_eq!(percent_decode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_names_its_account() {
        // {"alg":"none"} . {"sub":"system:serviceaccount:kube-system:armorer"}
        let token = "eyJhbGciOiJub25lIn0.\
            eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6a3ViZS1zeXN0ZW06YXJtb3JlciJ9.sig";
        assert_eq!(
            service_account(token).as_deref(),
            Some("kube-system/armorer")
        );
        for wrong in ["", "opaque", "a.b.c", "a.!.c", "a.e30.c"] {
            assert_eq!(service_account(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_are_as_kubernetes_has_them() {
        assert!(is_dns("a.b-c.9") && is_dns_label("kube-system"));
        for wrong in ["", "A", "a_b", "-a", "a-", "a..b", "a/b", &"a".repeat(64)] {
            assert!(!is_dns(wrong), "{wrong}");
        }
        assert!(!is_dns_label("a.b"));
    }
}
