//! Where the API server is, which token is sent, and which certificates are trusted.

use std::path::{Path, PathBuf};
use std::{io, sync::Arc};

use ureq::http::{HeaderValue, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::error::Error;
use crate::profile::{printable, quoted};

/// Where the kubelet mounts a pod's token and `ca.crt`.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The hint where there is no such file.
const OUTSIDE: &str = ": outside a pod with a ServiceAccount, give --token-file and --ca-file";

/// The user's settings of the API server. The pod gives the missing ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// `https://HOST[:PORT][/PREFIX]`; plain http to this machine only.
    pub(crate) api_server: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
}

/// The API server's URL as the kubelet gives it to a pod's processes.
pub(crate) fn server_of_pod(host: &str, port: Option<&str>) -> String {
    let port = port.unwrap_or("443");
    match host.contains(':') {
        true => format!("https://[{host}]:{port}"),
        false => format!("https://{host}:{port}"),
    }
}

/// An [`Access`] made ready. Has no `Debug`: it holds the token.
pub(super) struct Credentials {
    /// Without a slash at its end.
    pub(super) server: String,
    pub(super) authorization: Option<HeaderValue>,
    /// The token's first characters; a text with these is never shown.
    pub(super) secret: Option<String>,
    /// The hint to where the certificates of `tls` come from.
    pub(super) ca: String,
    pub(super) tls: TlsConfig,
}

impl Credentials {
    /// Reads the files, and sends nothing.
    ///
    /// # Errors
    /// [`Error::Usage`] for a wrong URL, [`Error::Source`] for files that cannot be used.
    pub(super) fn new(access: &Access) -> Result<Self, Error> {
        let server = access.api_server.as_deref().ok_or_else(|| {
            Error::Usage("no API server: outside a pod, give --api-server".to_owned())
        })?;
        let account = Path::new(ACCOUNT);
        let mounted = account.join("token");
        let token_file = access.token_file.clone();
        let token_file = token_file.or_else(|| mounted.exists().then_some(mounted));
        let token = token_file.as_deref().map(token).transpose()?;
        let ca_file = access.ca_file.clone().unwrap_or(account.join("ca.crt"));
        let mut tls = TlsConfig::builder();
        if is_encrypted(server)? {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            tls = tls.unversioned_rustls_crypto_provider(provider);
            tls = tls.root_certs(certificates(&ca_file)?);
        }
        let ca_file = ca_file.display();
        Ok(Self {
            server: server.trim_end_matches('/').to_owned(),
            authorization: token.as_deref().map(bearer),
            secret: token.map(|token| token.chars().take(12).collect()),
            ca: format!("the server's certificate is checked against {ca_file} (--ca-file)"),
            tls: tls.build(),
        })
    }
}

/// Whether `server` is reached by TLS; without it, only this machine itself is.
fn is_encrypted(server: &str) -> Result<bool, Error> {
    let wrong = |reason: &str| {
        let server = quoted(server);
        Err(Error::Usage(format!("the API server {server} {reason}")))
    };
    let usable = |c: char| c.is_ascii_graphic() && !"@?#\\\"%".contains(c);
    let uri = Uri::try_from(server).unwrap_or_default();
    let host = uri.host().filter(|_| server.chars().all(usable));
    match (uri.scheme_str(), host.unwrap_or_default()) {
        (Some("http"), "127.0.0.1" | "[::1]" | "localhost") => Ok(false),
        (Some("http"), _) => wrong("does not use https, so the token could be read in transit"),
        (Some("https"), host) if !host.is_empty() => Ok(true),
        _ => wrong("is not of the form https://HOST[:PORT]"),
    }
}

fn token(file: &Path) -> Result<String, Error> {
    let text = String::from_utf8(contents(file)?).unwrap_or_default();
    let token = text.trim();
    if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
        let reason = "holds no token: give the token file of a ServiceAccount";
        return Err(unusable(file, reason));
    }
    Ok(token.to_owned())
}

fn bearer(token: &str) -> HeaderValue {
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value.expect("a token's characters are graphic");
    value.set_sensitive(true);
    value
}

fn certificates(file: &Path) -> Result<RootCerts, Error> {
    let pem = contents(file)?;
    let items = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = items.collect();
    if found.is_empty() {
        return Err(unusable(file, "holds no certificate in PEM format"));
    }
    Ok(RootCerts::from(found))
}

fn unusable(file: &Path, reason: &str) -> Error {
    Error::Source(printable(&format!("{} {reason}", file.display())))
}

fn contents(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => OUTSIDE,
            _ => "",
        };
        unusable(file, &format!("cannot be read: {error}{hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_server_is_a_url_for_either_address_family() {
        assert_eq!(server_of_pod("10.0.0.1", None), "https://10.0.0.1:443");
        let expected = "https://[fd00::1]:6443";
        assert_eq!(server_of_pod("fd00::1", Some("6443")), expected);
    }

    /// The token is sent over TLS, or stays on this machine.
    #[test]
    fn a_server_is_reached_by_tls_or_on_this_machine() {
        for server in [
            "https://10.0.0.1",
            "https://[fd00::1]:6443",
            "https://api.example.com:6443/prefix",
        ] {
            assert!(is_encrypted(server).unwrap(), "{server}");
        }
        for server in [
            "http://127.0.0.1:8080",
            "http://[::1]",
            "http://localhost/x",
        ] {
            assert!(!is_encrypted(server).unwrap(), "{server}");
        }
        for server in [
            "",
            "https://",
            "https:///x",
            "https://:443",
            "https://user@host",
            "https://host?x",
            "https://host#x",
            "https://a b",
            "http://10.0.0.1",
            "http://127.0.0.1.example.com",
            "http://localhost@example.com",
            "ftp://host",
            "host",
        ] {
            let error = is_encrypted(server).unwrap_err();
            assert!(matches!(error, Error::Usage(_)), "{error}");
        }
    }
}
