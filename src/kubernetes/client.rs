//! A small client of the Kubernetes API with one deadline for all of its requests.
//!
//! Redirects are not followed, since the token would go with them.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};
use std::{io::ErrorKind::UnexpectedEof, thread};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Error::{ConnectionFailed, HostNotFound, Io, Rustls, Timeout};
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body};

use super::access::{Access, Credentials};
use super::{Metadata, Object};
use crate::{error::Error, profile::printable};

/// The bytes of one answer: a page of 250 metadata, or an object (etcd takes 1.5 MiB, and Go writes
/// some characters in six bytes).
const ANSWER_BYTES: u64 = 32 << 20;
/// The objects that are asked for at once.
const PAGE: usize = 250;
/// The restarts of a list whose continuation the server has forgotten.
const RESTARTS: u32 = 3;
/// The first pause before another try, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// A try has at least this long, if the deadline has it.
const LEAST_TRY: Duration = Duration::from_secs(2);

/// Everything but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The question when an answer makes no sense.
const SERVER_HINT: &str = "is --api-server a Kubernetes API server?";

/// The media type of whole objects.
pub(crate) const JSON: &str = "application/json";
/// Those of metadata alone, of an object and of a list; a server that cannot do so sends them whole.
pub(crate) const METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// RFC 6902: a list of operations, all or none.
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
/// RFC 7386: the fields to be set.
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";

/// A request that failed.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    /// The server's answer, if it gave one that was final.
    pub(crate) status: Option<u16>,
    /// Whether the API itself said that there is no such object.
    pub(crate) is_missing: bool,
    /// One line for a person, with the URL and the way out.
    pub(crate) line: String,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Source(failure.line)
    }
}

/// How one try ended, if not well.
enum Trouble {
    Final(Failure),
    /// It may go better soon; the server perhaps said when.
    Transient(String, Option<Duration>),
}

/// The deadlines of all tries and of one try, and the HTTP client.
pub(crate) type Answer<T> = Result<T, Failure>;
type Try<T> = Result<T, Trouble>;
type Exchange = Result<Response<Body>, ureq::Error>;
/// A change to an object: a method, a media type and a document.
type Edit<'a> = (&'a Method, &'a str, &'a Value);

/// The API server.
pub(crate) struct Client {
    agent: Agent,
    credentials: Credentials,
    deadline: Instant,
}

