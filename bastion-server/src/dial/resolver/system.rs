//! Reads the system's `/etc/resolv.conf` and `/etc/hosts`, and again when they change: a laptop changes its
//! network, and a node its name servers.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    Hosts,
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf::parse_resolv_conf,
};
use std::net::IpAddr;

use super::{NoServers, search::Search, servers::Servers};
use crate::{common::watched_file::WatchedFile, destination};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// The largest of these files that is read, in bytes.
const LARGEST: u64 = 1024 * 1024;
/// The shortest time between two checks for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The number of name servers that glibc uses; it ignores more (MAXNS).
const MOST_SERVERS: usize = 3;

/// The settings that the files contain.
pub(super) struct Settings {
    pub(super) servers: Servers,
    pub(super) search: Search,
    hosts: Hosts,
}

impl Settings {
    /// The addresses of a name in `/etc/hosts`. The file comes before any name server, and neither the search
    /// list nor a final dot matters to it.
    pub(super) fn host(&self, name: &destination::Name) -> Vec<IpAddr> {
        let Ok(wanted) = Name::from_ascii(name.as_str()) else { return Vec::new() };
        if name.is_absolute() {
            return Vec::new();
        }
        let of = |kind| self.hosts.lookup_static_host(&Query::query(wanted.clone(), kind));
        let lookups = [RecordType::A, RecordType::AAAA].into_iter().filter_map(of);
        lookups
            .flat_map(|lookup| {
                lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
            })
            .collect()
    }
}

/// The settings of this moment.
pub(super) struct System {
    patience: Duration,
    state: Mutex<State>,
}

struct State {
    resolv_conf: WatchedFile,
    hosts: WatchedFile,
    looked: Instant,
    failing: bool,
    texts: Texts,
    settings: Arc<Settings>,
}

/// The contents of the files. `/etc/hosts` may be missing.
#[derive(Clone, Default)]
struct Texts {
    resolv_conf: Vec<u8>,
    hosts: Vec<u8>,
}

impl System {
    pub(super) fn read(patience: Duration) -> Result<Self, NoServers> {
        let mut resolv_conf = WatchedFile::new(RESOLV_CONF);
        let mut hosts = WatchedFile::new(HOSTS);
        let texts = Texts {
            resolv_conf: look(&mut resolv_conf)?.unwrap_or_default(),
            hosts: look(&mut hosts).ok().flatten().unwrap_or_default(),
        };
        let settings = Arc::new(parse(&texts, patience, environment)?);
        let state = State { resolv_conf, hosts, looked: Instant::now(), failing: false, texts, settings };
        Ok(Self { patience, state: Mutex::new(state) })
    }

    /// Returns the settings of this moment. A file that is missing or malformed leaves the previous settings
    /// in force.
    pub(super) fn now(&self) -> Arc<Settings> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = Instant::now();
            state.look_again(self.patience);
        }
        Arc::clone(&state.settings)
    }
}

impl State {
    fn look_again(&mut self, patience: Duration) {
        let mut texts = self.texts.clone();
        let hosts = look(&mut self.hosts).unwrap_or_default();
        let outcome = look(&mut self.resolv_conf).and_then(|resolv_conf| {
            if resolv_conf.is_none() && hosts.is_none() {
                return Ok(None);
            }
            texts.resolv_conf = resolv_conf.unwrap_or(texts.resolv_conf);
            texts.hosts = hosts.unwrap_or(texts.hosts);
            parse(&texts, patience, environment).map(|settings| Some((texts, settings)))
        });
        match outcome {
            Ok(None) => self.failing = false,
            Ok(Some((texts, settings))) => {
                tracing::info!("name settings of the system reloaded");
                (self.texts, self.settings, self.failing) = (texts, Arc::new(settings), false);
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(%error, "name settings of the system cannot be used; the previous ones stay in force");
                }
                self.failing = true;
            }
        }
    }
}

fn look(file: &mut WatchedFile) -> Result<Option<Vec<u8>>, NoServers> {
    let path = file.path().to_owned();
    file.changed_bytes(LARGEST).map_err(|error| NoServers(format!("{}: {error}", path.display())))
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn parse(
    texts: &Texts,
    patience: Duration,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Settings, NoServers> {
    let mut text = texts.resolv_conf.clone();
    // Both variables precede the file, whose last value counts (resolv.conf(5)).
    for (variable, keyword) in [(variable("LOCALDOMAIN"), "search"), (variable("RES_OPTIONS"), "options")] {
        let value = variable.unwrap_or_default().replace(['\n', '\r'], " ");
        if !value.trim().is_empty() {
            text.extend(format!("\n{keyword} {value}\n").as_bytes());
        }
    }
    let wrong = |error: hickory_resolver::net::NetError| {
        NoServers(format!("{}: {error}", Path::new(RESOLV_CONF).display()))
    };
    let (config, options) = parse_resolv_conf(&text).map_err(wrong)?;
    let mut domains: Vec<String> = config.search().iter().map(without_dot).collect();
    if domains.is_empty() {
        // The machine's own domain, from its host name.
        domains.extend(config.domain().map(without_dot));
    }
    let search = Search { ndots: options.ndots, domains };
    let servers = config.name_servers().iter().take(MOST_SERVERS).cloned().collect();
    let servers = Servers::new(servers, &options, patience).map_err(wrong)?;
    let mut hosts = Hosts::default();
    // Malformed lines are skipped; a line that is not text ends the file.
    let _ = hosts.read_hosts_conf(texts.hosts.as_slice());
    Ok(Settings { servers, search, hosts })
}

fn without_dot(domain: &Name) -> String {
    let text = domain.to_ascii().to_lowercase();
    text.strip_suffix('.').map(str::to_owned).unwrap_or(text)
}
