//! A small client of the Kubernetes API: get, list, create and patch; one deadline for all of it.
//!
//! Redirects are not followed, since the token would go with them.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufReader, Read};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use ureq::config::Config;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use ureq::http::{Method, Request, Response, Uri};
use ureq::{Agent, Body};

use super::access::{Access, Credentials};
use super::encoding::percent_encode;
use super::failure::{Failure, Trouble, WHO};
use super::object::List;
use super::resource::{Resource, Selector, Shape};
use crate::error::Error;

/// The bytes of one object: etcd takes 1.5 MiB, and Go writes some characters in six.
const OBJECT_BYTES: u64 = 10 << 20;
/// The bytes of one page of a list.
const LIST_BYTES: u64 = 32 << 20;
/// The objects that are asked for at once.
const PAGE: usize = 250;
/// A list is started anew this often when the server has forgotten where it was.
const RESTARTS: u32 = 3;
/// The first pause before another try, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// A try has at least this long, if the deadline has it.
const LEAST_TRY: Duration = Duration::from_secs(2);

/// The media types of `metadata` alone, of an object and of a list; a server that cannot do so
/// may send it whole.
const PARTIAL: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const PARTIAL_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const JSON: &str = "application/json";

/// How a change is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patch {
    /// RFC 6902: a list of operations, all or none.
    Json,
    /// RFC 7386: what is to be set.
    Merge,
}

/// Takes an answer's body for what it should be.
type Reader<'a> = &'a mut dyn FnMut(&mut dyn Read) -> serde_json::Result<()>;

/// A request.
pub(super) struct Call<'a> {
    method: Method,
    /// The verb, as rules name it.
    pub(super) verb: &'a str,
    pub(super) resource: Resource<'a>,
    query: String,
    accept: &'a str,
    /// Media type and text.
    body: Option<(&'a str, Vec<u8>)>,
    limit: u64,
}

/// The API server.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    pub(super) credentials: Rc<Credentials>,
    deadline: Instant,
}

