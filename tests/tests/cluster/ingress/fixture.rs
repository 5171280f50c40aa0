//! Two ingress controllers, a team's namespace with two services behind them, and a server outside of the
//! cluster.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tests::{
    cluster::{
        Cluster, Namespace, image,
        traefik::{Class, Controllers},
    },
    echo::{self, Echo},
    wait,
    web::{Answer, Request},
};

/// How long a route may take to be in force on a busy machine.
const IN_FORCE: Duration = Duration::from_secs(60);
/// The name of the server outside, in its certificate and in what it must be asked for.
pub const OUTSIDE: &str = "second.outside.test";

/// The number of the services' port for plain HTTP.
pub const HTTP: u16 = 8080;

/// Which objects the chart makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Ingress,
    Gateway,
}
pub const APIS: [Api; 2] = [Api::Ingress, Api::Gateway];

impl Api {
    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Gateway => "gateway",
        }
    }
}

pub struct Fixture {
    pub cluster: &'static Cluster,
    pub controllers: Controllers<'static>,
    /// The team's: three pods `shop`, and one `blog`.
    pub web: Namespace<'static>,
    /// Another team's: one `blog`.
    pub other: Namespace<'static>,
    /// The same server without and with TLS, which [`authority`](Self::authority) signed.
    pub plain: Echo,
    pub secret: Echo,
    pub authority: String,
}

/// What is there as long as a test uses it.
pub fn shared() -> Arc<Fixture> {
    static SHARED: Mutex<Weak<Fixture>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(there) = shared.upgrade() {
        return there;
    }
    let new = Arc::new(Fixture::start());
    *shared = Arc::downgrade(&new);
    new
}

impl Fixture {
    fn start() -> Self {
        let cluster = Cluster::shared();
        cluster.image(image::ECHO);
        let namespace = cluster.namespace("ingress");
        let classes = ["nginx", "nginx-private"].map(|name| format!("{name}-{}", namespace.name()));
        let controllers = Controllers::start(cluster, namespace, classes);
        let [first, second] = cluster.outside();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([OUTSIDE.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let tls = echo::tls(certificate.der().to_vec(), key.serialize_der());
        let this = Self {
            cluster,
            controllers,
            web: cluster.namespace("web"),
            other: cluster.namespace("other"),
            plain: Echo::start(first, None),
            secret: Echo::start(second, Some(tls)),
            authority: authority.pem(),
        };
        for (namespace, name, replicas) in
            [(&this.web, "shop", 3), (&this.web, "blog", 1), (&this.other, "blog", 1)]
        {
            namespace.helm("install", name, "workload", &backend(replicas));
        }
        for (namespace, name) in [(&this.web, "shop"), (&this.web, "blog"), (&this.other, "blog")] {
            namespace.wait_for_rollout(&format!("deployment/{name}"));
        }
        this
    }

    /// Installs a release of the chart `ingress` in the team's namespace, and returns the name that it is
    /// reached by.
    pub fn serve(&self, api: Api, name: &str, values: Value) -> String {
        let host = format!("{name}-{}.example.com", api.name());
        let mut all = json!({
            "api": api.name(),
            "domains": [host],
            "paths": [{"path": "/", "service": "blog", "port": HTTP}],
            "tls": {"mode": "none"},
            "classes": {
                "public": self.controllers.class(Class::Public), "private": self.controllers.class(Class::Private),
            },
            "gateway": {"namespace": self.controllers.namespace().name()},
        });
        all.as_object_mut().unwrap().extend(values.as_object().unwrap().clone());
        self.web.helm("install", &format!("{name}-{}", api.name()), "ingress", &all);
        host
    }

    /// A request to the public controller by plain HTTP.
    pub fn http(&self, host: &str, path: &str) -> Request {
        Request::new(self.controllers.door(Class::Public, false), host, path)
    }

    /// A request to the public controller by HTTPS.
    pub fn https(&self, host: &str, path: &str) -> Request {
        Request::new(self.controllers.door(Class::Public, true), host, path).tls()
    }

    /// Waits until a request has this status: that its route is in force.
    pub fn until(&self, request: &Request, status: u16) -> Answer {
        let mut last = None;
        let end = std::time::Instant::now() + IN_FORCE;
        while std::time::Instant::now() < end {
            match request.send() {
                Ok(answer) if answer.status == status => return answer,
                other => last = Some(other),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("waited {IN_FORCE:?} in vain for {status}: {request:?}: {last:?}")
    }

    /// [`Fixture::until`], by plain HTTP at the public controller.
    pub fn until_plain(&self, host: &str, path: &str, status: u16) -> Answer {
        self.until(&self.http(host, path), status)
    }

    /// Waits until an object's condition of the Gateway API holds.
    pub fn accepted(&self, kind: &str, name: &str) {
        wait::until_true(&format!("{kind}/{name} is accepted"), IN_FORCE, || {
            let object = self.web.get(&[kind, name]);
            object["status"].to_string().contains(r#""status":"True","type":"Accepted"#)
        });
    }
}

/// Values of a workload that says what it was asked.
pub fn backend(replicas: u8) -> Value {
    json!({
        "controller": {"replicas": replicas, "minReadySeconds": 0},
        "shutdown": {"delay": "2s", "timeout": "5s"},
        "containers": [{
            "name": "echo",
            "image": image::ECHO,
            "imagePullPolicy": "Never",
            "ports": [
                {"name": "http", "port": 8080},
                {"name": "https", "port": 8443, "appProtocol": "https"},
                {"name": "h2c", "port": 8081, "appProtocol": "kubernetes.io/h2c"},
                {"name": "ws", "port": 8082, "appProtocol": "kubernetes.io/ws"},
            ],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1},
        }],
    })
}
