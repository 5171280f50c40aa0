//! An SSH bastion: admits certificates of trusted authorities, forwards TCP where policy allows.

pub mod access;
pub mod admin;
pub mod audit;
pub mod authority_source;
pub mod backoff;
pub mod cli;
pub mod config;
pub mod dial;
pub mod drain;
pub mod host_key;
pub mod identity;
pub mod listener;
pub mod metrics;
pub mod own_addresses;
pub mod server;
pub mod ssh;
pub mod telemetry;
pub mod throttle;
pub mod vault;
pub mod watched_file;