impl Client {
    /// Reads token and certificates, and asks nobody yet.
    ///
    /// # Errors
    /// [`Error::Usage`] for a wrong setting, [`Error::Source`] for a file that cannot be used.
    pub(super) fn new(access: &Access) -> Result<Self, Error> {
        let mut credentials = Credentials::new(access)?;
        let config = Config::builder()
            .tls_config(credentials.tls.take().unwrap_or_default())
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
            deadline: Instant::now(),
        })
    }

    /// The same server and connections; after `deadline` nothing is waited for.
    pub(super) fn until(&self, deadline: Instant) -> Self {
        Self {
            deadline,
            ..self.clone()
        }
    }

    /// One object.
    ///
    /// # Errors
    /// Whatever keeps it from being read whole.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        resource: Resource<'_>,
        shape: Shape,
    ) -> Result<T, Failure> {
        self.send(&Call {
            method: Method::GET,
            verb: "get",
            resource,
            query: String::new(),
            accept: match shape {
                Shape::Metadata => PARTIAL,
                Shape::Whole => JSON,
            },
            body: None,
            limit: OBJECT_BYTES,
        })
    }

    /// All objects that are selected, at most `most`, as of one moment.
    ///
    /// # Errors
    /// Whatever keeps the list from being read whole, and more than `most`.
    pub(crate) fn list<T: DeserializeOwned>(
        &self,
        resource: Resource<'_>,
        selector: Selector<'_>,
        shape: Shape,
        most: usize,
    ) -> Result<Vec<T>, Failure> {
        let selection = match selector {
            Selector::Label(text) => format!("?labelSelector={}", percent_encode(text)),
            Selector::Field(text) => format!("?fieldSelector={}", percent_encode(text)),
        };
        let mut restarts = 0;
        let mut found = Vec::new();
        let mut query = format!("{selection}&limit={PAGE}");
        loop {
            let page: Result<List<T>, Failure> = self.send(&Call {
                method: Method::GET,
                verb: "list",
                resource,
                query: query.clone(),
                accept: match shape {
                    Shape::Metadata => PARTIAL_LIST,
                    Shape::Whole => JSON,
                },
                body: None,
                limit: LIST_BYTES,
            });
            let mut page = match page {
                Err(failure) if failure.status == Some(410) && restarts < RESTARTS => {
                    restarts += 1;
                    found.clear();
                    query = format!("{selection}&limit={PAGE}");
                    continue;
                }
                page => page?,
            };
            found.append(&mut page.items);
            if found.len() > most {
                return Err(Failure {
                    status: None,
                    is_missing: false,
                    line: self.line(
                        &format!("{}{selection}", resource.path()),
                        &format!("there are more than {most}: select fewer"),
                    ),
                });
            }
            if page.metadata.cursor.is_empty() {
                return Ok(found);
            }
            let cursor = percent_encode(&page.metadata.cursor);
            query = format!("{selection}&limit={PAGE}&continue={cursor}");
        }
    }

    /// Creates `object` among those that `resource` means.
    ///
    /// # Errors
    /// Whatever keeps it from being created; 409 also if an earlier try did create it and its
    /// answer was lost.
    pub(crate) fn create(
        &self,
        resource: Resource<'_>,
        object: &impl Serialize,
    ) -> Result<(), Failure> {
        self.tell(Method::POST, "create", resource, JSON, object)
    }

    /// Changes an object.
    ///
    /// # Errors
    /// Whatever keeps it from being changed; 422 if a test in a JSON patch does not hold.
    pub(crate) fn patch(
        &self,
        resource: Resource<'_>,
        kind: Patch,
        change: &impl Serialize,
    ) -> Result<(), Failure> {
        let media_type = match kind {
            Patch::Json => "application/json-patch+json",
            Patch::Merge => "application/merge-patch+json",
        };
        self.tell(Method::PATCH, "patch", resource, media_type, change)
    }

    fn tell(
        &self,
        method: Method,
        verb: &str,
        resource: Resource<'_>,
        media_type: &str,
        body: &impl Serialize,
    ) -> Result<(), Failure> {
        let body = serde_json::to_vec(body).expect("plain data");
        let answer: Result<IgnoredAny, Failure> = self.send(&Call {
            method,
            verb,
            resource,
            query: String::new(),
            accept: PARTIAL,
            body: Some((media_type, body)),
            limit: OBJECT_BYTES,
        });
        answer.map(|_| ())
    }

    fn send<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Failure> {
        let mut answer = None;
        self.exchange(call, &mut |body| {
            answer = Some(serde_json::from_reader(body)?);
            Ok(())
        })?;
        Ok(answer.expect("what was read"))
    }

    /// Tries until there is a final answer, or the deadline leaves no room for another try.
    fn exchange(&self, call: &Call<'_>, read: Reader<'_>) -> Result<(), Failure> {
        let path = format!("{}{}", call.resource.path(), call.query);
        let failed = |why: &str| Failure {
            status: None,
            is_missing: false,
            line: self.line(&path, why),
        };
        let mut tries = 0;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed("the deadline of the pass is over"));
            }
            let (why, after) = match self.once(call, &path, left, read) {
                Ok(()) => return Ok(()),
                Err(Trouble::Final(failure)) => return Err(failure),
                Err(Trouble::Passing(why, after)) => (why, after),
            };
            let pause = after.map_or_else(|| backoff(tries), |after| after + backoff(0));
            tries += 1;
            if pause >= self.deadline.saturating_duration_since(Instant::now()) {
                let times = if tries == 1 { "once" } else { "several times" };
                return Err(failed(&format!(
                    "{why} (tried {times}, and the deadline of the pass is near): is the API \
                     server up, and reached from here?"
                )));
            }
            log::debug!(
                "{}",
                self.line(&path, &format!("{why}: again in {pause:?}"))
            );
            thread::sleep(pause);
        }
    }

    fn once(
        &self,
        call: &Call<'_>,
        path: &str,
        left: Duration,
        read: Reader<'_>,
    ) -> Result<(), Trouble> {
        let uri = format!("{}{path}", self.credentials.server);
        let uri = Uri::try_from(uri).map_err(|error| self.give_up(path, &error.to_string()))?;
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(uri)
            .header(ACCEPT, call.accept);
        if let Some(authorization) = &self.credentials.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        // Half of what is left, so that a server that says nothing leaves time for another try.
        let time = (left / 2).max(LEAST_TRY).min(left);
        let sent = match &call.body {
            Some((media_type, body)) => request
                .header(CONTENT_TYPE, *media_type)
                .body(body.as_slice())
                .map_err(ureq::Error::from)
                .and_then(|request| self.run(request, time)),
            None => request
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| self.run(request, time)),
        };
        let mut response = sent.map_err(|error| self.trouble(path, error))?;
        if !response.status().is_success() {
            return Err(self.refusal(call, path, &mut response));
        }
        let body = response.body_mut().with_config().limit(call.limit).reader();
        read(&mut BufReader::new(body)).map_err(|error| {
            if error.is_io() {
                self.trouble(path, io::Error::from(error).into())
            } else if error.is_eof() {
                Trouble::Passing("the answer was cut".to_owned(), None)
            } else {
                let place = format!("line {} column {}", error.line(), error.column());
                self.give_up(
                    path,
                    &format!("at {place} the answer makes no sense: {WHO}"),
                )
            }
        })
    }

    fn run(
        &self,
        request: Request<impl ureq::AsSendBody>,
        time: Duration,
    ) -> Result<Response<Body>, ureq::Error> {
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(Some(time))
            .build();
        self.agent.run(request)
    }
}

/// How long to wait after `tries` tries: twice as long each time, and never the same on two nodes.
fn backoff(tries: u32) -> Duration {
    let (first, longest) = PAUSES;
    let pause = first.saturating_mul(1 << tries.min(10)).min(longest);
    let chance = RandomState::new().hash_one(tries) % 1000;
    pause / 2 + pause.mul_f64(f64::from(u32::try_from(chance).unwrap_or(0)) / 1000.0)
}
