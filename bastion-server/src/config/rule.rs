//! Settings of logins and rules, as the file has them.

use schemars::JsonSchema;
use serde::Deserialize;
use ssh_key::Fingerprint;

use super::schema;
use crate::{
    access::{self, Condition, Effect},
    destination::pattern::DestinationPattern,
    identity::{LoginName, Principal, key_id::KeyIdPattern},
};

/// The login names that clients may use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The login names, of 1 to 64 characters out of `A-Z a-z 0-9 . _ @ -`, for example `[tunnel]`. The
    /// client's name must also be among its certificate's principals, as for sshd.
    users: NonEmpty<User>,
}

impl Login {
    pub fn users(&self) -> Vec<LoginName> {
        self.users.0.iter().map(|user| user.0.clone()).collect()
    }
}

/// A rule of the policy, which permits or denies destinations to identities.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenRule")]
#[schemars(with = "WrittenRule")]
pub struct Rule(access::Rule);

impl From<Rule> for access::Rule {
    fn from(rule: Rule) -> Self {
        rule.0
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["to"]}, {"required": ["deny"]}]))]
struct WrittenRule {
    /// The name of the rule in logs and audit records.
    name: String,
    /// The identities that the rule applies to.
    who: Who,
    /// The destinations that the rule permits, for example `["db.internal:5432", "*.example.com:5432",
    /// "10.0.0.0/16:1024-65535"]`.
    to: Option<NonEmpty<DestinationPattern>>,
    /// The destinations that the rule denies, even if another rule permits them.
    deny: Option<NonEmpty<DestinationPattern>>,
}

impl TryFrom<WrittenRule> for Rule {
    type Error = &'static str;

    fn try_from(written: WrittenRule) -> Result<Self, Self::Error> {
        let (effect, destinations) = match (written.to, written.deny) {
            (Some(to), None) => (Effect::Permit, to.0),
            (None, Some(deny)) => (Effect::Deny, deny.0),
            (Some(_), Some(_)) | (None, None) => {
                return Err(
                    "a rule has either `to: [DESTINATION, …]`, which permits, or `deny: [DESTINATION, …]`",
                );
            }
        };
        Ok(Self(access::Rule {
            name: written.name,
            who: written.who.0,
            effect,
            destinations,
            services: Vec::new(),
            closed: access::EndpointAddresses::default(),
        }))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenWho")]
#[schemars(with = "WrittenWho")]
struct Who(access::Who);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["everybody"], "properties": {"everybody": {"const": true}}},
    {"anyOf": [{"required": ["principals"]}, {"required": ["key_ids"]}, {"required": ["authorities"]}]},
]))]
struct WrittenWho {
    /// Certificates with one of these principals, compared byte for byte, for example `[dev, "role:dba"]`.
    principals: Option<NonEmpty<Name>>,
    /// Certificates whose key id matches one of these; `*` stands for any characters, for example
    /// `["vault-oidc-*"]`.
    key_ids: Option<NonEmpty<KeyIdPattern>>,
    /// Certificates that one of these authorities signed, for example `["SHA256:…"]`.
    authorities: Option<NonEmpty<Authority>>,
    /// Whether the rule applies to every client that may log in. Default: false.
    #[serde(default)]
    everybody: bool,
}

impl TryFrom<WrittenWho> for Who {
    type Error = &'static str;

    fn try_from(written: WrittenWho) -> Result<Self, Self::Error> {
        let conditions: Vec<Condition> = [
            written
                .principals
                .map(|names| Condition::Principals(names.0.into_iter().map(|name| name.0).collect())),
            written.key_ids.map(|patterns| Condition::KeyIds(patterns.0)),
            written
                .authorities
                .map(|keys| Condition::Authorities(keys.0.into_iter().map(|key| key.0).collect())),
        ]
        .into_iter()
        .flatten()
        .collect();
        match (written.everybody, conditions.is_empty()) {
            (true, true) => Ok(Self(access::Who::Everybody)),
            (false, false) => Ok(Self(access::Who::AllOf(conditions))),
            (true, false) | (false, true) => Err(
                "write {everybody: true}, or one or more of principals, key_ids, authorities, of which all must hold",
            ),
        }
    }
}

/// The fingerprint of an authority's key, as `ssh-keygen -l` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = schema::FINGERPRINT))]
struct Authority(Fingerprint);

impl TryFrom<String> for Authority {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.parse() {
            Ok(fingerprint @ Fingerprint::Sha256(_)) => Ok(Self(fingerprint)),
            _ => Err("this is no fingerprint; write SHA256:… as `ssh-keygen -l -f FILE` prints it"),
        }
    }
}

/// A list with at least one element: an empty one would have no meaning.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<T>")]
#[schemars(with = "Vec<T>", extend("minItems" = 1))]
struct NonEmpty<T>(Vec<T>);

impl<T> TryFrom<Vec<T>> for NonEmpty<T> {
    type Error = &'static str;

    fn try_from(list: Vec<T>) -> Result<Self, Self::Error> {
        if list.is_empty() { Err("this list is empty; write at least one into it") } else { Ok(Self(list)) }
    }
}

/// A login name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = schema::LOGIN_NAME))]
struct User(LoginName);

impl TryFrom<String> for User {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let name = LoginName::new(text);
        if name.is_plain() {
            Ok(Self(name))
        } else {
            Err("this is no login name; one has 1 to 64 characters out of A-Z a-z 0-9 . _ @ -")
        }
    }
}

/// A principal that a certificate can have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = schema::PRINCIPAL, "maxLength" = Principal::MAX))]
struct Name(Principal);

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Principal::parse(&text).map(Self).ok_or(
            "this is no principal; one has 1 to 1024 bytes, and among them no comma, no NUL, no `*` and no `?`: \
             it is compared as it stands",
        )
    }
}
