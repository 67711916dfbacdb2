//! An API server, its certificates, and a node that talks to it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};

use harness::{Background, Node, Run, profile};

/// A token as an account has it, with a part that must be seen nowhere.
pub(crate) const TOKEN: &str = "eyJhbGciOiJub25lIn0.\
    eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YXJtb3Jlcjphcm1vcmVyIn0.armorer-test-token";
pub(crate) const SECRET: &str = "armorer-test-token";
pub(crate) const ACCOUNT: &str = "system:serviceaccount:armorer:armorer";
pub(crate) const SOURCE: &str = "configmap://armorer/armorer-profiles";
pub(crate) const NODE: &str = "node-1";

/// The server and the node.
pub(crate) struct Cluster {
    pub(crate) node: Node,
    _server: Background,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    pub(crate) ports: Value,
}

/// A variable that tests/network/run sets.
pub(crate) fn setting(name: &str) -> String {
    std::env::var(name).expect("these tests are run by tests/network/run")
}

pub(crate) fn certificate(name: &str) -> String {
    format!("{}/{name}", setting("NETWORK_CERTIFICATES"))
}

/// The user that the token stands for, in a pod of `node`.
pub(crate) fn user(node: &str) -> Value {
    let extra = json!({"authentication.kubernetes.io/node-name": [node]});
    json!({"username": ACCOUNT, "extra": extra})
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let server = PathBuf::from(setting("NETWORK_TOP")).join("tests/network/server.py");
        let mut command = Command::new(setting("NETWORK_PYTHON"));
        command.arg(server).arg(setting("NETWORK_CERTIFICATES"));
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = Background::start(piped);
        let mut answers = BufReader::new(server.0.stdout.take().unwrap());
        let mut ports = String::new();
        answers.read_line(&mut ports).unwrap();
        let cluster = Self {
            node: Node::new(),
            pipes: Mutex::new((server.0.stdin.take().unwrap(), answers)),
            _server: server,
            ports: serde_json::from_str(&ports).expect("the server's ports"),
        };
        cluster.token(TOKEN);
        cluster.ask(&json!({"do": "tokens", "tokens": {TOKEN: user(NODE)}}));
        cluster
    }

    /// One that has a `ConfigMap` with a profile for each of `names`, which the kernel has too; after a
    /// first pass.
    pub(crate) fn settled(names: &[&str]) -> Self {
        let cluster = Self::start();
        cluster.publish(names);
        for name in names {
            cluster.node.load(name, &profile(name));
        }
        cluster.reconcile(&[]).assert(0);
        cluster.requests();
        cluster
    }

    /// Has the server do something.
    pub(crate) fn ask(&self, command: &Value) -> Value {
        let mut pipes = self.pipes.lock().unwrap();
        writeln!(pipes.0, "{command}").unwrap();
        let mut line = String::new();
        pipes.1.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).expect("the server's answer");
        assert!(answer.get("error").is_none(), "{answer}");
        answer["ok"].clone()
    }

    /// Puts an object there.
    pub(crate) fn put(&self, plural: &str, object: &Value) {
        self.ask(&json!({"do": "put", "objects": [{"plural": plural, "object": object}]}));
    }

    /// The objects that are there.
    pub(crate) fn objects(&self, plural: &str) -> Vec<Value> {
        let objects = self.ask(&json!({"do": "objects", "plural": plural}));
        objects.as_array().unwrap().clone()
    }

    /// Has the `ConfigMap` armorer-profiles hold a profile for each of `names`.
    pub(crate) fn publish(&self, names: &[&str]) {
        let texts = names.iter().map(|name| ((*name).to_owned(), profile(name)));
        self.put("configmaps", &map("armorer-profiles", texts.collect()));
    }

    /// The requests since the last question for them, as the server saw them.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let requests = self.ask(&json!({"do": "requests"}));
        requests.as_array().unwrap().clone()
    }

    /// The same, in short: `get configmaps armorer-profiles 200`.
    pub(crate) fn asked(&self) -> Vec<String> {
        let words = |request: &Value| {
            let word = |key: &str| request[key].as_str().unwrap().to_owned();
            let words = [word("verb"), word("resource"), word("name")];
            format!("{} {}", words.join(" ").trim_end(), request["code"])
        };
        self.requests().iter().map(words).collect()
    }

    pub(crate) fn token(&self, token: &str) {
        self.node.write("token", format!("{token}\n"));
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports["port"])
    }

    /// The server that injects `fault`.
    pub(crate) fn fault(&self, fault: &str) -> String {
        let port = &self.ports["faults"][fault];
        assert!(port.is_number(), "there is no fault {fault}");
        format!("https://127.0.0.1:{port}")
    }

    /// A pass over the `ConfigMap`.
    pub(crate) fn reconcile(&self, arguments: &[&str]) -> Run {
        self.pass(&self.url(), arguments)
    }

    /// A pass over the `ConfigMap`, with another server.
    pub(crate) fn pass(&self, url: &str, arguments: &[&str]) -> Run {
        let all = [&["reconcile", SOURCE, "--api-server", url], arguments].concat();
        self.run(&all)
    }

    /// Has every recorded problem begin long ago.
    pub(crate) fn age_problems(&self) {
        self.node.edit_state(|state| {
            let problems = state["sets"]["default"]["problems"]
                .as_object_mut()
                .unwrap();
            for problem in problems.values_mut() {
                problem["since"] = json!("2026-01-01T00:00:00Z");
            }
        });
    }

    /// armorer with the token, and the authority.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let (token, ca) = (self.node.arg("token"), certificate("authority.pem"));
        let access = ["--token-file", &token, "--ca-file", &ca];
        self.node.run(&[arguments, &access].concat())
    }
}

/// A `ConfigMap` of the namespace armorer.
pub(crate) fn map(name: &str, data: BTreeMap<String, String>) -> Value {
    let data: serde_json::Map<_, _> = data
        .into_iter()
        .map(|(key, text)| (key, text.into()))
        .collect();
    let labels = json!({"app": "profiles"});
    let metadata = json!({"name": name, "namespace": "armorer", "labels": labels});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
}
