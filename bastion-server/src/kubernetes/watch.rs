//! Everything of one kind in one place of the cluster, kept up to date for as long as somebody wants to know.
//!
//! Whatever happens to the API server, what was last known stays.

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

/// How long one request to watch lives, in seconds. The next one shows that the API server is still there.
const WATCH_SECONDS: u32 = 60;
/// Objects a page. One may have a mebibyte of annotations, and a page is in memory more than once while it is read.
const PAGE: u32 = 25;
/// The most objects of one namespace; what is beyond is not looked at, and said so. Nobody takes the place of another namespace's objects.
const MOST_OBJECTS: usize = 10_000;
/// The waits before the API server is asked again after it failed. A change must be in force five seconds after it is back.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(1));
/// A watch that was answered, and has not failed for so long, works, though it has nothing to tell.
const SETTLED: Duration = Duration::from_secs(1);
/// HTTP's 410: the server has forgotten the version that the watch began with.
const GONE: u16 = 410;

/// The namespace, empty for what belongs to the cluster, and the name.
pub(crate) type Key = (String, String);

/// What was last known, by name; `None` until the first list is complete.
pub(crate) type Current<V> = watch::Receiver<Option<BTreeMap<Key, V>>>;

/// What is to be watched.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The kind of object, for metrics and logs.
    pub resource: &'static str,
    /// The namespace; none for all of them, and for what belongs to the cluster.
    pub namespace: Option<String>,
    /// The only object.
    pub name: Option<String>,
}

impl Wanted {
    /// As metrics call it.
    pub(crate) fn labels(&self) -> WatchLabels {
        WatchLabels {
            resource: self.resource,
            namespace: self.namespace.clone().unwrap_or_default(),
            name: self.name.clone().unwrap_or_default(),
        }
    }
}

/// Follows objects, of each of which `extract` keeps what is wanted. `changed` hears of every change.
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
    /// The API server answered, though perhaps with nothing to learn from.
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

    /// Follows until the API server wants us to begin anew.
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
                    // It is about to ask.
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
                "the watch works again"
            );
        }
    }

    /// How long to wait.
    fn failed(&self, health: &mut Health, error: &watcher::Error) -> Duration {
        self.metrics.watch_failed(&self.labels);
        let (news, wait) = health.failed();
        if news {
            tracing::warn!(
                resource = self.wanted.resource,
                namespace = self.wanted.namespace,
                error = with_cause(error),
                "a watch failed; keeping what is known, and asking again"
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
                "there are more than {MOST_OBJECTS} objects in its namespace; this one is not looked at"
            );
            return;
        }
        known.insert(key, extract(object));
    }
}

/// Whether there are `most` objects of this namespace.
fn is_full<V>(known: &BTreeMap<Key, V>, namespace: &str, most: usize) -> bool {
    // Counted only where there may be so many.
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

/// Whether the API server has forgotten what the watch goes on from, as it has of all of them when it was restarted. It says so in its answer,
/// where the watcher would ask again and again, or in the stream.
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

/// How a watch fares.
struct Health {
    failing: bool,
    backoff: Backoff,
    /// When an answer, of which nothing was heard since, will have been a good one.
    settles: Option<Instant>,
}

impl Health {
    const fn new() -> Self {
        Self { failing: false, backoff: RETRY, settles: None }
    }

    fn answered(&mut self) {
        self.settles = Some(Instant::now() + SETTLED);
    }

    /// Waits until the last answer has settled; for ever, if there is none to wait for.
    async fn settled(&self) {
        match self.settles {
            Some(settles) => sleep_until(settles).await,
            None => std::future::pending().await,
        }
    }

    /// Whether that is news.
    fn works(&mut self) -> bool {
        self.settles = None;
        self.backoff.worked();
        std::mem::take(&mut self.failing)
    }

    /// Whether that is news, and how long to wait.
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
