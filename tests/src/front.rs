//! Stands between a client and Vault: passes requests on, or answers them itself, as a hotel's portal or a
//! broken proxy does; with TLS, under a certificate that can be exchanged for one of an unknown authority.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// How long a peer may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of a request.
#[derive(Clone, Debug)]
enum Conduct {
    Passes,
    Answers(String),
}

/// A proxy of one server, on a free loopback port.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    conduct: Arc<Mutex<Conduct>>,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Tls {
    present: Arc<Mutex<Arc<ServerConfig>>>,
    good: (Arc<ServerConfig>, String),
}

impl Front {
    /// Before the server at `url`, which is that of a plain HTTP server.
    #[must_use]
    pub fn before(url: &str) -> Self {
        Self::start(url, None)
    }

    /// The same, behind TLS.
    #[must_use]
    pub fn with_tls(url: &str) -> Self {
        let good = certified();
        let present = Arc::new(Mutex::new(Arc::clone(&good.0)));
        Self::start(url, Some(Tls { present, good }))
    }

    fn start(url: &str, tls: Option<Tls>) -> Self {
        let upstream: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let conduct = Arc::new(Mutex::new(Conduct::Passes));
        let (shared, present) = (Arc::clone(&conduct), tls.as_ref().map(|tls| Arc::clone(&tls.present)));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (conduct, present) = (Arc::clone(&shared), present.clone());
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    match present {
                        None => serve(stream, upstream, &conduct),
                        Some(present) => {
                            let config = Arc::clone(&present.lock().unwrap());
                            let connection = ServerConnection::new(config).unwrap();
                            serve(StreamOwned::new(connection, stream), upstream, &conduct)
                        }
                    }
                });
            }
        });
        Self { address, conduct, tls }
    }

    /// Its address as `VAULT_ADDR` has it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// The certificate that a client has to trust, as PEM.
    ///
    /// # Panics
    /// Without TLS.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.tls.as_ref().unwrap().good.1
    }

    /// From now on gives this answer to everything.
    pub fn answers(&self, status: &str, kind: &str, body: &str) {
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nLocation: http://portal.invalid/\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        *self.conduct.lock().unwrap() = Conduct::Answers(answer);
    }

    /// Presents a certificate of an authority that no client trusts.
    ///
    /// # Panics
    /// Without TLS.
    pub fn is_another(&self) {
        *self.tls.as_ref().unwrap().present.lock().unwrap() = certified().0;
    }

    /// Passes everything on again.
    pub fn passes(&self) {
        *self.conduct.lock().unwrap() = Conduct::Passes;
        if let Some(tls) = &self.tls {
            *tls.present.lock().unwrap() = Arc::clone(&tls.good.0);
        }
    }
}

fn certified() -> (Arc<ServerConfig>, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), cert.pem())
}

/// One request and its answer. The connection ends then, so that the next request meets what stands here by
/// then.
fn serve(mut client: impl Read + Write, upstream: SocketAddr, conduct: &Mutex<Conduct>) {
    let Some((head, body)) = request(&mut client) else { return };
    let conduct = conduct.lock().unwrap().clone();
    let answer = match conduct {
        Conduct::Answers(answer) => answer.into_bytes(),
        Conduct::Passes => {
            let Ok(mut server) = TcpStream::connect(upstream) else { return };
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
            let mut answer = Vec::new();
            let asked = server.write_all(head.as_bytes()).and_then(|()| server.write_all(&body));
            if asked.and_then(|()| server.read_to_end(&mut answer)).is_err() {
                return;
            }
            answer
        }
    };
    let _ = client.write_all(&answer).and_then(|()| client.flush());
}

/// Head, with the empty line, and body.
fn request(client: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let mut block = [0; 4096];
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end + 4]).into_owned();
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
            });
            if read.len() >= end + 4 + length.unwrap_or(0) {
                return Some((head, read.split_off(end + 4)));
            }
        }
        match client.read(&mut block) {
            Ok(count) if count > 0 => read.extend_from_slice(&block[..count]),
            _ => return None,
        }
    }
}
