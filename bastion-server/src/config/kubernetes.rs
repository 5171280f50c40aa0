//! Settings of the Kubernetes cluster that the bastion runs in.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

const PUBLIC_NAME: &str = r"^[A-Za-z0-9._:\[\]-]{1,262}$";
const NAME: &str = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$";

/// What the bastion reads from and writes to the cluster. Without this section, and without a Secret or
/// ConfigMap elsewhere in the file, the bastion does not contact the API server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// The TunnelPolicy objects that the bastion follows.
    pub policies: Policies,
    /// The DNS domain of the cluster's Services. Default: `cluster.local`.
    pub cluster_domain: String,
    /// Whether the bastion writes Events about policies that are not accepted, and about problems that an
    /// operator should act on. Default: true.
    pub events: bool,
    /// The ConfigMap in which the bastion publishes its host identity. Default: none.
    pub publish: Option<Publish>,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            policies: Policies::default(),
            cluster_domain: "cluster.local".to_owned(),
            events: true,
            publish: None,
        }
    }
}

/// The policies that the bastion follows, beside those of its own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policies {
    /// The namespaces whose TunnelPolicy objects are followed, for example `[databases]`. Default: none.
    pub namespaces: Vec<ObjectName>,
    /// Whether the TunnelPolicy objects of every namespace are followed. Default: false.
    pub all_namespaces: bool,
    /// Whether ClusterTunnelPolicy objects are followed. Default: false.
    pub cluster: bool,
}

/// The ConfigMap in which the bastion publishes its host identity, for clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The name of an existing ConfigMap in the bastion's own namespace; the bastion writes its entry
    /// `known_hosts`.
    pub config_map: ObjectName,
    /// The host names by which clients reach the bastion, for example `[bastion.example.com,
    /// "[10.0.0.1]:2222"]`. Default: the principals of its host certificate; for a key without a certificate,
    /// any name.
    #[serde(default)]
    pub names: Vec<PublicName>,
}

/// A host name in the format of OpenSSH's known hosts: `bastion.example.com`, `10.0.0.1` or
/// `[bastion.example.com]:2222`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = PUBLIC_NAME))]
pub struct PublicName(String);

impl PublicName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PublicName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const LONGEST: usize = 262;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:[]".contains(&byte);
        if (1..=LONGEST).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text))
        } else {
            Err("this is no name of a host; write bastion.example.com, an address, or either as [NAME]:PORT")
        }
    }
}

/// One entry of a Secret or ConfigMap in the bastion's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectKey {
    /// The name of the Secret or ConfigMap.
    pub name: ObjectName,
    /// The key of the entry, for example `ca.pub`.
    pub key: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, key {}", self.name.as_str(), self.key.escape_debug())
    }
}

/// The name of a Kubernetes object or namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = NAME, "maxLength" = 253))]
pub struct ObjectName(String);

impl ObjectName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ObjectName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const LONGEST: usize = 253;
        let fits =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        if bytes.len() <= LONGEST
            && bytes.iter().copied().all(fits)
            && ends(bytes.first())
            && ends(bytes.last())
        {
            Ok(Self(text))
        } else {
            Err("this is no name of an object; one has lower-case letters, digits, - and .")
        }
    }
}
