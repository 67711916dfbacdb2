//! Prometheus, the web server of the manifests and `node_exporter`, on the loopback interface.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{Background, Node};
use serde_json::Value;

/// A path that tests/metrics/run sets.
fn setting(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable);
    PathBuf::from(value.unwrap_or_else(|| panic!("{variable} is not set: run tests/metrics/run")))
}

pub(crate) fn tool(name: &str) -> PathBuf {
    setting("METRICS_TOOLS").join(name)
}

/// The default install with a component, as it is rendered.
pub(crate) struct Manifest(Vec<Value>);

impl Manifest {
    pub(crate) fn read(component: &str) -> Self {
        let file = setting("METRICS_RENDERED").join(format!("{component}.json"));
        Self(serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap())
    }

    /// The object whose name begins with `name`.
    pub(crate) fn object(&self, kind: &str, name: &str) -> &Value {
        let named = |object: &&Value| {
            let whole = object["metadata"]["name"].as_str().unwrap();
            object["kind"] == kind && whole.starts_with(name)
        };
        let object = self.0.iter().find(named);
        object.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    pub(crate) fn container(&self, name: &str) -> &Value {
        let pod = &self.object("DaemonSet", "armorer")["spec"]["template"]["spec"];
        let mut containers = pod["containers"].as_array().unwrap().iter();
        containers
            .find(|container| container["name"] == name)
            .unwrap()
    }

    /// A variable of armorer's container.
    pub(crate) fn env(&self, name: &str) -> String {
        let mut env = self.container("armorer")["env"].as_array().unwrap().iter();
        let variable = env.find(|variable| variable["name"] == name).unwrap();
        variable["value"].as_str().unwrap().to_owned()
    }
}

/// The running programs, ended when dropped.
pub(crate) struct Stack {
    processes: Vec<Background>,
    folder: PathBuf,
    url: String,
    /// Where the web server serves the file.
    pub(crate) file: String,
}

impl Stack {
    /// Scrapes the file of `served` from the web server, as job armorer, and that of `collected`
    /// from `node_exporter`, as job node.
    pub(crate) fn start(served: &Node, collected: &Node, rules: &Path) -> Self {
        let folder = std::env::temp_dir().join(format!("armorer-metrics-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let [server, exporter, prometheus] = free_ports();
        let mut stack = Self {
            processes: Vec::new(),
            folder,
            url: format!("http://127.0.0.1:{prometheus}/api/v1"),
            file: String::new(),
        };
        let manifest = Manifest::read("metrics");
        stack.serve(&manifest, &served.path("metrics"), server);
        let mut command = Command::new(tool("prometheus-node-exporter"));
        command.args(["--collector.disable-defaults", "--collector.textfile"]);
        command.arg("--collector.textfile.directory");
        command.arg(collected.path("metrics"));
        command.arg(format!("--web.listen-address=127.0.0.1:{exporter}"));
        stack.spawn(command);

        let monitor = manifest.object("PodMonitor", "armorer");
        let path = monitor["spec"]["podMetricsEndpoints"][0]["path"]
            .as_str()
            .unwrap();
        stack.file = format!("http://127.0.0.1:{server}{path}");
        let mut config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{}]\nscrape_configs:\n",
            rules.display()
        );
        for (job, port, path) in [("armorer", server, path), ("node", exporter, "/metrics")] {
            let _ = writeln!(
                config,
                "  - job_name: {job}\n    metrics_path: {path}\n    static_configs:\n      \
                 - targets: ['127.0.0.1:{port}']\n        labels: {{instance: node-{job}}}"
            );
        }
        let file = stack.folder.join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(tool("prometheus"));
        command.arg("--config.file").arg(file);
        command
            .arg("--storage.tsdb.path")
            .arg(stack.folder.join("data"));
        command.arg(format!("--web.listen-address=127.0.0.1:{prometheus}"));
        stack.spawn(command);
        stack
    }

    /// The command of the manifest's container, with its folders where this test has them.
    fn serve(&mut self, manifest: &Manifest, home: &Path, port: u16) {
        // Here node_exporter reads the same kind of file, under the name that it wants.
        symlink("metrics.prom", home.join("metrics.txt")).unwrap();
        let server = manifest.container("metrics");
        let words = server["command"].as_array().unwrap().iter();
        let words = words.map(|word| match word.as_str().unwrap() {
            "9478" => format!("127.0.0.1:{port}"),
            "/metrics" => home.display().to_string(),
            word => word.to_owned(),
        });
        let words: Vec<String> = words.collect();
        assert_eq!(words[0], "/usr/bin/busybox");
        let mut command = Command::new(tool("busybox"));
        command.args(&words[1..]);
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            let user = &server["securityContext"]["runAsUser"];
            let user = u32::try_from(user.as_u64().unwrap()).unwrap();
            command.uid(user).gid(user);
        }
        self.spawn(command);
    }

    fn spawn(&mut self, mut command: Command) {
        let log = self.folder.join(format!("{}.log", self.processes.len()));
        let log = fs::File::create(log).unwrap();
        command
            .stdin(Stdio::null())
            .stderr(log)
            .stdout(Stdio::null());
        self.processes.push(Background::start(&mut command));
    }

    /// The answer of Prometheus' API; null while it starts.
    pub(crate) fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let mut request = ureq::get(format!("{}/{path}", self.url));
        for (name, value) in parameters {
            request = request.query(name, value);
        }
        let Ok(mut answer) = request.config().http_status_as_error(false).build().call() else {
            return Value::Null;
        };
        let text = answer.body_mut().read_to_string().unwrap();
        let Ok(answer) = serde_json::from_str::<Value>(&text) else {
            return Value::Null;
        };
        assert_ne!(answer["status"], "error", "{parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// The series that `query` gives now.
    pub(crate) fn query(&self, query: &str) -> Vec<Value> {
        let data = self.get("query", &[("query", query)]);
        data["result"].as_array().cloned().unwrap_or_default()
    }

    /// The value of the only series that `query` gives.
    pub(crate) fn value(&self, query: &str) -> Option<f64> {
        match self.query(query).as_slice() {
            [series] => series["value"][1].as_str()?.parse().ok(),
            _ => None,
        }
    }

    /// The profiles, or nodes, that `alert` is pending or firing for.
    pub(crate) fn alerts(&self, alert: &str) -> Vec<String> {
        let data = self.get("alerts", &[]);
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        let labels = alerts.iter().map(|alert| &alert["labels"]);
        let labels = labels.filter(|labels| labels["alertname"] == alert);
        let subject = |labels: &Value| {
            let subject = labels.get("profile").unwrap_or(&labels["instance"]);
            subject.as_str().unwrap().to_owned()
        };
        labels.map(subject).collect()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.processes.clear();
        if std::thread::panicking() {
            for log in ["0.log", "1.log", "2.log"] {
                let text = fs::read_to_string(self.folder.join(log)).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(5).collect();
                eprintln!("{log}: {tail:#?}");
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Ports that are free now.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