impl Client {
    /// Reads token and certificates, and sends nothing yet.
    ///
    /// # Errors
    /// [`Error::Usage`] for a wrong setting, [`Error::Source`] for a file that cannot be used.
    pub(crate) fn new(access: &Access, deadline: Instant) -> Result<Self, Error> {
        let credentials = Credentials::new(access)?;
        let config = Agent::config_builder()
            .tls_config(credentials.tls.clone())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("armorer/", env!("CARGO_PKG_VERSION")))
            .input_buffer_size(16 * 1024)
            .output_buffer_size(16 * 1024)
            .build();
        Ok(Self {
            agent: Agent::new_with_config(config),
            credentials,
            deadline,
        })
    }

    /// One object, in full ([`JSON`]) or its [`METADATA`].
    ///
    /// # Errors
    /// Anything that keeps it from being read completely.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str, accept: &str) -> Answer<T> {
        self.send(path, accept, None)
    }

    /// The metadata of all objects with these labels, at most `most`, as of one moment.
    ///
    /// # Errors
    /// Anything that keeps the list from being read completely, and more than `most`.
    pub(crate) fn list(&self, path: &str, labels: &str, most: usize) -> Answer<Vec<Metadata>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            metadata: Metadata,
            items: Vec<Object>,
        }
        let first = format!("{path}?labelSelector={}&limit={PAGE}", encoded(labels));
        let (mut restarts, mut found, mut page) = (0, Vec::new(), first.clone());
        loop {
            let answer: Page = match self.send(&page, METADATA_LIST, None) {
                Err(failure) if failure.status == Some(410) && restarts < RESTARTS => {
                    restarts += 1;
                    found.clear();
                    page.clone_from(&first);
                    continue;
                }
                answer => answer?,
            };
            found.extend(answer.items.into_iter().map(|item| item.metadata));
            if found.len() > most {
                let reason = format!("there are more than {most}: select fewer");
                return Err(self.failure(path, &reason));
            }
            let place = answer.metadata.r#continue;
            if place.is_empty() {
                return Ok(found);
            }
            page = format!("{first}&continue={}", encoded(&place));
        }
    }

    /// Creates or changes an object.
    ///
    /// # Errors
    /// Anything that keeps it from being done. 409 for a creation also if an earlier try did it and its
    /// answer was lost; 422 if a test in a JSON patch does not hold.
    pub(super) fn write<T: DeserializeOwned>(&self, path: &str, edit: Edit<'_>) -> Answer<T> {
        self.send(path, METADATA, Some(edit))
    }

    /// Tries until there is a final answer, or the deadline leaves no room for another try.
    fn send<T: DeserializeOwned>(&self, path: &str, accept: &str, edit: Option<Edit>) -> Answer<T> {
        let mut tries = 0;
        loop {
            let (reason, after) = match self.once(path, accept, edit) {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Final(failure)) => return Err(failure),
                Err(Trouble::Transient(reason, after)) => (reason, after),
            };
            let pause = after.map_or_else(|| backoff(tries), |after| after + backoff(0));
            tries += 1;
            if pause >= self.left() {
                let reason = format!(
                    "{reason} (tries: {tries}; the pass' deadline is near): is the API server up and reachable?"
                );
                return Err(self.failure(path, &reason));
            }
            let line = self.line(path, &format!("{reason}: again in {pause:?}"));
            log::debug!("{line}");
            thread::sleep(pause);
        }
    }

    /// The time to the deadline.
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn once<T: DeserializeOwned>(&self, path: &str, accept: &str, edit: Option<Edit>) -> Try<T> {
        let left = self.left();
        if left.is_zero() {
            return Err(self.give_up(path, "the pass' deadline has passed"));
        }
        // Half of the time left, so that a silent server leaves time for another try.
        let time = (left / 2).max(LEAST_TRY).min(left);
        let answer = self.exchange(path, accept, edit, time);
        let mut response = answer.map_err(|error| self.trouble(path, error))?;
        if !response.status().is_success() {
            return Err(self.refusal(path, &mut response));
        }
        let body = response.body_mut().with_config().limit(ANSWER_BYTES);
        let body = body.read_to_vec();
        let body = body.map_err(|error| self.trouble(path, error))?;
        serde_json::from_slice(&body).map_err(|error| {
            if error.is_eof() {
                return Trouble::Transient("the answer was truncated".to_owned(), None);
            }
            let place = format!("line {} column {}", error.line(), error.column());
            let reason = format!("unexpected answer at {place}: {SERVER_HINT}");
            self.give_up(path, &reason)
        })
    }

    /// Sends one request; `time` is that for all of the answer.
    fn exchange(&self, path: &str, accept: &str, edit: Option<Edit>, time: Duration) -> Exchange {
        let uri = format!("{}{path}", self.credentials.server);
        let mut request = Request::builder().uri(uri).header(ACCEPT, accept);
        if let Some(authorization) = &self.credentials.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let Some((method, media_type, document)) = edit else {
            let request = self.agent.configure_request(request.body(())?);
            return self.agent.run(request.timeout_global(Some(time)).build());
        };
        let request = request.method(method).header(CONTENT_TYPE, media_type);
        let request = request.body(document.to_string())?;
        let request = self.agent.configure_request(request);
        self.agent.run(request.timeout_global(Some(time)).build())
    }

    /// The meaning of an answer other than success: the server's own words where it has some.
    fn refusal(&self, path: &str, response: &mut Response<Body>) -> Trouble {
        let (status, code) = (response.status(), response.status().as_u16());
        if code == 429 || (status.is_server_error() && code != 501) {
            let after = response.headers().get(RETRY_AFTER);
            let seconds = after.and_then(|after| after.to_str().ok()?.trim().parse().ok());
            let after = seconds.map(|seconds: u32| Duration::from_secs(seconds.into()));
            return Trouble::Transient(status.to_string(), after);
        }
        // A `Status` object, if the API itself answers.
        let body = response.body_mut().with_config().limit(64 * 1024);
        let body = body.read_to_vec().unwrap_or_default();
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = answer["message"].as_str().unwrap_or_default();
        let secret = self.credentials.secret.as_deref();
        let repeats_token = secret.is_some_and(|secret| message.contains(secret));
        let reason = match code {
            300..=399 => "a redirect, which is not followed with a token: correct --api-server",
            _ if !message.is_empty() && !repeats_token => message,
            401 => "the API server rejects the token: has it expired, or is it another cluster's?",
            404 => SERVER_HINT,
            _ => "the API server gives no reason",
        };
        let name = answer["details"]["name"].as_str().unwrap_or_default();
        let is_named = path.ends_with(&format!("/{name}"));
        Trouble::Final(Failure {
            status: Some(code),
            is_missing: code == 404 && answer["reason"] == "NotFound" && is_named,
            line: self.line(path, &format!("{status}: {reason}")),
        })
    }

    /// The meaning of an error below HTTP.
    fn trouble(&self, path: &str, error: ureq::Error) -> Trouble {
        let tls = match &error {
            Rustls(error) => Some(error),
            Io(error) => error.get_ref().and_then(|e| e.downcast_ref()),
            _ => None,
        };
        if let Some(tls) = tls {
            let hint = match tls {
                rustls::Error::InvalidCertificate(_) => &self.credentials.ca,
                _ => "is --api-server an https server?",
            };
            return self.give_up(path, &format!("TLS: {tls}: {hint}"));
        }
        let text = error.to_string();
        let reason = match error {
            Io(error) if error.kind() == UnexpectedEof => "the server closed the connection",
            Timeout(_) => "timed out",
            Io(_) | HostNotFound | ConnectionFailed => &text,
            _ => return self.give_up(path, &format!("{text}: {SERVER_HINT}")),
        };
        Trouble::Transient(reason.to_owned(), None)
    }

    /// That an answer cannot be used: why.
    pub(crate) fn failure(&self, path: &str, reason: &str) -> Failure {
        Failure {
            line: self.line(path, reason),
            ..Failure::default()
        }
    }

    fn give_up(&self, path: &str, reason: &str) -> Trouble {
        Trouble::Final(self.failure(path, reason))
    }

    fn line(&self, path: &str, reason: &str) -> String {
        printable(&format!("{}{path}: {reason}", self.credentials.server))
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The pause after `tries` tries: twice as long each time, and never the same on two nodes.
fn backoff(tries: u32) -> Duration {
    let (first, longest) = PAUSES;
    let pause = first.saturating_mul(1 << tries.min(10)).min(longest);
    let chance = RandomState::new().hash_one(tries) % 1000;
    pause / 2 + pause.mul_f64(f64::from(u32::try_from(chance).unwrap_or(0)) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_characters_are_encoded() {
        for (plain, expected) in [
            (
                "app=web,tier in (a,b)",
                "app%3Dweb%2Ctier%20in%20%28a%2Cb%29",
            ),
            ("a-._~Z9", "a-._~Z9"),
            ("ü/%&+", "%C3%BC%2F%25%26%2B"),
        ] {
            assert_eq!(encoded(plain), expected);
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        for (tries, pause) in [(0, 250), (1, 500), (4, 4000), (5, 4000), (u32::MAX, 4000)] {
            let pause = Duration::from_millis(pause);
            let range = pause / 2..pause + pause / 2;
            let pauses: Vec<Duration> = (0..50).map(|_| backoff(tries)).collect();
            assert!(
                pauses.iter().all(|pause| range.contains(pause)),
                "{pauses:?}"
            );
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
        }
    }
}
