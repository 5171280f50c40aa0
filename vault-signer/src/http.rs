//! Sends every request to Vault: follows no redirect, bounds every reply, and types every failure.

mod error;
mod path;

use std::{
    error::Error as _,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use reqwest::{
    Client, Method, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{DATE, HeaderValue, LOCATION, RETRY_AFTER},
    redirect,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use zeroize::Zeroizing;

pub use self::error::{Error, Errors};
pub(crate) use self::path::VaultPath;
use crate::{
    clock::Offset,
    text::{absent, shown},
};

/// A whole request, from the connection to the last byte of the reply.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The longest reply that is read, in bytes.
const LARGEST_REPLY: usize = 1024 * 1024;

/// The longest `Retry-After` that is believed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Who vouches for the server, and what proves to it who connects.
#[derive(Default)]
pub(crate) struct Tls {
    /// The only authorities that are trusted; those of the system if `None`.
    pub(crate) trusted: Option<Vec<reqwest::Certificate>>,
    /// A client certificate.
    pub(crate) identity: Option<reqwest::Identity>,
    /// The name that the server's certificate is for, if that is not the address'.
    pub(crate) server_name: Option<String>,
}

/// The HTTP client and what every request carries. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Client,
    base: Url,
    /// The same, by the name that the certificate is for.
    requested: Url,
    namespace: Option<HeaderValue>,
    /// As the last answer told.
    clock: Arc<Mutex<Option<Offset>>>,
}

/// Whether `url` stays on this computer.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback()),
        None => false,
    }
}

impl HttpClient {
    pub(crate) fn new(
        base: Url,
        namespace: Option<HeaderValue>,
        tls: Tls,
        proxy: Option<reqwest::Proxy>,
    ) -> Result<Self, reqwest::Error> {
        let mut client = Client::builder()
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(TIME_LIMIT)
            .user_agent(concat!("vault-signer/", env!("CARGO_PKG_VERSION")));
        client = match tls.trusted {
            Some(certificates) => client.tls_certs_only(certificates),
            // Plain HTTP verifies nothing, and must not fail where the system has no certificates.
            None if base.scheme() == "http" => client.tls_certs_only([]),
            None => client,
        };
        if let Some(identity) = tls.identity {
            client = client.identity(identity);
        }
        client = match proxy {
            Some(proxy) => client.proxy(proxy),
            None if is_loopback(&base) => client.no_proxy(),
            None => client,
        };
        let mut requested = base.clone();
        if let Some(name) = tls.server_name.filter(|_| base.scheme() == "https") {
            // Asked for by that name, and found where the address is.
            let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            if requested.set_host(Some(&name)).is_ok() {
                client = client.dns_resolver(Arc::new(Elsewhere(host))).no_proxy();
            }
        }
        Ok(Self { client: client.build()?, base, requested, namespace, clock: Arc::default() })
    }

