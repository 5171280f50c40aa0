//! Vault's HTTP paths, answered as Vault answers them, and nothing more than the tunnel asks.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use ssh_key::PublicKey;

use super::{Authority, HOSTS, USERS};
use crate::{
    request::Kind,
    signer::local::{Application, Local},
    text::shown,
};

/// The largest request that is read, in bytes.
const LARGEST_REQUEST: usize = 64 * 1024;

type Shared = State<Arc<Authority>>;

pub(super) fn router(authority: Authority) -> Router {
    Router::new()
        .route("/v1/{mount}/sign/{role}", post(sign).put(sign))
        .route("/v1/{mount}/public_key", get(public_key))
        .route("/v1/{mount}/config/ca", get(config_ca))
        .route("/v1/auth/token/lookup-self", get(lookup_self))
        .route("/v1/auth/token/renew-self", post(renew_self).put(renew_self))
        .route("/v1/sys/health", get(health))
        .route("/v1/sys/seal-status", get(seal_status))
        .route("/v1/sys/leader", get(leader))
        .fallback(no_route)
        .method_not_allowed_fallback(async || Refused::operation())
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .with_state(Arc::new(authority))
}

/// A refusal, in Vault's envelope.
struct Refused(StatusCode, String);

impl Refused {
    fn request(words: impl ToString) -> Self {
        Self(StatusCode::BAD_REQUEST, words.to_string())
    }

    fn denied() -> Self {
        Self(StatusCode::FORBIDDEN, "permission denied".to_owned())
    }

    fn route(path: &str) -> Self {
        let path = shown(path.trim_start_matches("/v1/"));
        Self(StatusCode::NOT_FOUND, format!("no handler for route \"{path}\". route entry not found."))
    }

    fn operation() -> Self {
        Self(StatusCode::METHOD_NOT_ALLOWED, "1 error occurred:\n\t* unsupported operation\n\n".to_owned())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "errors": [self.1] }))).into_response()
    }
}

impl Authority {
    fn mounted(&self, mount: &str, uri: &Uri) -> Result<&Local, Refused> {
        if mount == USERS.0 {
            Ok(&self.users)
        } else if mount == HOSTS.0 {
            Ok(&self.hosts)
        } else {
            Err(Refused::route(uri.path()))
        }
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let bearer = |value: &str| value.strip_prefix("Bearer ").map(str::to_owned);
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let token =
            text("x-vault-token").map(str::to_owned).or_else(|| text("authorization").and_then(bearer));
        let known = token.is_some_and(|token| token == self.root_token.expose_secret());
        if known { Ok(()) } else { Err(Refused::denied()) }
    }
}

/// The fields of a sign request, as loosely typed as Vault takes them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SignRequest {
    public_key: String,
    cert_type: Option<String>,
    valid_principals: Option<String>,
    ttl: Option<Value>,
    extensions: Option<BTreeMap<String, String>>,
}

async fn sign(
    State(authority): Shared,
    Path((mount, role)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    authority.admit(&headers)?;
    let local = authority.mounted(&mount, &uri)?;
    let request: SignRequest = serde_json::from_slice(&body)
        .map_err(|error| Refused::request(format!("failed to decode JSON input: {error}")))?;
    if request.public_key.trim().is_empty() {
        return Err(Refused::request("missing public_key"));
    }
    let key = PublicKey::from_openssh(request.public_key.trim())
        .map_err(|error| Refused::request(format!("failed to parse public_key as SSH key: {error}")))?;
    let principals = request.valid_principals.unwrap_or_default();
    let application = Application {
        key: &key,
        role: &role,
        kind: match request.cert_type.as_deref() {
            None | Some("user") => Kind::User,
            Some("host") => Kind::Host,
            Some(_) => return Err(Refused::request("cert_type must be either 'user' or 'host'")),
        },
        principals: principals
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        ttl: request.ttl.as_ref().map(duration).transpose()?.filter(|ttl| !ttl.is_zero()),
        extensions: request.extensions.filter(|extensions| !extensions.is_empty()),
    };
    let certificate = local.issue(&application, SystemTime::now()).map_err(Refused::request)?;
    let text = certificate.to_openssh().map_err(Refused::request)?;
    tracing::info!(
        key_id = certificate.key_id(),
        serial = certificate.serial(),
        principals = ?certificate.valid_principals(),
        "signed"
    );
    Ok(data(json!({
        "serial_number": format!("{:016x}", certificate.serial()),
        "signed_key": format!("{text}\n"),
    })))
}

/// Seconds as a number or as text, or `1h30m` and its like.
fn duration(value: &Value) -> Result<Duration, Refused> {
    let seconds = match value {
        Value::Number(number) => number.as_u64().map(Duration::from_secs),
        Value::String(text) => match text.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => humantime::parse_duration(text).ok(),
        },
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    seconds
        .ok_or_else(|| Refused::request("Field validation failed: error converting input for field \"ttl\""))
}

async fn public_key(
    State(authority): Shared,
    Path(mount): Path<String>,
    uri: Uri,
) -> Result<String, Refused> {
    Ok(format!("{}\n", text(authority.mounted(&mount, &uri)?)?))
}

async fn config_ca(
    State(authority): Shared,
    Path(mount): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, Refused> {
    authority.admit(&headers)?;
    Ok(data(json!({ "public_key": format!("{}\n", text(authority.mounted(&mount, &uri)?)?) })))
}

fn text(local: &Local) -> Result<String, Refused> {
    local.public_key().to_openssh().map_err(Refused::request)
}

async fn lookup_self(State(authority): Shared, headers: HeaderMap) -> Result<Json<Value>, Refused> {
    authority.admit(&headers)?;
    Ok(data(json!({
        "id": authority.root_token.expose_secret(),
        "accessor": "",
        "display_name": "dev",
        "entity_id": "",
        "expire_time": null,
        "meta": null,
        "num_uses": 0,
        "orphan": true,
        "path": "auth/token/root",
        "policies": ["root"],
        "renewable": false,
        "ttl": 0,
        "type": "service",
    })))
}

/// The only token never ends, and Vault answers so for such a one.
async fn renew_self(State(authority): Shared, headers: HeaderMap) -> Result<Json<Value>, Refused> {
    authority.admit(&headers)?;
    Err(Refused::request("lease is not renewable"))
}

async fn health() -> Json<Value> {
    Json(json!({
        "initialized": true,
        "sealed": false,
        "standby": false,
        "development": true,
        "server_time_utc": SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        "version": super::VERSION,
        "cluster_name": "vault-signer-dev",
    }))
}

async fn seal_status() -> Json<Value> {
    Json(json!({
        "type": "development",
        "initialized": true,
        "sealed": false,
        "t": 1,
        "n": 1,
        "progress": 0,
        "development": true,
        "version": super::VERSION,
        "storage_type": "inmem",
    }))
}

/// `vault status` asks this too.
async fn leader() -> Json<Value> {
    Json(json!({ "ha_enabled": false, "is_self": true, "leader_address": "", "development": true }))
}

async fn no_route(method: Method, uri: Uri) -> Refused {
    tracing::debug!(%method, path = shown(uri.path()), "no such path");
    Refused::route(uri.path())
}

fn data(data: Value) -> Json<Value> {
    Json(json!({
        "request_id": format!("dev-{:016x}", rand::random::<u64>()),
        "lease_id": "",
        "renewable": false,
        "lease_duration": 0,
        "data": data,
        "wrap_info": null,
        "warnings": null,
        "auth": null,
    }))
}
