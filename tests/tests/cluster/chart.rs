//! The bastion's chart in a cluster: an API server takes all of it, and a release lives.

mod admission;
mod release;
