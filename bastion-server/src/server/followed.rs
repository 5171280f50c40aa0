//! Follows values that a task keeps fresh: waits for the first one, and applies each later one.

use std::future::pending;

use tokio::sync::watch;

/// A value that changes while the bastion serves. `None` until its source has answered for the first time.
#[derive(Debug)]
pub(crate) struct Followed<T>(watch::Receiver<Option<T>>);

impl<T> From<watch::Receiver<Option<T>>> for Followed<T> {
    fn from(receiver: watch::Receiver<Option<T>>) -> Self {
        Self(receiver)
    }
}

impl<T: Clone + Send + Sync + 'static> Followed<T> {
    /// Waits for the first value.
    pub(crate) async fn first(&mut self) -> T {
        loop {
            if let Some(value) = self.0.borrow_and_update().clone() {
                return value;
            }
            if self.0.changed().await.is_err() {
                // The source is gone, and without its value the bastion cannot serve.
                pending::<()>().await;
            }
        }
    }

    /// Calls `apply` with each later value, in a task of its own, until the source ends.
    pub(super) fn apply(mut self, apply: impl Fn(T) + Send + 'static) {
        tokio::spawn(async move {
            while self.0.changed().await.is_ok() {
                let value = self.0.borrow_and_update().clone();
                if let Some(value) = value {
                    apply(value);
                }
            }
        });
    }
}
