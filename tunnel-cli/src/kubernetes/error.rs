//! Explains why the connection info was not read.

use std::{
    error::Error,
    io::{self, ErrorKind},
    time::Duration,
};

use http_body_util::LengthLimitError;
use plain_text::escaped;

use super::ObjectRef;
use crate::failure::{Failure, Stage};

/// How much of what an API server says is shown, in characters.
const LONGEST_WORDS: usize = 400;

/// Why the API server gave no ConfigMap.
#[derive(Debug)]
pub(super) enum ReadError {
    /// What the kubeconfig says cannot be used: a certificate, a key, a proxy.
    Setup(String),
    /// The API server did not answer, or its answer broke off.
    Unreached(String),
    /// What answered is not the API server: another certificate, no TLS, no HTTP.
    Stranger(String),
    /// No answer in this time.
    Silent(Duration),
    /// An answer that is longer than any ConfigMap.
    TooLong,
    /// Something that is not a ConfigMap.
    Unexpected,
    /// The API server said no.
    Refused {
        /// The status of HTTP.
        code: u16,
        /// Its words.
        message: String,
        /// Its word for it.
        reason: String,
    },
}

impl ReadError {
    pub(super) fn setup(error: &kube::Error) -> Self {
        Self::Setup(words(innermost(error)))
    }

    /// Of a request or of the body of its answer.
    pub(super) fn on_the_way(error: &(dyn Error + 'static)) -> Self {
        let cause = innermost(error);
        if cause.is::<LengthLimitError>() {
            Self::TooLong
        } else if cause.downcast_ref().is_some_and(|error: &io::Error| error.kind() != ErrorKind::InvalidData)
        {
            Self::Unreached(words(cause))
        } else {
            Self::Stranger(words(cause))
        }
    }

    /// What failed, what it means, what to do.
    pub(super) fn explain(self, object: &ObjectRef, context: &str) -> Failure {
        let ObjectRef { namespace, config_map, context: _ } = object;
        let failed = |what: String| Failure::permanent(Stage::Configuration, what);
        let unreached = |why: &str| format!("the API server of context {context} is not reached: {why}");
        let unneeded = "It says where the bastion is. Does `kubectl version` reach it from here? With a pf-tunnel.yaml and without --kube-context it is not needed.";
        match self {
            Self::Setup(why) => failed(format!("the context {context} cannot be used: {why}"))
                .advise("It is the kubeconfig that says how to log in to this cluster."),
            Self::Unreached(why) => Failure::transient(Stage::Configuration, unreached(&why)).advise(unneeded),
            Self::Silent(time) => {
                let why = format!("no answer in {} s", time.as_secs());
                Failure::transient(Stage::Configuration, unreached(&why)).advise(unneeded)
            }
            Self::Stranger(why) => failed(unreached(&why)).advise(
                "What answered there is not the API server that the kubeconfig means: it is another cluster, or an attacker in between.",
            ),
            Self::TooLong => failed(format!("ConfigMap {namespace}/{config_map} is too long to be the bastion's")),
            Self::Unexpected => {
                failed(format!("the API server of context {context} answered with something else than a ConfigMap"))
                    .advise("Is `server` in the kubeconfig the API server?")
            }
            Self::Refused { code: 401, .. } => {
                failed(format!("the API server of context {context} does not know you"))
                    .advise("Log in to the cluster again, as you do for kubectl.")
            }
            Self::Refused { code: 403, message, .. } => {
                failed(format!("you may not read ConfigMap {namespace}/{config_map} of context {context}"))
                    .advise("Ask the bastion's operator to name you, or a group of yours, under `connectionInfo.readers` of its chart: that is a Role for this one object.")
                    .advise(format!("It says: {}", escaped(&message, LONGEST_WORDS)))
            }
            Self::Refused { code: 404, .. } => {
                failed(format!("there is no ConfigMap {namespace}/{config_map} in context {context}"))
                    .advise("Is the bastion installed there, under these names? This finds it: kubectl get configmaps -A -l tunnel-suite.internal/connection-info=true")
                    .advise("Name it with --kube-namespace and --kube-config-map.")
            }
            Self::Refused { code, message, reason } => {
                let words = if message.is_empty() { reason } else { message };
                let what =
                    format!("the API server of context {context} answered {code}: {}", escaped(&words, LONGEST_WORDS));
                let failed = match code {
                    429 | 500.. => Failure::transient(Stage::Configuration, what),
                    _ => failed(what),
                };
                failed.advise("Try again in a moment.")
            }
        }
    }
}

/// The cause that has no cause: the others only say that something failed.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}

fn words(error: &(dyn Error + 'static)) -> String {
    escaped(&error.to_string(), LONGEST_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_cannot_do_now_may_pass() {
        let name = |name: &str| name.to_owned().try_into().unwrap();
        let object = ObjectRef { context: None, namespace: name("bastion"), config_map: name("info") };
        for (code, passes) in
            [(400, false), (401, false), (403, false), (404, false), (429, true), (500, true), (503, true)]
        {
            let refused = ReadError::Refused { code, message: "no".to_owned(), reason: String::new() };
            assert_eq!(refused.explain(&object, "prod").is_transient(), passes, "{code}");
        }
    }
}
