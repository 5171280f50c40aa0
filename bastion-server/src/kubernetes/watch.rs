//! Watches the objects of one kind in one namespace or all, for as long as a receiver is held.
//!
//! Whatever happens to the API server, the last known state stays.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use backoff::{Backoff, between};
use futures_util::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::Status,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};

use super::Cluster;
use crate::{
    common::text::with_cause,
    telemetry::metrics::{Metrics, WatchLabels},
};

/// The lifetime of one watch request, in seconds. The next request shows that the API server is still there.
const WATCH_SECONDS: u32 = 60;
/// The number of objects on a page. One object may have a mebibyte of annotations, and a page is in memory
/// more than once while it is read.
const PAGE: u32 = 25;
/// The most objects of one namespace. Further objects are ignored and logged. So the objects of one namespace
/// cannot displace those of another.
const MOST_OBJECTS: usize = 10_000;
/// The waits before a failed request to the API server is repeated. A change must be in force five seconds
/// after the API server is back.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(1));
/// How long an answered watch must go without a failure before it counts as working, even if it has reported
/// nothing.
const SETTLED: Duration = Duration::from_secs(1);
/// HTTP's 410: the API server no longer has the resource version at which the watch would resume.
const GONE: u16 = 410;

/// The namespace, empty for cluster-scoped objects, and the name.
pub(crate) type Key = (String, String);

/// The last known objects, by name; `None` until the first list is complete.
pub(crate) type Current<V> = watch::Receiver<Option<BTreeMap<Key, V>>>;

/// The objects to watch.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The kind of object, for metrics and logs.
    pub resource: &'static str,
    /// The namespace; `None` for all namespaces and for cluster-scoped objects.
    pub namespace: Option<String>,
    /// The name, if only one object is watched.
    pub name: Option<String>,
}

impl Wanted {
    /// The labels of the watch's metrics.
    pub(crate) fn labels(&self) -> WatchLabels {
        WatchLabels {
            resource: self.resource,
            namespace: self.namespace.clone().unwrap_or_default(),
            name: self.name.clone().unwrap_or_default(),
        }
    }
}

/// Follows objects, of each of which `extract` keeps the relevant part. `changed` is called after every
/// change.
pub(crate) fn follow<K, V>(
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
    let answered = Arc::new(Notify::new());
    let (contact, heard) = (cluster.metrics.watch_contact(&labels), Arc::clone(&answered));
    let api = api(cluster.client_for_watch(move || {
        contact.set(SystemTime::now());
        heard.notify_one();
    }));
    let mut config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE);
    if let Some(name) = &wanted.name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let (publish, current) = watch::channel(None);
    let watching =
        Watching { wanted, publish, changed, answered, labels, metrics: Arc::clone(&cluster.metrics) };
    tokio::spawn(watching.run(api, config, extract));
    current
}

struct Watching<V> {
    wanted: Wanted,
    publish: watch::Sender<Option<BTreeMap<Key, V>>>,
    changed: Arc<Notify>,
    /// Notified when the API server has answered, even without a change.
    answered: Arc<Notify>,
    labels: WatchLabels,
    metrics: Arc<Metrics>,
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
                let mut health = Health::new();
                loop {
                    self.until_gone(&api, &config, &extract, &mut health).await;
                    let pause = between(Duration::ZERO, RETRY.first(), &mut rand::rng());
                    sleep(pause).await;
                }
            } => {}
        }
    }

    /// Follows the objects until the API server asks for a new list.
    async fn until_gone<K>(
        &self,
        api: &Api<K>,
        config: &watcher::Config,
        extract: &impl Fn(K) -> V,
        health: &mut Health,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut events = pin!(watcher(api.clone(), config.clone()));
        let mut listed = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                () = self.answered.notified() => health.answered(),
                () = health.settled() => self.works(health),
                event = events.next() => match event {
                    // The request for the list has not been sent yet.
                    Some(Ok(Event::Init)) => listed.clear(),
                    Some(Ok(event)) => {
                        self.works(health);
                        self.learn(event, &mut listed, extract);
                    }
                    Some(Err(error)) if is_gone(&error) => return,
                    Some(Err(error)) => sleep(self.failed(health, &error)).await,
                    None => return,
                },
            }
        }
    }

    fn works(&self, health: &mut Health) {
        if health.works() {
            tracing::info!(
                resource = self.wanted.resource,
                namespace = self.wanted.namespace,
                "watch restored"
            );
        }
    }

    /// Logs a failure, and returns how long to wait.
    fn failed(&self, health: &mut Health, error: &watcher::Error) -> Duration {
        self.metrics.watch_failed(&self.labels);
        let (news, wait) = health.failed();
        if news {
            tracing::warn!(
                resource = self.wanted.resource,
                namespace = self.wanted.namespace,
                error = with_cause(error),
                "watch failed; its last known objects stay in force; retrying"
            );
        }
        wait
    }

    fn learn<K: Resource>(&self, event: Event<K>, listed: &mut BTreeMap<Key, V>, extract: &impl Fn(K) -> V) {
        match event {
            Event::Init => {}
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
        if is_full(known, &key.0, MOST_OBJECTS) && !known.contains_key(&key) {
            self.metrics.watch_failed(&self.labels);
            tracing::error!(
                resource = self.wanted.resource,
                namespace = key.0,
                name = key.1,
                "object ignored: its namespace has more than {MOST_OBJECTS} objects of this kind"
            );
            return;
        }
        known.insert(key, extract(object));
    }
}

