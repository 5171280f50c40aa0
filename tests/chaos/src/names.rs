//! Answers a host's questions for names, as the case wants it at the moment.

use std::sync::{Arc, Mutex};

use tests::{
    dns::{Answer, NameServer},
    private,
    scratch::Scratch,
};

use crate::network::Host;

/// A name server on the loopback interface of one host. All of this process asks there, but for programs on
/// other hosts, where nothing answers.
#[derive(Debug)]
pub struct Names {
    answer: Arc<Mutex<Answer>>,
    _server: NameServer,
    _settings: Scratch,
}

impl Names {
    /// One that has this answer to each question.
    ///
    /// # Panics
    /// Outside of mounts of its own.
    #[must_use]
    pub fn on(host: &Host, answer: Answer) -> Self {
        let answer = Arc::new(Mutex::new(answer));
        let known = Arc::clone(&answer);
        let address = "127.0.0.1:53".parse().unwrap();
        let server = host.run(|| NameServer::start_at(address, move |_| known.lock().unwrap().clone()));
        let scratch = Scratch::new("names");
        let settings = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
        private::put(&scratch.write("resolv.conf", settings), "/etc/resolv.conf");
        Self { answer, _server: server, _settings: scratch }
    }

    /// Has another answer from now on.
    pub fn say(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }
}
