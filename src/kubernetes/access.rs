//! Where the API server is, who we are to it, and whom we believe.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use ureq::http::HeaderValue;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::encoding::service_account;
use crate::error::Error;
use crate::profile::{printable, quoted};

/// Where the kubelet mounts a pod's token, `ca.crt` and namespace.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The bytes of a file of credentials, at most.
const FILE_LIMIT: u64 = 1024 * 1024;

/// How to reach the API server, as the user said. What is not said comes from the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// `https://HOST[:PORT][/PREFIX]`; plain http to this machine only.
    pub(crate) api_server: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client_cert: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
}

/// The API server's URL as the kubelet tells a pod's processes; `env` looks variables up.
pub(crate) fn server_of_pod(env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let host = env("KUBERNETES_SERVICE_HOST")?;
    let port = env("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    Some(if host.contains(':') {
        format!("https://[{host}]:{port}")
    } else {
        format!("https://{host}:{port}")
    })
}

/// What was made of an [`Access`]. Has no `Debug`: it holds the token.
pub(super) struct Credentials {
    /// Without a slash at its end.
    pub(super) server: String,
    pub(super) authorization: Option<HeaderValue>,
    /// The token's first characters; a text with these is shown to nobody.
    pub(super) secret: Option<String>,
    /// Who we are, for messages.
    pub(super) who: String,
    /// Where the certificates of `tls` came from, for messages.
    pub(super) ca: String,
    pub(super) tls: Option<TlsConfig>,
}

impl Credentials {
    /// Reads the files, and asks nobody.
    ///
    /// # Errors
    /// [`Error::Usage`] for a wrong URL or a half client certificate, [`Error::Source`] for files
    /// that cannot be used.
    pub(super) fn new(access: &Access) -> Result<Self, Error> {
        let server = access.api_server.as_deref().ok_or_else(|| {
            Error::Usage("no API server: outside of a pod, name it by --api-server".to_owned())
        })?;
        let encrypted = is_encrypted(server)?;
        let account = Path::new(ACCOUNT);
        let client_cert = match (&access.client_cert, &access.client_key) {
            (Some(cert), Some(key)) => Some((cert, client_cert(cert, key)?)),
            (None, None) => None,
            _ => {
                return Err(Error::Usage(
                    "--client-cert and --client-key go together".to_owned(),
                ));
            }
        };
        let token_file = access.token_file.clone().or_else(|| {
            let mounted = account.join("token");
            (client_cert.is_none() && mounted.exists()).then_some(mounted)
        });
        let token = token_file.as_deref().map(token).transpose()?;
        let who = match (&token, &token_file, &client_cert) {
            (Some(token), Some(file), _) => match service_account(token) {
                Some(name) => format!("the ServiceAccount {name}"),
                None => format!("the account of {}", file.display()),
            },
            (_, _, Some((file, _))) => format!("the client certificate {}", file.display()),
            _ => "who gives no token (--token-file)".to_owned(),
        };
        let ca_file = access.ca_file.clone().unwrap_or(account.join("ca.crt"));
        let tls = if encrypted {
            let roots = certificates(&ca_file)?;
            Some(
                TlsConfig::builder()
                    .unversioned_rustls_crypto_provider(Arc::new(
                        rustls::crypto::ring::default_provider(),
                    ))
                    .root_certs(RootCerts::from(roots))
                    .client_cert(client_cert.map(|(_, cert)| cert))
                    .build(),
            )
        } else {
            None
        };
        Ok(Self {
            server: server.trim_end_matches('/').to_owned(),
            authorization: token.as_deref().map(bearer).transpose()?,
            secret: token.map(|token| token.chars().take(12).collect()),
            who,
            ca: ca_file.display().to_string(),
            tls,
        })
    }
}

/// Whether `server` is reached by TLS; without it, only this machine itself is.
fn is_encrypted(server: &str) -> Result<bool, Error> {
    let wrong = || {
        Error::Usage(format!(
            "the API server {} is no https://HOST[:PORT]",
            quoted(server)
        ))
    };
    let usable = |c: char| c.is_ascii_graphic() && !"@?#\\\"%".contains(c);
    if !server.chars().all(usable) {
        return Err(wrong());
    }
    let (scheme, rest) = server.split_once("://").ok_or_else(wrong)?;
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    match scheme {
        "https" if !host.is_empty() => Ok(true),
        "http" if ["127.0.0.1", "::1", "localhost"].contains(&host) => Ok(false),
        "http" => Err(Error::Usage(format!(
            "the API server {} is not reached by https, and the token would be read on the way",
            quoted(server)
        ))),
        _ => Err(wrong()),
    }
}

fn token(file: &Path) -> Result<String, Error> {
    let text = String::from_utf8(contents(file)?).unwrap_or_default();
    let token = text.trim();
    if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Error::Source(printable(&format!(
            "{} holds no token: give the file of a ServiceAccount's token",
            file.display()
        ))));
    }
    Ok(token.to_owned())
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::Source("the token cannot be sent".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let pem = contents(file)?;
    let found: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(useless(file, "holds no certificate in PEM format"));
    }
    Ok(found)
}

/// A certificate and its key. That they fit is asked here, since ureq would panic later.
fn client_cert(cert_file: &Path, key_file: &Path) -> Result<ClientCert, Error> {
    let chain = certificates(cert_file)?;
    let key = PrivateKey::from_pem(&contents(key_file)?)
        .map_err(|_| useless(key_file, "holds no private key in PEM format"))?;
    let ders = chain
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der().to_vec()))
        .collect();
    let der =
        PrivateKeyDer::try_from(key.der().to_vec()).map_err(|error| useless(key_file, error))?;
    CertifiedKey::from_der(ders, der, &rustls::crypto::ring::default_provider())
        .map_err(|error| useless(key_file, &format!("does not fit its certificate: {error}")))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn useless(file: &Path, why: &str) -> Error {
    Error::Source(printable(&format!("{} {why}", file.display())))
}

fn contents(file: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|open| open.take(FILE_LIMIT).read_to_end(&mut bytes))
        .map_err(|error| {
            let hint = if error.kind() == io::ErrorKind::NotFound {
                ": outside of a pod with a ServiceAccount, set --token-file and --ca-file"
            } else {
                ""
            };
            useless(file, &format!("cannot be read: {error}{hint}"))
        })?;
    Ok(bytes)
}
