//! Lists the complete names that a name may stand for, in the order of glibc's `getaddrinfo` (resolv.conf(5),
//! and `__res_context_search` in its source). No IO.

use crate::destination::Name;

/// The largest `ndots` that has an effect: glibc's own limit.
const MOST_DOTS: usize = 15;

/// The settings of resolv.conf(5) for names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Search {
    /// A name with at least this many dots is tried as it is first.
    pub(super) ndots: usize,
    /// The domains that are appended to a name, in this order, without final dots.
    pub(super) domains: Vec<String>,
}

/// A complete name, without its final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) name: String,
    /// Whether a domain of the search list was appended. If a server cannot answer for one such name, the
    /// following ones are not asked for either: their answer could differ from the first one's.
    pub(super) searched: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self { ndots: 1, domains: Vec::new() }
    }
}

impl Search {
    /// The names to ask for, until one has an address.
    pub(super) fn steps(&self, name: &Name) -> Vec<Step> {
        let as_it_is = Step { name: name.as_str().to_owned(), searched: false };
        if name.is_absolute() {
            return vec![as_it_is];
        }
        let below = self.domains.iter().map(|domain| match domain.as_str() {
            "" => as_it_is.name.clone(),
            domain => format!("{}.{domain}", as_it_is.name),
        });
        let below = below.map(|name| Step { name, searched: true });
        let dots = name.as_str().bytes().filter(|byte| *byte == b'.').count();
        if dots >= self.ndots.min(MOST_DOTS) {
            std::iter::once(as_it_is.clone()).chain(below).collect()
        } else if self.domains.iter().any(String::is_empty) {
            below.collect()
        } else {
            below.chain([as_it_is.clone()]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Host;

    #[test]
    fn names_are_completed_in_their_order() {
        let steps = |ndots: usize, domains: &[&str], name: &str| -> Vec<String> {
            let Ok(Host::Name(name)) = Host::parse(name) else { panic!("{name}") };
            let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
            Search { ndots, domains }.steps(&name).into_iter().map(|step| step.name).collect()
        };
        let cluster = ["ns.svc.cluster.local", "svc.cluster.local"];
        assert_eq!(
            steps(5, &cluster, "db.example.com"),
            ["db.example.com.ns.svc.cluster.local", "db.example.com.svc.cluster.local", "db.example.com"]
        );
        assert_eq!(steps(5, &cluster, "db.example.com."), ["db.example.com"]);
        assert_eq!(steps(1, &["corp"], "db"), ["db.corp", "db"]);
        assert_eq!(steps(1, &["corp"], "db.example"), ["db.example", "db.example.corp"]);
        assert_eq!(steps(0, &["corp"], "db"), ["db", "db.corp"]);
        assert_eq!(steps(1, &[], "db"), ["db"]);
        assert_eq!(steps(1, &["", "corp"], "db"), ["db", "db.corp"], "the root stands for the name itself");
        let deep = ["a"; 16].join(".");
        assert_eq!(steps(99, &["corp"], &deep)[0], deep, "no more than fifteen dots are asked for");
    }
}
