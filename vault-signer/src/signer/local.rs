//! An authority of our own, in memory: the same answers as Vault's, for development and tests.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ssh_key::{
    Algorithm, Certificate, HashAlg, PrivateKey, PublicKey,
    certificate::{Builder, CertType},
};

use super::{SignError, Signer};
use crate::{
    BoxFuture, certificate,
    request::{Kind, PERMIT_PORT_FORWARDING, Request},
    text::shown,
};

/// How far back a certificate begins, for clocks that are behind; as in Vault.
const BACKDATED: Duration = Duration::from_secs(30);

/// What one role signs.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// User or host.
    pub kind: Kind,
    /// Who may be named; `*` is any name. The first is named when none is asked for.
    pub principals: Vec<String>,
    /// The time to live when none is asked for, and the longest.
    pub ttl: Duration,
    /// The longest time to live.
    pub max_ttl: Duration,
}

/// A request of a client. Less strict than [`Request`], as Vault is.
#[derive(Clone, Debug)]
pub struct Application<'a> {
    /// The key to be signed.
    pub key: &'a PublicKey,
    /// The role's name.
    pub role: &'a str,
    /// User or host.
    pub kind: Kind,
    /// Whom to name.
    pub principals: Vec<String>,
    /// The time to live; the role's own if none.
    pub ttl: Option<Duration>,
    /// The extensions; the role's own if none.
    pub extensions: Option<BTreeMap<String, String>>,
}

/// Why an application is refused, in the words that Vault uses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such role.
    #[error("Unknown role: {0}")]
    UnknownRole(String),
    /// The role does not sign such certificates.
    #[error("cert_type '{0}' is not allowed by role")]
    Kind(&'static str),
    /// The role does not name such principals.
    #[error("{0} is not a valid value for valid_principals")]
    Principal(String),
    /// No principal is named.
    #[error("empty valid principals not allowed by role")]
    NoPrincipals,
    /// The role does not sign for so long.
    #[error("ttl is larger than maximum allowed {0}")]
    Ttl(u64),
    /// The role does not give such extensions.
    #[error("extensions [{0}] are not on allowed list")]
    Extension(String),
    /// The certificate cannot be made.
    #[error("failed to sign: {0}")]
    Key(ssh_key::Error),
}

/// An ed25519 authority with one role. The key is wiped when this is dropped.
#[derive(Debug)]
pub struct Local {
    key: PrivateKey,
    role: Role,
    issued: AtomicU64,
}

impl Local {
    /// Makes the authority's key.
    ///
    /// # Errors
    /// If the key cannot be made.
    pub fn generate(role: Role) -> Result<Self, ssh_key::Error> {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)?;
        Ok(Self { key, role, issued: AtomicU64::new(0) })
    }

    /// The authority's public key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Signs, or says why not. Every key id begins with `dev-`, so that a log shows where it came from.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn issue(&self, application: &Application<'_>, now: SystemTime) -> Result<Certificate, Refusal> {
        let Self { role, .. } = self;
        if application.role != role.name {
            return Err(Refusal::UnknownRole(shown(application.role)));
        }
        if application.kind != role.kind {
            return Err(Refusal::Kind(application.kind.name()));
        }
        let principals = self.principals(&application.principals)?;
        let ttl = application.ttl.unwrap_or(role.ttl);
        if ttl > role.max_ttl {
            return Err(Refusal::Ttl(role.max_ttl.as_secs()));
        }
        let extensions = self.extensions(application.extensions.as_ref())?;
        self.sign(application.key, principals, &extensions, ttl, now).map_err(Refusal::Key)
    }

    fn principals(&self, asked: &[String]) -> Result<Vec<String>, Refusal> {
        let allowed = &self.role.principals;
        if asked.is_empty() {
            let default = allowed.iter().find(|name| *name != "*").ok_or(Refusal::NoPrincipals)?;
            return Ok(vec![default.clone()]);
        }
        let any_name = allowed.iter().any(|name| name == "*");
        match asked.iter().find(|name| name.is_empty() || !(any_name || allowed.contains(name))) {
            Some(name) => Err(Refusal::Principal(shown(name))),
            None => Ok(asked.to_vec()),
        }
    }

    fn extensions(
        &self,
        asked: Option<&BTreeMap<String, String>>,
    ) -> Result<BTreeMap<String, String>, Refusal> {
        let allowed = match self.role.kind {
            Kind::User => vec![PERMIT_PORT_FORWARDING],
            Kind::Host => vec![],
        };
        match asked {
            None => Ok(allowed.into_iter().map(|name| (name.to_owned(), String::new())).collect()),
            Some(asked) => match asked.keys().find(|name| !allowed.contains(&name.as_str())) {
                Some(name) => Err(Refusal::Extension(shown(name))),
                None => Ok(asked.clone()),
            },
        }
    }

    fn sign(
        &self,
        key: &PublicKey,
        principals: Vec<String>,
        extensions: &BTreeMap<String, String>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Certificate, ssh_key::Error> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (after, before) = (now.saturating_sub(BACKDATED), now.saturating_add(ttl));
        let mut builder = Builder::new_with_random_nonce(
            &mut rand::rng(),
            key.key_data().clone(),
            after.as_secs(),
            before.as_secs(),
        )?;
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        builder.serial(self.issued.fetch_add(1, Ordering::Relaxed) + 1)?;
        builder.key_id(format!("dev-{}-{}", self.role.name, fingerprint.trim_start_matches("SHA256:")))?;
        builder.cert_type(match self.role.kind {
            Kind::User => CertType::User,
            Kind::Host => CertType::Host,
        })?;
        for name in principals {
            builder.valid_principal(name)?;
        }
        for (name, value) in extensions {
            builder.extension(name, value)?;
        }
        builder.sign(&self.key)
    }
}

impl Signer for Local {
    fn sign<'a>(
        &'a self,
        key: &'a PublicKey,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Certificate, SignError>> {
        Box::pin(async move {
            let now = SystemTime::now();
            let extensions = request.extensions.iter().map(|name| (name.clone(), String::new())).collect();
            let application = Application {
                key,
                role: &request.role,
                kind: request.kind,
                principals: request.principals.clone(),
                ttl: Some(request.ttl),
                extensions: Some(extensions),
            };
            let refused = |refusal: Refusal| SignError::Refused {
                role: shown(&request.role),
                reason: refusal.to_string(),
            };
            let text =
                self.issue(&application, now).map_err(refused)?.to_openssh().map_err(SignError::Key)?;
            let authority = std::slice::from_ref(self.key.public_key());
            Ok(certificate::check(&text, key, request, Some(authority), now)?)
        })
    }

    fn authorities(&self) -> BoxFuture<'_, Result<Vec<PublicKey>, SignError>> {
        Box::pin(async move { Ok(vec![self.key.public_key().clone()]) })
    }
}

#[cfg(test)]
mod tests;
