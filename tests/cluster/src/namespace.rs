//! A namespace of one test, and what tests need in one.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Cluster, READY, chart_of, control_plane, image};
use test_support::{ports, process::Program, scratch::Scratch};

/// What bastions logged, without their audit records.
const LOGS: &str = r#""$1" --namespace "$2" logs --selector=app.kubernetes.io/component=bastion --prefix --tail=-1 | grep '"level":'"#;

/// A namespace of one test.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Namespace<'a> {
    pub(super) fn new(cluster: &'a Cluster, name: String) -> Self {
        cluster.kubectl(&["create", "namespace", &name]);
        Self { cluster, name }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What an object outside of it says of its owner, to go away with it.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn as_owner(&self) -> Value {
        let namespace = self.cluster.get(&["namespace", &self.name]);
        json!({"apiVersion": "v1", "kind": "Namespace", "name": self.name, "uid": namespace["metadata"]["uid"]})
    }

    /// kubectl in it, not yet started.
    #[must_use]
    pub fn kubectl_program(&self, words: &[&str]) -> Program {
        self.cluster.kubectl_program(&["--namespace", &self.name]).args(words)
    }

    /// kubectl in it: what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn kubectl(&self, words: &[&str]) -> String {
        self.kubectl_program(words).succeed()
    }

    /// An object of it.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn get(&self, words: &[&str]) -> Value {
        control_plane::get(self.kubectl_program(&[]), words)
    }

    /// Applies objects to it, as YAML or JSON.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn apply(&self, objects: &str) {
        control_plane::apply(self.kubectl_program(&[]), objects);
    }

    /// Runs a command in a pod of it, and returns what that printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn exec(&self, pod: &str, words: &[&str]) -> String {
        self.kubectl_program(&["exec", pod, "--"]).args(words).succeed()
    }

    /// [`Cluster::wait_for_rollout`], in it.
    pub fn wait_for_rollout(&self, workload: &str) {
        self.cluster.wait_for_rollout(&self.name, workload);
    }

    /// Waits until a pod is ready.
    ///
    /// # Panics
    /// When two minutes pass first.
    pub fn wait_for_pod(&self, pod: &str) {
        self.cluster.wait_for(&format!("pod {pod} of {} is ready", self.name), READY, || {
            let words = ["wait", "--for=condition=Ready", "--timeout=5s", "pod", pod];
            self.kubectl_program(&words).output().status.success()
        });
    }

    /// The port of the node where a Service of type `NodePort` is, by the name of the Service's port; its
    /// only one, without a name. It answers a moment after the first pod is ready.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn node_port(&self, service: &str, port: Option<&str>) -> SocketAddr {
        let object = self.get(&["service", service]);
        let ports = object["spec"]["ports"].as_array().unwrap();
        let found = ports.iter().find(|known| port.is_none_or(|name| known["name"] == name));
        let number = found
            .and_then(|port| port["nodePort"].as_u64())
            .unwrap_or_else(|| panic!("{object} has no such port"));
        (self.cluster.node_address(), number.try_into().unwrap()).into()
    }

    /// Installs or upgrades the bastion's chart here as the release `bastion`, with the image that was made:
    /// what Helm printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn release(&self, verb: &str, values: &Value, more: &[&str]) -> String {
        self.cluster.image(image::BASTION);
        let image = json!({"image": {"registry": "localhost", "tag": "test", "pullPolicy": "Never"}});
        let scratch = Scratch::new("release");
        let mut helm = self.cluster.helm_program(&[verb, "bastion", "--namespace", &self.name]).args(more);
        for (name, values) in [("image.yaml", &image), ("values.yaml", values)] {
            helm = helm.arg("--values").arg(scratch.write(name, values.to_string()));
        }
        helm.arg(chart_of("bastion")).succeed()
    }

    /// Installs or upgrades a release of one of our charts here: what Helm printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn helm(&self, verb: &str, release: &str, chart: &str, values: &Value) -> String {
        let scratch = Scratch::new("release");
        let helm = self.cluster.helm_program(&[verb, release, "--namespace", &self.name, "--values"]);
        helm.arg(scratch.write("values.yaml", values.to_string())).arg(chart_of(chart)).succeed()
    }

    /// Starts a PostgreSQL behind the Service `postgres`, port 5432: database `orders`, superuser and
    /// password `admin`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn run_postgres(&self) {
        self.cluster.image(image::POSTGRES);
        self.apply(include_str!("postgres.yaml"));
        self.wait_for_service("postgres");
    }

    /// Starts an OpenBao behind the Service `openbao`, port 8200, plain HTTP: root token `root`, unsealed, in
    /// memory. It may have the tokens of service accounts reviewed.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn run_openbao(&self) {
        self.cluster.image(image::OPENBAO);
        self.apply(include_str!("openbao.yaml"));
        // Outside of the namespace, but it goes with it.
        let owner = self.as_owner();
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("{}-openbao", self.name), "ownerReferences": [owner]},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
            "subjects": [{"kind": "ServiceAccount", "name": "openbao", "namespace": self.name}],
        });
        self.cluster.apply(&binding.to_string());
        self.wait_for_service("openbao");
    }

    /// Waits until a Deployment is rolled out and the Service of its name answers: the proxy learns of it a
    /// moment later.
    fn wait_for_service(&self, name: &str) {
        self.wait_for_rollout(&format!("deployment/{name}"));
        ports::wait_until_answers(self.node_port(name, None), READY);
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What a program wrote is shown then.
            for words in [&["get", "all,events", "--output=wide"][..], &["describe", "pods"]] {
                let _ = self.kubectl_program(words).output();
            }
            let kubectl = control_plane::built("kubectl");
            let logs =
                Program::new("sh").env("KUBECONFIG", self.cluster.kubeconfig()).args(["-c", LOGS, "logs"]);
            let _ = logs.arg(kubectl).arg(&self.name).output();
        }
        let _ = self.cluster.kubectl_program(&["delete", "namespace", &self.name, "--wait=false"]).output();
    }
}
