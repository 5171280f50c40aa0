//! Finds the words of a refusal for the request that was refused: russh tells the reason code to the task that asked, but the
//! server's words only to the handler, under a number that the task never learns.
//!
//! russh numbers the channels of a connection from 2 in the order in which requests reach its queue, and we are the only
//! one who makes any. So the numbers are counted along here. A server that opens channels of its own can shift the count
//! and thereby mix up its own words, and nothing else.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

/// The words come right after the code, from another task.
const PATIENCE: Duration = Duration::from_millis(200);

/// The requests that wait for an answer.
#[derive(Default)]
pub(super) struct RefusalTexts(Mutex<Waiting>);

struct Waiting {
    last: u32,
    words: HashMap<u32, oneshot::Sender<String>>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { last: 1, words: HashMap::new() }
    }
}

/// One request's claim to the words of its refusal.
pub(super) struct Claim<'a> {
    texts: &'a RefusalTexts,
    number: u32,
    words: oneshot::Receiver<String>,
}

impl RefusalTexts {
    /// Runs `request`, which has to put one request into russh's queue, and gives it its number.
    pub(super) fn next<T>(&self, request: impl FnOnce() -> T) -> (Claim<'_>, T) {
        let (sender, words) = oneshot::channel();
        let mut waiting = self.waiting();
        waiting.last = waiting.last.wrapping_add(1);
        let number = waiting.last;
        waiting.words.insert(number, sender);
        (Claim { texts: self, number, words }, request())
    }

    /// Passes on the words for a number.
    pub(super) fn tell(&self, number: u32, words: String) {
        if let Some(sender) = self.waiting().words.remove(&number) {
            let _ = sender.send(words);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// The words, if there are any.
    pub(super) async fn reason(mut self) -> Option<String> {
        timeout(PATIENCE, &mut self.words).await.ok()?.ok()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.texts.waiting().words.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_request_gets_its_own_words() {
        let texts = RefusalTexts::default();
        let (first, ()) = texts.next(|| ());
        let (second, ()) = texts.next(|| ());
        let (third, ()) = texts.next(|| ());
        texts.tell(3, "two".into());
        texts.tell(2, "one".into());
        texts.tell(7, "of no request".into());
        assert_eq!(second.reason().await.as_deref(), Some("two"));
        assert_eq!(first.reason().await.as_deref(), Some("one"));
        drop(third);
        assert!(texts.waiting().words.is_empty());
    }
}
