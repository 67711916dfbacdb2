//! An API server on loopback that says what a test wants.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::Error;
use crate::kubernetes::Api;
use crate::kubernetes::access::Access;
use crate::profile::Version;
use crate::source::directory::tests::Temp;
use crate::source::{Limits, Part, Reading, Source, read_parts};

/// {"sub":"system:serviceaccount:kube-system:armorer"}, and a part that must be seen nowhere.
pub(crate) const TOKEN: &str = "eyJhbGciOiJub25lIn0.\
    eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6a3ViZS1zeXN0ZW06YXJtb3JlciJ9.secret";

/// A request as the server saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: String,
    pub(crate) body: String,
}

/// A server on loopback that answers the Nth request with what `answer` says, byte for byte.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    token: Temp,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(usize, &Seen) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let token = Temp::new();
        token.write("token", format!("{TOKEN}\n"));
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                thread::spawn(move || serve(&stream, &log, &*answer));
            }
        });
        Self { url, seen, token }
    }

    pub(crate) fn access(&self) -> Access {
        Access {
            api_server: Some(self.url.clone()),
            token_file: Some(self.token.0.join("token")),
            ..Access::default()
        }
    }

    pub(crate) fn settings(&self, seconds: u64) -> Reading {
        Reading {
            limits: Limits::default(),
            api: Api::new(self.access()),
            deadline: Instant::now() + Duration::from_secs(seconds),
            allow_empty: false,
        }
    }

    pub(crate) fn read(&self, source: &str) -> Result<Vec<Part>, Error> {
        self.read_known(source, &BTreeMap::new())
    }

    pub(crate) fn read_known(
        &self,
        source: &str,
        known: &BTreeMap<String, Version>,
    ) -> Result<Vec<Part>, Error> {
        read_parts(
            &[Source::parse(source).unwrap()],
            &self.settings(120),
            known,
        )
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|seen| seen.line.clone()).collect()
    }
}

fn serve(stream: &TcpStream, log: &Mutex<Vec<Seen>>, answer: &dyn Fn(usize, &Seen) -> Vec<u8>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut seen = Seen::default();
        if reader.read_line(&mut seen.line).unwrap_or(0) == 0 {
            return;
        }
        seen.line = seen.line.trim_end_matches(" HTTP/1.1\r\n").to_owned();
        while !seen.headers.ends_with("\r\n\r\n") {
            if reader.read_line(&mut seen.headers).unwrap_or(0) == 0 {
                return;
            }
            if seen.headers == "\r\n" {
                break;
            }
        }
        let length = seen.headers.to_lowercase();
        let length = length.split("content-length: ").nth(1);
        let length = length.map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        seen.body = String::from_utf8(body).unwrap();
        let n = {
            let mut log = log.lock().unwrap();
            log.push(seen.clone());
            log.len() - 1
        };
        let bytes = answer(n, &seen);
        let close = !bytes.starts_with(b"HTTP/1.1 2") || bytes.windows(5).any(|w| w == b"close");
        if (&*stream).write_all(&bytes).is_err() || close {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

pub(crate) fn reply(status: u16, body: &Value) -> Vec<u8> {
    raw(status, "", &body.to_string())
}

pub(crate) fn raw(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes()
}

pub(crate) fn metadata(name: &str, version: &str) -> Value {
    json!({"name": name, "namespace": "ns", "uid": "u", "resourceVersion": version})
}

pub(crate) fn map(name: &str, version: &str, data: &Value) -> Value {
    json!({"kind": "ConfigMap", "metadata": metadata(name, version), "data": data})
}

pub(crate) fn missing(name: &str) -> Vec<u8> {
    let details = json!({"kind": "configmaps", "name": name});
    reply(
        404,
        &json!({"kind": "Status", "reason": "NotFound", "details": details}),
    )
}
