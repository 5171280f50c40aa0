//! [`tests::echo`] as a program for pods: plain at the ports 8080 to 8082, by TLS with a certificate of its
//! own at port 8443, until SIGTERM.
#![allow(
    clippy::unwrap_used,
    reason = "a part of the harness may assume: a panic is a failed test, and says why"
)]

use tests::echo;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let server = std::env::var("HOSTNAME").unwrap_or_default();
    let made = rcgen::generate_simple_self_signed(vec!["echo".to_owned()]).unwrap();
    let tls = echo::tls(made.cert.der().to_vec(), made.signing_key.serialize_der());
    let (sender, stop) = watch::channel(());
    let mut servers = tokio::task::JoinSet::new();
    for (port, tls) in [(8080, None), (8081, None), (8082, None), (8443, Some(tls))] {
        let listener = TcpListener::bind(("0.0.0.0", port)).await.unwrap();
        servers.spawn(echo::serve(listener, tls, server.clone(), stop.clone()));
    }
    terminate.recv().await;
    drop(sender);
    servers.join_all().await;
}
