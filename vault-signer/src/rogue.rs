//! A server that says whatever a test wants it to say, and remembers what it was asked.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::server::{Server, Settings};

/// What the server does with each request.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Writes this, byte for byte, and closes.
    Raw(String),
    /// Writes this, and then zeros without end.
    Endless(String),
    /// Writes this, and then one byte a second without end.
    Slow(String),
    /// Reads, and says nothing.
    Silent,
}

impl Answer {
    pub(crate) fn reply(status: &str, kind: &str, body: &str) -> Self {
        let length = body.len();
        Self::Raw(format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ))
    }

    pub(crate) fn json(status: &str, body: &serde_json::Value) -> Self {
        Self::reply(status, "application/json", &body.to_string())
    }
}

/// A misbehaving server on a loopback port. It ends with the test's runtime.
pub(crate) struct Rogue {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    written: Arc<Mutex<usize>>,
}

impl Rogue {
    pub(crate) async fn new(answer: Answer) -> Self {
        Self::answering(move |_| answer.clone()).await
    }

    /// Answers by the request's first line.
    pub(crate) async fn answering(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (asked, written) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (log, count, answer) = (asked.clone(), written.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, count, answer) = (log.clone(), count.clone(), answer.clone());
                tokio::spawn(async move { serve(stream, &log, &count, &*answer).await });
            }
        });
        Self { address, asked, written }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn server(&self) -> Server {
        Server::new(&Settings { address: Some(self.address.clone()), ..Settings::default() }).unwrap()
    }

    /// Every request until now, head and body.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How many bytes it could write.
    pub(crate) fn written(&self) -> usize {
        *self.written.lock().unwrap()
    }
}

async fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<String>>,
    count: &Mutex<usize>,
    answer: &(dyn Fn(&str) -> Answer + Send + Sync),
) {
    let Some(request) = read(&mut stream).await else { return };
    let answer = answer(request.lines().next().unwrap_or_default());
    log.lock().unwrap().push(request);
    let (head, chunk, pause) = match answer {
        Answer::Raw(text) => (text, Vec::new(), Duration::ZERO),
        Answer::Endless(text) => (text, vec![b' '; 64 * 1024], Duration::ZERO),
        Answer::Slow(text) => (text, vec![b' '], Duration::from_secs(1)),
        Answer::Silent => return std::future::pending().await,
    };
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    while !chunk.is_empty() && stream.write_all(&chunk).await.is_ok() {
        *count.lock().unwrap() += chunk.len();
        tokio::time::sleep(pause).await;
    }
}

/// Head and body of one request.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await.ok().filter(|count| *count > 0)?;
        text.push_str(&String::from_utf8_lossy(&part[..count]));
    }
}
