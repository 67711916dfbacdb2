//! A small client of the Kubernetes API with one deadline for all of its requests.
//!
//! Redirects are not followed, since the token would go with them.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufReader};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body};

use super::access::{Access, Credentials};
use crate::error::Error;
use crate::profile::printable;

/// The bytes of one answer: a page of 250 metadata, or an object (etcd takes 1.5 MiB, and Go writes
/// some characters in six bytes).
const ANSWER_BYTES: u64 = 32 << 20;
/// The objects that are asked for at once.
const PAGE: usize = 250;
/// A list is started anew this often when the server has forgotten its place in it.
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
const WHICH_SERVER: &str = "is --api-server a Kubernetes API server?";

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
#[derive(Debug)]
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
    Passing(String, Option<Duration>),
}

/// The API server. Clones share connections.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    credentials: Rc<Credentials>,
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
            credentials: Rc::new(credentials),
            deadline,
        })
    }

    /// One object, in full ([`JSON`]) or its [`METADATA`].
    ///
    /// # Errors
    /// Anything that keeps it from being read completely.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str, accept: &str) -> Result<T, Failure> {
        self.send(&Method::GET, path, accept, None)
    }

    /// The metadata of all objects with these labels, at most `most`, as of one moment.
    ///
    /// # Errors
    /// Anything that keeps the list from being read completely, and more than `most`.
    pub(crate) fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        labels: &str,
        most: usize,
    ) -> Result<Vec<T>, Failure> {
        #[derive(Deserialize)]
        struct Page<T> {
            #[serde(default)]
            metadata: Place,
            items: Vec<T>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Place {
            /// Where the next page starts; empty at the end.
            r#continue: String,
        }
        let first = format!("{path}?labelSelector={}&limit={PAGE}", encoded(labels));
        let (mut restarts, mut found, mut page) = (0, Vec::new(), first.clone());
        loop {
            let answer = self.send(&Method::GET, &page, METADATA_LIST, None);
            let mut answer: Page<T> = match answer {
                Err(failure) if failure.status == Some(410) && restarts < RESTARTS => {
                    restarts += 1;
                    found.clear();
                    page.clone_from(&first);
                    continue;
                }
                answer => answer?,
            };
            found.append(&mut answer.items);
            if found.len() > most {
                return Err(
                    self.failure(path, &format!("there are more than {most}: select fewer"))
                );
            }
            if answer.metadata.r#continue.is_empty() {
                return Ok(found);
            }
            page = format!("{first}&continue={}", encoded(&answer.metadata.r#continue));
        }
    }

    /// Creates or changes an object: tries until there is a final answer, or the deadline leaves no room
    /// for another try. `body` is a media type and a document.
    ///
    /// # Errors
    /// Anything that keeps it from being done. 409 for a creation also if an earlier try did it and its
    /// answer was lost; 422 if a test in a JSON patch does not hold.
    pub(crate) fn send<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<T, Failure> {
        let mut tries = 0;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.failure(path, "the deadline of the pass is over"));
            }
            let (reason, after) = match self.once(method, path, accept, body, left) {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Final(failure)) => return Err(failure),
                Err(Trouble::Passing(reason, after)) => (reason, after),
            };
            let pause = after.map_or_else(|| backoff(tries), |after| after + backoff(0));
            tries += 1;
            if pause >= self.deadline.saturating_duration_since(Instant::now()) {
                let reason = format!(
                    "{reason} (tries: {tries}; the deadline of the pass is near): is the API server up, and reached from here?"
                );
                return Err(self.failure(path, &reason));
            }
            log::debug!(
                "{}",
                self.line(path, &format!("{reason}: again in {pause:?}"))
            );
            thread::sleep(pause);
        }
    }

    fn once<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
        left: Duration,
    ) -> Result<T, Trouble> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.credentials.server))
            .header(ACCEPT, accept);
        if let Some(authorization) = &self.credentials.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        // Half of the time left, so that a silent server leaves time for another try.
        let time = (left / 2).max(LEAST_TRY).min(left);
        let sent = match body {
            Some((media_type, document)) => {
                let request = request.header(CONTENT_TYPE, media_type);
                self.run(request.body(document.to_string()), time)
            }
            None => self.run(request.body(()), time),
        };
        let mut response = sent.map_err(|error| self.trouble(path, error))?;
        if !response.status().is_success() {
            return Err(self.refusal(path, &mut response));
        }
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES)
            .reader();
        serde_json::from_reader(BufReader::new(body)).map_err(|error| {
            if error.is_io() {
                self.trouble(path, io::Error::from(error).into())
            } else if error.is_eof() {
                Trouble::Passing("the answer was cut".to_owned(), None)
            } else {
                let place = format!("line {} column {}", error.line(), error.column());
                self.give_up(
                    path,
                    &format!("the answer makes no sense at {place}: {WHICH_SERVER}"),
                )
            }
        })
    }

    fn run<B: ureq::AsSendBody>(
        &self,
        request: Result<Request<B>, ureq::http::Error>,
        time: Duration,
    ) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.configure_request(request?);
        self.agent.run(request.timeout_global(Some(time)).build())
    }

    /// The meaning of an answer other than success: the server's own words where it has some.
    fn refusal(&self, path: &str, response: &mut Response<Body>) -> Trouble {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Status {
            reason: String,
            message: String,
            details: Details,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Details {
            name: String,
        }
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
        let status = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok());
        let status: Status = status.unwrap_or_default();
        let secret = self.credentials.secret.as_deref();
        let repeats_token = secret.is_some_and(|secret| status.message.contains(secret));
        let reason = match code.as_u16() {
            300..=399 => "a redirect, which is not followed with a token: correct --api-server",
            _ if !status.message.is_empty() && !repeats_token => &status.message,
            401 => "the API server does not accept the token: is it expired, or another cluster's?",
            404 => WHICH_SERVER,
            _ => "the API server gives no reason",
        };
        Trouble::Final(Failure {
            status: Some(code.as_u16()),
            is_missing: code.as_u16() == 404
                && status.reason == "NotFound"
                && path.ends_with(&format!("/{}", status.details.name)),
            line: self.line(path, &format!("{code}: {reason}")),
        })
    }

    /// The meaning of an error below HTTP.
    fn trouble(&self, path: &str, error: ureq::Error) -> Trouble {
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
                _ => "is --api-server an https server?".to_owned(),
            };
            return self.give_up(path, &format!("TLS: {tls}: {hint}"));
        }
        match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Trouble::Passing("the server closed the connection".to_owned(), None)
            }
            ureq::Error::Timeout(_) => Trouble::Passing("no answer in time".to_owned(), None),
            ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                Trouble::Passing(error.to_string(), None)
            }
            error => self.give_up(path, &format!("{error}: {WHICH_SERVER}")),
        }
    }

    /// That an answer cannot be used: why.
    pub(crate) fn failure(&self, path: &str, reason: &str) -> Failure {
        Failure {
            status: None,
            is_missing: false,
            line: self.line(path, reason),
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
