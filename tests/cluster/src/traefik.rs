//! Ingress controllers in the cluster: Traefik for a public class and a private one, and the Gateway API by
//! the public one.

use std::net::SocketAddr;

use serde_json::json;

use super::{Cluster, Namespace, control_plane::built, image};

/// Which of the two controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The one for all clients, which serves the Gateway API too.
    Public,
    /// The one for clients within a company's networks.
    Private,
}

impl Class {
    /// What its Deployment and its Service are called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// Both controllers, in a namespace of their own.
#[derive(Debug)]
pub struct Controllers<'a> {
    cluster: &'a Cluster,
    namespace: Namespace<'a>,
    classes: [String; 2],
}

impl<'a> Controllers<'a> {
    /// Starts them, in a namespace that is theirs from now on, for IngressClasses of these names. First comes
    /// the public one.
    ///
    /// # Panics
    /// When they do not come up.
    #[must_use]
    pub fn start(cluster: &'a Cluster, namespace: Namespace<'a>, classes: [String; 2]) -> Self {
        cluster.image(image::TRAEFIK);
        cluster.definitions("gateway-api");
        let this = Self { cluster, namespace, classes };
        let made = rcgen::generate_simple_self_signed(vec!["gateway.example.com".to_owned()]).unwrap();
        this.namespace.apply(&tls_secret("gateway", &made.cert.pem(), &made.signing_key.serialize_pem()));
        for class in [Class::Public, Class::Private] {
            this.namespace.apply(&this.fill(include_str!("traefik.yaml"), class));
        }
        this.namespace.apply(&this.fill(include_str!("gateway.yaml"), Class::Public));
        for class in [Class::Public, Class::Private] {
            this.namespace.wait_for_rollout(&format!("deployment/{}", class.name()));
        }
        this
    }

    fn fill(&self, text: &str, class: Class) -> String {
        let owner = self.namespace.as_owner().to_string();
        let trusted = self.cluster.host_address().to_string();
        text.replace("NAMESPACE", self.namespace.name())
            .replace("CLASS", self.class(class))
            .replace("OWNERS", &format!("[{owner}]"))
            .replace("TRUSTED", &trusted)
            // Two would both write what becomes of a route.
            .replace("GATEWAY", if class == Class::Public { "true" } else { "false" })
            .replace("NAME", class.name())
    }

    /// The namespace that they are in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace<'a> {
        &self.namespace
    }

    /// The name of an IngressClass.
    #[must_use]
    pub fn class(&self, class: Class) -> &str {
        match class {
            Class::Public => &self.classes[0],
            Class::Private => &self.classes[1],
        }
    }

    /// Where a controller listens for plain HTTP, or for HTTPS.
    #[must_use]
    pub fn door(&self, class: Class, tls: bool) -> SocketAddr {
        self.namespace.node_port(class.name(), Some(if tls { "https" } else { "http" }))
    }
}

/// A Secret with a certificate and its key.
#[must_use]
pub fn tls_secret(name: &str, certificate: &str, key: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
        "stringData": {"tls.crt": certificate, "tls.key": key},
    })
    .to_string()
}

impl Cluster {
    /// Brings the definitions of another project, as tests/cluster/install has them, and waits until the API
    /// server knows them.
    ///
    /// # Panics
    /// When there are none.
    pub fn definitions(&self, name: &str) {
        let folder = built(&format!("definitions/{name}/README")).parent().unwrap().join("crds");
        let words = ["apply", "--server-side", "--recursive", "--filename"];
        self.kubectl_program(&words).arg(folder).succeed();
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]);
    }
}