/// Whether there are `most` objects of this namespace.
fn is_full<V>(known: &BTreeMap<Key, V>, namespace: &str, most: usize) -> bool {
    // Counted only where there may be that many.
    known.len() >= most
        && known
            .range((namespace.to_owned(), String::new())..)
            .take_while(|((other, _), _)| other == namespace)
            .nth(most - 1)
            .is_some()
}

fn key(object: &impl Resource) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Whether the API server no longer has the version at which the watch would resume, as after a restart. It
/// says so in its answer, where the watcher would ask again and again, or in the stream.
fn is_gone(error: &watcher::Error) -> bool {
    let gone = |status: &Status| status.code == GONE;
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => gone(status),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

/// The health of a watch.
struct Health {
    failing: bool,
    backoff: Backoff,
    /// When the last answer will count as a good one, if no failure follows it.
    settles: Option<Instant>,
}

impl Health {
    const fn new() -> Self {
        Self { failing: false, backoff: RETRY, settles: None }
    }

    fn answered(&mut self) {
        self.settles = Some(Instant::now() + SETTLED);
    }

    /// Waits until the last answer counts as good; forever, if there is none.
    async fn settled(&self) {
        match self.settles {
            Some(settles) => sleep_until(settles).await,
            None => std::future::pending().await,
        }
    }

    /// Records that the watch works, and returns whether it did not before.
    fn works(&mut self) -> bool {
        self.settles = None;
        self.backoff.worked();
        std::mem::take(&mut self.failing)
    }

    /// Records a failure, and returns whether it is the first and how long to wait.
    fn failed(&mut self) -> (bool, Duration) {
        self.settles = None;
        (!std::mem::replace(&mut self.failing, true), self.backoff.failed(&mut rand::rng()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_fails_says_so_once_and_waits_longer_until_it_works() {
        let mut health = Health::new();
        assert!(!health.works(), "it never failed");
        let said: Vec<_> = (0..4).map(|_| health.failed()).collect();
        for ((news, wait), (expected, bound)) in
            said.iter().zip([(true, 250), (false, 500), (false, 1000), (false, 1000)])
        {
            assert_eq!(*news, expected);
            assert!(*wait <= Duration::from_millis(bound), "{said:?}");
        }
        assert!(health.works());
        assert!(!health.works());
        let (news, wait) = health.failed();
        assert!(news && wait <= RETRY.first(), "{wait:?}");
        let another: Vec<_> = (0..4).map(|_| Health::new().failed().1).collect();
        assert!(another.iter().any(|one| *one != another[0]), "replicas ask together: {another:?}");
    }

    #[test]
    fn a_namespace_is_full_of_its_own_objects_only() {
        let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        let known = BTreeMap::from([
            (key("a", "1"), ()),
            (key("b", "1"), ()),
            (key("b", "2"), ()),
            (key("ba", "1"), ()),
        ]);
        for (namespace, most, expected) in [
            ("a", 1, true),
            ("a", 2, false),
            ("b", 2, true),
            ("b", 3, false),
            ("c", 1, false),
            ("", 1, false),
        ] {
            assert_eq!(is_full(&known, namespace, most), expected, "{namespace} {most}");
        }
    }

    #[test]
    fn an_answer_counts_when_no_failure_follows_it() {
        let mut health = Health::new();
        health.failed();
        health.answered();
        assert!(health.settles.is_some());
        health.failed();
        assert!(health.settles.is_none());
    }
}
