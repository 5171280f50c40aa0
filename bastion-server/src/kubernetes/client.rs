//! Makes clients of the API server whose requests end, over connections that are noticed when they are dead.
//!
//! Made of the client library's own parts, in place of its ready-made stack. That stack silently repeats what
//! was answered with 429, 503 or 504, up to fifteen times and in the end minutes apart, and it waits for an
//! answer without a limit. Here the caller learns of each failure immediately, and chooses its own waits.

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

/// The longest time for a connection. A refusal may be lost: a kernel sends only so many of them a second.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// The longest time from a request to the head of its answer, connection and TLS included.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// The longest silence within an answer. Longer than a watch lives.
const READ_PATIENCE: Duration = Duration::from_secs(75);
/// The silence on a connection after which TCP keepalive asks the other end, and the interval of these
/// questions.
const ARE_YOU_THERE: Duration = Duration::from_secs(5);
/// How long the other end may leave data unacknowledged (TCP_USER_TIMEOUT).
const DEAD: Duration = Duration::from_secs(10);
/// The shortest time between two watch requests: a watch that ends immediately must not cause a stream of
/// requests.
const BETWEEN_WATCHES: Duration = Duration::from_millis(250);

/// A client for single requests.
///
/// # Errors
/// When the credentials cannot be used.
pub(super) fn plain(config: &Config) -> Result<Client, kube::Error> {
    Ok(Client::new(requests(config)?, config.default_namespace.clone()))
}

/// A client for one watch. `heard` is called for each good answer, as soon as its head is there.
///
/// # Errors
/// When the credentials cannot be used.
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
    // Without a proxy: the API server is in the same network, and a proxy from the environment, meant for
    // Vault, may have no route back to it.
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
    // A connection may be reused after a long idle time.
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
