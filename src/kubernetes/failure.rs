//! What a failed request means, in one line for a person and without the token.

use std::io;
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;
use ureq::http::header::RETRY_AFTER;

use super::client::{Call, Client};
use super::object::Status;
use super::resource::Resource;
use crate::error::Error;
use crate::profile::printable;

/// What to ask oneself when an answer makes no sense.
pub(super) const WHO: &str = "is --api-server a Kubernetes API server?";

/// A request that came to nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The server's answer, if it gave one that was final.
    pub(crate) status: Option<u16>,
    /// Whether the API itself said that there is no such object.
    pub(crate) is_missing: bool,
    /// One line for a person, with the URL and what to do.
    pub(crate) line: String,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Source(failure.line)
    }
}

/// How one try ended, if not well.
pub(super) enum Trouble {
    Final(Failure),
    /// It may go better soon; the server perhaps said when.
    Passing(String, Option<Duration>),
}

impl Client {
    /// What an answer other than success means.
    pub(super) fn refusal(
        &self,
        call: &Call<'_>,
        path: &str,
        response: &mut Response<Body>,
    ) -> Trouble {
        let code = response.status();
        if code.as_u16() == 429 || (code.is_server_error() && code.as_u16() != 501) {
            let after = response.headers().get(RETRY_AFTER);
            let seconds = after.and_then(|after| after.to_str().ok()?.trim().parse().ok());
            let after = seconds.map(|seconds: u32| Duration::from_secs(seconds.into()));
            return Trouble::Passing(code.to_string(), after);
        }
        let body = response
            .body_mut()
            .with_config()
            .limit(64 * 1024)
            .read_to_vec();
        let status: Option<Status> = body.ok().and_then(|b| serde_json::from_slice(&b).ok());
        let who = &self.credentials.who;
        let (verb, words) = (call.verb, call.resource.words());
        let is_missing = code.as_u16() == 404
            && status.as_ref().is_some_and(|s| {
                s.reason == "NotFound"
                    && s.details.kind == call.resource.plural
                    && Some(s.details.name.as_str()) == call.resource.name
            });
        let why = match code.as_u16() {
            300..=399 => {
                "a redirect, which is not followed with a token: correct --api-server".into()
            }
            401 => format!(
                "the API server does not believe {who}: is the token expired, or another cluster's?"
            ),
            403 => format!("{who} may not {verb} {words}: bind it to a Role with that right"),
            404 if is_missing => format!("there are no {words}: create it, or correct its name"),
            404 => format!("nothing is there: {WHO}"),
            _ => self.shown(status),
        };
        Trouble::Final(Failure {
            status: Some(code.as_u16()),
            is_missing,
            line: self.line(path, &format!("{code}: {why}")),
        })
    }

    /// The server's own words, unless they repeat the token.
    fn shown(&self, status: Option<Status>) -> String {
        let message = status.map(|status| status.message).unwrap_or_default();
        let secret = self.credentials.secret.as_deref();
        if message.is_empty() || secret.is_some_and(|secret| message.contains(secret)) {
            "the API server says no more".to_owned()
        } else {
            message
        }
    }

    /// What an error below HTTP means.
    pub(super) fn trouble(&self, path: &str, error: ureq::Error) -> Trouble {
        let tls = match &error {
            ureq::Error::Rustls(error) => Some(error),
            ureq::Error::Io(error) => error.get_ref().and_then(|e| e.downcast_ref()),
            _ => None,
        };
        if let Some(tls) = tls {
            let ca = &self.credentials.ca;
            let hint = match tls {
                rustls::Error::InvalidCertificate(_) => {
                    format!("the server's certificate is checked against {ca} (--ca-file)")
                }
                _ => "is --api-server an https server, and its --client-cert wanted?".to_owned(),
            };
            return self.give_up(path, &format!("TLS: {tls}: {hint}"));
        }
        match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Trouble::Passing("the server closed the connection".to_owned(), None)
            }
            ureq::Error::Io(error) => Trouble::Passing(error.to_string(), None),
            ureq::Error::Timeout(_) => Trouble::Passing("no answer in time".to_owned(), None),
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                Trouble::Passing(error.to_string(), None)
            }
            ureq::Error::BodyExceedsLimit(limit) => self.give_up(
                path,
                &format!("the answer has more than {limit} bytes: {WHO}"),
            ),
            error => self.give_up(path, &format!("{error}: {WHO}")),
        }
    }

    /// That the answer about `resource` is of no use: why.
    pub(crate) fn complaint(&self, resource: Resource<'_>, why: &str) -> Failure {
        Failure {
            status: None,
            is_missing: false,
            line: self.line(&resource.path(), why),
        }
    }

    pub(super) fn give_up(&self, path: &str, why: &str) -> Trouble {
        Trouble::Final(Failure {
            status: None,
            is_missing: false,
            line: self.line(path, why),
        })
    }

    pub(super) fn line(&self, path: &str, why: &str) -> String {
        printable(&format!("{}{path}: {why}", self.credentials.server))
    }
}
