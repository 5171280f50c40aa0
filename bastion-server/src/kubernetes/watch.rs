//! Everything of one kind in one place of the cluster, kept up to date for as long as somebody wants to know.
//!
//! Whatever happens to the API server, what was last known stays.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::Status,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::Cluster;
use crate::{backoff, metrics::WatchLabels, telemetry::one_line};

/// How long one request to watch lives, in seconds. The next one shows that the API server is still there.
const WATCH_SECONDS: u32 = 60;
/// Objects a page.
const PAGE: u32 = 500;
/// The most objects of one watch; what is beyond is not looked at, and said so.
const MOST_OBJECTS: usize = 20_000;
/// The waits before the API server is asked again after it failed. A change must be in force five seconds after it is back.
const RETRY: backoff::Backoff = backoff::Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
/// HTTP's 410: the server has forgotten the version that the watch began with.
const GONE: u16 = 410;

/// The namespace, empty for what belongs to the cluster, and the name.
pub type Key = (String, String);

/// What was last known, by name; `None` until the first list is complete.
pub type Current<V> = watch::Receiver<Option<BTreeMap<Key, V>>>;

/// What is to be watched.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The kind of object, for metrics and logs.
    pub resource: &'static str,
    /// The namespace; none for all of them, and for what belongs to the cluster.
    pub namespace: Option<String>,
    /// The only object.
    pub name: Option<String>,
}

impl Wanted {
    /// As metrics call it.
    pub fn labels(&self) -> WatchLabels {
        WatchLabels {
            resource: self.resource,
            namespace: self.namespace.clone().unwrap_or_default(),
            name: self.name.clone().unwrap_or_default(),
        }
    }
}

/// Follows objects, of each of which `extract` keeps what is wanted. `changed` hears of every change.
pub fn follow<K, V>(
    cluster: &Cluster,
    wanted: Wanted,
    api: impl FnOnce(Client) -> Api<K>,
    extract: impl Fn(K) -> V + Send + Sync + 'static,
    changed: Arc<Notify>,
) -> Current<V>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    let labels = wanted.labels();
    let api = api(cluster.client_for_watch(cluster.metrics.watch_contact(&labels)));
    let mut config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE);
    if let Some(name) = &wanted.name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let (publish, current) = watch::channel(None);
    let watching = Watching { wanted, publish, changed, labels, metrics: Arc::clone(&cluster.metrics) };
    tokio::spawn(watching.run(api, config, extract));
    current
}

struct Watching<V> {
    wanted: Wanted,
    publish: watch::Sender<Option<BTreeMap<Key, V>>>,
    changed: Arc<Notify>,
    labels: WatchLabels,
    metrics: Arc<crate::metrics::Metrics>,
}

impl<V> Watching<V> {
    async fn run<K>(self, api: Api<K>, config: watcher::Config, extract: impl Fn(K) -> V)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let ended = self.publish.clone();
        tokio::select! {
            () = ended.closed() => {}
            () = async {
                loop {
                    self.until_gone(&api, &config, &extract).await;
                    sleep(RETRY.first()).await;
                }
            } => {}
        }
    }

    /// Follows until the API server wants us to begin anew.
    async fn until_gone<K>(&self, api: &Api<K>, config: &watcher::Config, extract: &impl Fn(K) -> V)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut events = Box::pin(watcher(api.clone(), config.clone()).backoff(Retry(RETRY)));
        let mut listed = BTreeMap::new();
        let mut failing = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if failing {
                        tracing::info!(
                            resource = self.wanted.resource,
                            namespace = self.wanted.namespace,
                            "the API server answers again"
                        );
                    }
                    failing = false;
                    self.learn(event, &mut listed, extract);
                }
                Err(error) => {
                    self.metrics.watch_failed(&self.labels);
                    if !failing {
                        tracing::warn!(
                            resource = self.wanted.resource,
                            namespace = self.wanted.namespace,
                            error = one_line(&error),
                            "the API server does not answer; keeping what is known, and asking again"
                        );
                    }
                    failing = true;
                    if is_gone(&error) {
                        return;
                    }
                }
            }
        }
    }

    fn learn<K: Resource>(&self, event: Event<K>, listed: &mut BTreeMap<Key, V>, extract: &impl Fn(K) -> V) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => self.keep(listed, object, extract),
            Event::InitDone => {
                let listed = std::mem::take(listed);
                self.publish.send_replace(Some(listed));
                self.changed.notify_one();
            }
            Event::Apply(object) => self.change(|known| self.keep(known, object, extract)),
            Event::Delete(object) => self.change(|known| drop(known.remove(&key(&object)))),
        }
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Key, V>)) {
        self.publish.send_modify(|known| change(known.get_or_insert_default()));
        self.changed.notify_one();
    }

    fn keep<K: Resource>(&self, known: &mut BTreeMap<Key, V>, object: K, extract: &impl Fn(K) -> V) {
        let key = key(&object);
        if known.len() >= MOST_OBJECTS && !known.contains_key(&key) {
            self.metrics.watch_failed(&self.labels);
            tracing::error!(
                resource = self.wanted.resource,
                namespace = key.0,
                name = key.1,
                "there are more than {MOST_OBJECTS} objects; this one is not looked at"
            );
            return;
        }
        known.insert(key, extract(object));
    }
}

fn key(object: &impl Resource) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Where the watcher would ask again and again for what there is no more: told in the answer itself rather than in the stream.
fn is_gone(error: &watcher::Error) -> bool {
    let gone = |status: &Status| status.code == GONE;
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => gone(status),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

/// Our waits, as the watcher wants them.
struct Retry(backoff::Backoff);

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.failed())
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.0.worked();
    }
}
