//! Requests to the API server that end, over connections that are noticed when they are dead.
//!
//! Made of the client library's own parts, in place of its ready-made stack. That one tries again by itself what was answered with 429, 503 or
//! 504, up to fifteen times and in the end minutes apart, which nobody else is told; and it waits for an answer for as long as one is not
//! there. Here whoever asks is told at once, and has waits of its own.

use std::{sync::Arc, time::Duration};

use axum::http::{Request, Response};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt},
};
use tokio::{
    sync::Mutex,
    time::{MissedTickBehavior, interval},
};
use tower::{BoxError, ServiceBuilder, filter::AsyncFilterLayer, util::BoxCloneService};

/// How long a connection may take. Whoever is refused may not be told so: a kernel sends only so many refusals a second.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// How long a request may be without the head of an answer, connection and TLS included.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may be silent once it has begun. Longer than a watch lives.
const READ_PATIENCE: Duration = Duration::from_secs(75);
/// How long a connection is silent before its other end is asked whether it is there, and between two such questions.
const ARE_YOU_THERE: Duration = Duration::from_secs(5);
/// How long the other end may be silent when it was asked (TCP_USER_TIMEOUT).
const DEAD: Duration = Duration::from_secs(10);
/// The shortest time between two requests to watch: one that ends at once would be followed by the next at once.
const BETWEEN_WATCHES: Duration = Duration::from_millis(250);

/// A client for single requests.
///
/// # Errors
/// When the credentials are none.
pub(super) fn plain(config: &Config) -> Result<Client, kube::Error> {
    Ok(Client::new(requests(config)?, config.default_namespace.clone()))
}

/// A client for one watch. `heard` is called for each good answer, when its head is there.
///
/// # Errors
/// When the credentials are none.
pub(super) fn for_watch(
    config: &Config,
    heard: impl Fn() + Clone + Send + 'static,
) -> Result<Client, kube::Error> {
    let mut pace = interval(BETWEEN_WATCHES);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pace = Arc::new(Mutex::new(pace));
    let unhurried = move |request: Request<Body>| {
        let pace = Arc::clone(&pace);
        async move {
            if is_watch(request.uri().query().unwrap_or_default()) {
                pace.lock().await.tick().await;
            }
            Ok::<_, BoxError>(request)
        }
    };
    let service = ServiceBuilder::new()
        .layer(AsyncFilterLayer::new(unhurried))
        .map_response(move |response: Response<_>| {
            if response.status().is_success() {
                heard();
            }
            response
        })
        .service(requests(config)?);
    Ok(Client::new(service, config.default_namespace.clone()))
}

type Requests = BoxCloneService<Request<Body>, Response<hyper::body::Incoming>, BoxError>;

fn requests(config: &Config) -> Result<Requests, kube::Error> {
    // No proxy: the API server is next door, and what the environment names for Vault may know no way back in.
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_PATIENCE));
    connector.set_keepalive(Some(ARE_YOU_THERE));
    connector.set_keepalive_interval(Some(ARE_YOU_THERE));
    #[cfg(target_os = "linux")]
    connector.set_tcp_user_timeout(Some(DEAD));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_read_timeout(Some(READ_PATIENCE));
    // A connection may have been idle for long when it is used again.
    connector.set_reset_reader_on_write(true);
    let http = Http::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .timeout(ANSWER_PATIENCE)
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(BoxCloneService::new(service))
}

fn is_watch(query: &str) -> bool {
    query.split('&').any(|pair| pair == "watch=true")
}
