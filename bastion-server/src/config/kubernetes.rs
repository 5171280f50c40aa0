//! What is asked of the cluster that the bastion runs in.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

const PUBLIC_NAME: &str = r"^[A-Za-z0-9._:\[\]-]{1,262}$";
const NAME: &str = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$";

/// What is asked of the cluster. Without it, and without a Secret or a ConfigMap elsewhere, nothing is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// Which objects say who may reach what.
    pub policies: Policies,
    /// The DNS domain of the cluster's Services.
    pub cluster_domain: String,
    /// Whether Events tell what an operator should know.
    pub events: bool,
    /// Where the bastion says who it is.
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

/// Which policies are followed, beside those of the bastion's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policies {
    /// Those of these namespaces.
    pub namespaces: Vec<ObjectName>,
    /// Those of every namespace.
    pub all_namespaces: bool,
    /// Those of the cluster.
    pub cluster: bool,
}

/// Where the bastion says who it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// A ConfigMap of its own namespace, which is there already.
    pub config_map: ObjectName,
    /// The names by which clients reach it. Without any, those in its host certificate; for a key without one, any name.
    #[serde(default)]
    pub names: Vec<PublicName>,
}

/// A name as OpenSSH's known hosts have it: `bastion.example.com`, `10.0.0.1`, `[bastion.example.com]:2222`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = PUBLIC_NAME))]
pub struct PublicName(String);

impl PublicName {
    /// The name.
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

/// One entry of a Secret or of a ConfigMap in the bastion's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectKey {
    /// The object.
    pub name: ObjectName,
    /// Its entry.
    pub key: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, key {}", self.name.as_str(), self.key.escape_debug())
    }
}

/// The name of an object or of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = NAME, "maxLength" = 253))]
pub struct ObjectName(String);

impl ObjectName {
    /// The name.
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