    /// How far the clock here is from the server's, by its last answer.
    pub(crate) fn clock(&self) -> Option<Offset> {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(crate) fn name(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        match self.base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// A request that is answered with JSON.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &VaultPath,
        token: Option<&SecretString>,
        body: Option<Value>,
    ) -> Result<T, Error> {
        let reply = self.send(method, path, token, body).await?;
        self.json(path, &reply)
    }

    /// A request whose answer says nothing but that it was done.
    pub(crate) async fn tell(
        &self,
        method: Method,
        path: &VaultPath,
        token: Option<&SecretString>,
        body: Option<Value>,
    ) -> Result<(), Error> {
        let reply = self.send(method, path, token, body).await?;
        // Vault answers 204 with nothing, or 200 with warnings. A login page is neither.
        if reply.is_empty() { Ok(()) } else { self.json::<serde::de::IgnoredAny>(path, &reply).map(drop) }
    }

    /// A public text: no token goes with the request.
    pub(crate) async fn text(&self, path: &VaultPath) -> Result<String, Error> {
        let reply = self.send(Method::GET, path, None, None).await?;
        match std::str::from_utf8(&reply) {
            Ok(text) if !text.trim_start().starts_with('<') => Ok(text.to_owned()),
            _ => Err(self.not_json(path, StatusCode::OK, &reply)),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &VaultPath,
        token: Option<&SecretString>,
        body: Option<Value>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut request = self.client.request(method, self.url(path)?).header("X-Vault-Request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose_secret())
                .map_err(|_| Error::unexpected(path, "the token has characters that no token has"))?;
            value.set_sensitive(true);
            request = request.header("X-Vault-Token", value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let asked = SystemTime::now();
        let mut response = request.send().await.map_err(|error| self.failure(&error))?;
        let answered = SystemTime::now();
        let reply = self.read(path, &mut response).await?;
        self.judge(path, &response, &reply)?;
        // Of a good answer only: something else may have given the others.
        if let Some(date) = response.headers().get(DATE).and_then(|date| date.to_str().ok()) {
            let offset = Offset::of_header(date, asked, answered);
            *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = offset;
        }
        Ok(reply)
    }

    fn url(&self, path: &VaultPath) -> Result<Url, Error> {
        let mut url = self.requested.clone();
        let parts =
            path.parts().ok_or_else(|| Error::unexpected(path, "a part of it is empty, `.` or `..`"))?;
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().push("v1").extend(parts),
            Err(()) => return Err(Error::unexpected(path, "the address of the server takes no path")),
        };
        Ok(url)
    }

    async fn read(&self, path: &VaultPath, response: &mut Response) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut reply = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(&error))? {
            if reply.len() + chunk.len() > LARGEST_REPLY {
                return Err(Error::TooLarge { server: self.name(), path: path.to_string() });
            }
            reply.extend_from_slice(&chunk);
        }
        Ok(reply)
    }

    /// What the status means.
    fn judge(&self, path: &VaultPath, response: &Response, reply: &[u8]) -> Result<(), Error> {
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::NO_CONTENT {
            return Ok(());
        }
        let server = self.name();
        if status.is_redirection() {
            let to = response
                .headers()
                .get(LOCATION)
                .map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
            return Err(Error::Redirected { server, to: to.as_deref().map_or("nowhere".into(), shown) });
        }
        // `sys/health` has statuses of its own: 429 is a standby there.
        if status == StatusCode::TOO_MANY_REQUESTS && !path.is("sys/health") {
            let retry_after = response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|seconds| seconds.to_str().ok()?.trim().parse().ok())
                .map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
            return Err(Error::RateLimited { retry_after });
        }
        let complaint: Complaint = match serde_json::from_slice(reply) {
            Ok(complaint) => complaint,
            // A load balancer with no server behind it answers so; that passes.
            Err(_) if matches!(status.as_u16(), 502..=504) => Complaint::default(),
            Err(_) => return Err(self.not_json(path, status, reply)),
        };
        let errors = Errors::new(&complaint.errors);
        if complaint.initialized == Some(false) {
            return Err(Error::Uninitialized { server });
        }
        if complaint.sealed == Some(true) || (status.as_u16() == 503 && errors.mention("sealed")) {
            return Err(Error::Sealed { server });
        }
        if complaint.standby == Some(true) || (status.is_server_error() && errors.mention("node not active"))
        {
            return Err(Error::Standby { server });
        }
        let place = path.to_string();
        Err(match status.as_u16() {
            400 => Error::BadRequest { path: place, errors },
            403 => Error::Denied { path: place, errors },
            404 => Error::NotFound { path: place, errors },
            status @ 500..=599 => Error::ServerError { path: place, status, errors },
            status => Error::Status { server, path: place, status },
        })
    }

    fn json<T: DeserializeOwned>(&self, path: &VaultPath, reply: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(reply).map_err(|error| match error.classify() {
            // serde's words would name a wrong value, and that may be a secret.
            serde_json::error::Category::Data => {
                Error::unexpected(path, "it has not the fields that Vault's answer has")
            }
            serde_json::error::Category::Eof if !reply.is_empty() => {
                Error::unexpected(path, "it ends in the middle")
            }
            serde_json::error::Category::Eof
            | serde_json::error::Category::Io
            | serde_json::error::Category::Syntax => self.not_json(path, StatusCode::OK, reply),
        })
    }

    fn not_json(&self, path: &VaultPath, status: StatusCode, reply: &[u8]) -> Error {
        let start = String::from_utf8_lossy(reply.get(..80).unwrap_or(reply));
        let what = match start.trim_start() {
            "" => "an empty reply".to_owned(),
            text if text.starts_with('<') => "a web page".to_owned(),
            // It may be cut or garbled behind a secret.
            text if text.starts_with(['{', '[']) => "JSON that cannot be read".to_owned(),
            text => format!("it begins with: {}", shown(text)),
        };
        Error::NotJson { server: self.name(), path: path.to_string().into(), status: status.as_u16(), what }
    }

    fn failure(&self, error: &reqwest::Error) -> Error {
        let server = self.name();
        if error.is_timeout() {
            return Error::TimedOut { server };
        }
        if !error.is_connect() {
            return Error::Broken { server };
        }
        match tls_failure(error) {
            Some(reason) => Error::Tls { server, reason },
            None => Error::Unreachable { server, reason: innermost(error) },
        }
    }
}

/// What Vault answers when it does not do what it was asked for.
#[derive(Default, Deserialize)]
struct Complaint {
    #[serde(default, deserialize_with = "absent")]
    errors: Vec<String>,
    sealed: Option<bool>,
    standby: Option<bool>,
    initialized: Option<bool>,
}

/// Finds one host, whatever name is asked for.
struct Elsewhere(String);

impl Resolve for Elsewhere {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn tls_failure(error: &reqwest::Error) -> Option<String> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(tls) = rustls_error(error) {
            return Some(shown(&tls.to_string()));
        }
        source = error.source();
    }
    None
}

/// An `io::Error` does not name the error that it wraps as its source, but only that one's source.
fn rustls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref() {
        return Some(tls);
    }
    rustls_error(error.downcast_ref::<std::io::Error>()?.get_ref()?)
}

/// The last error of the chain, which says most.
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    shown(&last.to_string())
}

#[cfg(test)]
mod tests;
