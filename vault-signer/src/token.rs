//! A Vault token: who it is, how long it lives, and how it lives longer.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use crate::{
    Server,
    http::{Error, VaultPath},
    text::{absent, shown},
};

/// A token that Vault has accepted. It does not print, and is wiped when it is dropped.
#[derive(Clone)]
pub struct Token {
    secret: SecretString,
    display_name: String,
    policies: Vec<String>,
    expires_at: Option<SystemTime>,
    renewable: bool,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("display_name", &self.display_name)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// Who Vault says this is, for example `approle` or `userpass-alice`; escaped.
    #[must_use]
    pub fn display_name(&self) -> &str {
        &self.display_name
    }

    /// The policies that hold for it; escaped.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// When it ends by this computer's clock; `None` if never.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// Whether [`Token::renew`] may make it live longer.
    #[must_use]
    pub fn renewable(&self) -> bool {
        self.renewable
    }

    /// Asks Vault who `secret` is, which also says whether it is valid.
    ///
    /// # Errors
    /// [`Error::Denied`] if it is not.
    pub async fn look_up(server: &Server, secret: SecretString) -> Result<Self, Error> {
        let path = VaultPath::new("auth/token/lookup-self");
        let asked = SystemTime::now();
        let reply: Data<LookedUp> = server.http().call(Method::GET, &path, Some(&secret), None).await?;
        let about = reply.data;
        Ok(Self {
            secret,
            display_name: shown(&about.display_name),
            policies: about.policies.iter().map(|policy| shown(policy)).collect(),
            // A time to live of 0 means "for ever" only where there is no time at which it ends.
            expires_at: if about.ttl == 0 && about.expire_time.is_none() {
                None
            } else {
                end(asked, about.ttl)
            },
            renewable: about.renewable,
        })
    }

    /// A token of which Vault says only that its policies do not let it ask about itself.
    pub(crate) fn unnamed(secret: SecretString) -> Self {
        Self {
            secret,
            display_name: "a token that may not look itself up".to_owned(),
            policies: Vec::new(),
            expires_at: None,
            renewable: false,
        }
    }

    /// Renews the token by its own period. The token stays the same; its end moves.
    ///
    /// # Errors
    /// [`Error::Denied`] if it has ended already, [`Error::BadRequest`] if it is not renewable.
    pub async fn renew(&self, server: &Server) -> Result<Self, Error> {
        let path = VaultPath::new("auth/token/renew-self");
        let asked = SystemTime::now();
        let reply: Reply =
            server.http().call(Method::POST, &path, Some(&self.secret), Some(json!({}))).await?;
        let auth = reply.auth.ok_or_else(|| Error::unexpected(&path, "there is no `auth` in it"))?;
        Ok(Self { expires_at: auth.end(asked), renewable: auth.renewable, ..self.clone() })
    }

    /// What a login gave. `name` is who that was.
    pub(crate) fn from_login(auth: Auth, name: &str, asked: SystemTime) -> Self {
        Self {
            display_name: shown(name),
            policies: auth.policies.iter().map(|policy| shown(policy)).collect(),
            expires_at: auth.end(asked),
            renewable: auth.renewable,
            secret: auth.client_token,
        }
    }

    pub(crate) fn secret(&self) -> &SecretString {
        &self.secret
    }
}

fn end(asked: SystemTime, seconds: u64) -> Option<SystemTime> {
    asked.checked_add(Duration::from_secs(seconds))
}

/// The envelope of every answer with data in it.
#[derive(Deserialize)]
pub(crate) struct Data<T> {
    pub(crate) data: T,
}

/// The envelope of every answer to a login or a renewal.
#[derive(Deserialize)]
pub(crate) struct Reply {
    pub(crate) auth: Option<Auth>,
}

/// What a login or a renewal gives.
#[derive(Deserialize)]
pub(crate) struct Auth {
    #[serde(default, deserialize_with = "absent")]
    client_token: SecretString,
    #[serde(default, deserialize_with = "absent")]
    policies: Vec<String>,
    #[serde(default, deserialize_with = "absent")]
    lease_duration: u64,
    #[serde(default, deserialize_with = "absent")]
    renewable: bool,
    #[serde(default)]
    mfa_requirement: Option<serde::de::IgnoredAny>,
}

impl Auth {
    /// A login that wants a second factor has no token yet.
    pub(crate) fn wants_second_factor(&self) -> bool {
        self.mfa_requirement.is_some() && self.is_without_token()
    }

    pub(crate) fn is_without_token(&self) -> bool {
        self.client_token.expose_secret().is_empty()
    }

    fn end(&self, asked: SystemTime) -> Option<SystemTime> {
        if self.lease_duration == 0 { None } else { end(asked, self.lease_duration) }
    }
}

#[derive(Deserialize)]
struct LookedUp {
    #[serde(default, deserialize_with = "absent")]
    display_name: String,
    #[serde(default, deserialize_with = "absent")]
    policies: Vec<String>,
    #[serde(default, deserialize_with = "absent")]
    ttl: u64,
    #[serde(default)]
    expire_time: Option<String>,
    #[serde(default, deserialize_with = "absent")]
    renewable: bool,
}
