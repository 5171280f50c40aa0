//! Serves health and metrics over HTTP, on a listener of their own.
//!
//! Every connection is accepted immediately, and the oldest one ends when there are too many: a kubelet that
//! restarts the bastion when it does not answer needs the answer beside any number of other clients that hold
//! connections and send nothing.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{
    audit::{Audit, Stopped},
    process::drain::Drain,
    telemetry::metrics,
};

/// The most connections that may be open simultaneously; the next one ends the oldest. An answer takes
/// milliseconds.
const MOST_CONNECTIONS: usize = 64;
/// How long a client may take to send a request, the first or the next.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be used in all.
const LONGEST_CONNECTION: Duration = Duration::from_secs(600);
/// The pause after an error of accept, such as too many open files.
const AFTER_ERROR: Duration = Duration::from_millis(200);

/// The state that the admin pages report.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    pub metrics: Arc<metrics::Metrics>,
    /// The conditions that are still missing before clients can be served.
    pub readiness: Arc<Readiness>,
    /// Whether audit records can be written.
    pub audit: Audit,
    /// Whether the process is shutting down.
    pub drain: Drain,
}

impl Admin {
    fn report(&self) -> Report {
        self.readiness.report(self.audit.ready(), self.drain.is_announced())
    }
}

/// The conditions of serving, each of which becomes true once and stays true.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    authorities: OnceLock<()>,
    revocations: OnceLock<()>,
    policies: OnceLock<()>,
    host_key: OnceLock<()>,
    listening: OnceLock<SocketAddr>,
}

impl Readiness {
    /// Records that `value` exists, by calling `note`, and returns it.
    pub(super) fn after<T>(&self, value: T, note: fn(&Self)) -> T {
        note(self);
        value
    }

    /// Records that every source of authorities has answered.
    pub(super) fn authorities_known(&self) {
        let _ = self.authorities.set(());
    }

    /// Records that every revocation list was good once.
    pub(super) fn revocations_known(&self) {
        let _ = self.revocations.set(());
    }

    /// Records that the cluster's objects were listed once, or that there is no cluster.
    pub(super) fn policies_known(&self) {
        let _ = self.policies.set(());
    }

    /// Records that the host key exists, with its certificate if it needs one.
    pub(super) fn host_key_known(&self) {
        let _ = self.host_key.set(());
    }

    /// Records that clients are accepted at this address.
    pub(super) fn listening(&self, address: SocketAddr) {
        let _ = self.listening.set(address);
    }

    fn report(&self, recorded: Result<(), Stopped>, draining: bool) -> Report {
        let waiting_for: Vec<_> = [
            ("authorities", self.authorities.get().is_none()),
            ("revocation", self.revocations.get().is_none()),
            ("policies", self.policies.get().is_none()),
            ("host_key", self.host_key.get().is_none()),
            ("listener", self.listening.get().is_none()),
            ("audit", recorded.is_err()),
        ]
        .into_iter()
        .filter_map(|(what, missing)| missing.then_some(what))
        .collect();
        Report {
            ready: waiting_for.is_empty() && !draining,
            draining,
            waiting_for,
            listening: self.listening.get().copied(),
        }
    }
}

/// The answer of `/readyz`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    ready: bool,
    draining: bool,
    waiting_for: Vec<&'static str>,
    listening: Option<SocketAddr>,
}

/// Answers until the process ends, within bounds: a client of this port cannot use up what sessions need.
pub(super) async fn serve(listener: TcpListener, admin: Admin) {
    let service = TowerToHyperService::new(routes(admin));
    let mut held = VecDeque::<AbortHandle>::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(AFTER_ERROR).await;
            continue;
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_PATIENCE)
            .serve_connection(TokioIo::new(stream), service.clone());
        held.retain(|connection| !connection.is_finished());
        if held.len() >= MOST_CONNECTIONS
            && let Some(oldest) = held.pop_front()
        {
            oldest.abort();
        }
        // How the connection ends does not matter.
        held.push_back(tokio::spawn(timeout(LONGEST_CONNECTION, connection)).abort_handle());
    }
}

fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let report = admin.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn render(State(admin): State<Admin>) -> Response {
    admin.metrics.ready(admin.report().ready);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], admin.metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::config::WhenFull;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn admin() -> Admin {
        Admin {
            metrics: Arc::new(metrics::Metrics::new()),
            readiness: Arc::default(),
            audit: Audit::start(std::io::sink(), WhenFull::Stop, Arc::default()).unwrap(),
            drain: Drain::default(),
        }
    }

    #[tokio::test]
    async fn every_page_is_there_beside_any_number_of_connections_that_say_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, admin()));
        let mut held = Vec::new();
        for number in 0..5 * MOST_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Some clients are silent, and some have begun a request.
            if number % 2 == 1 {
                stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n").await.unwrap();
            }
            held.push(stream);
        }
        for page in ["/livez", "/readyz", "/metrics"] {
            let answer = timeout(Duration::from_secs(1), get(address, page)).await.expect(page);
            assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        }
        drop(held);
    }

    #[tokio::test]
    async fn ready_is_only_who_has_everything_and_is_not_leaving() {
        let admin = admin();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, admin.clone()));

        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.contains(r#""waiting_for":["authorities","revocation","policies","host_key","listener"]"#),
            "{answer}"
        );

        let ready = async || get(address, "/metrics").await.contains("bastion_ready 1\n");
        assert!(!ready().await);

        admin.readiness.authorities_known();
        admin.readiness.revocations_known();
        admin.readiness.policies_known();
        admin.readiness.host_key_known();
        admin.readiness.listening("127.0.0.1:2222".parse().unwrap());
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(r#""listening":"127.0.0.1:2222""#), "{answer}");
        assert!(ready().await);

        admin.drain.announce();
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = get(address, "/metrics").await;
        assert!(answer.contains("application/openmetrics-text"), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        assert!(!ready().await);
    }
}
