//! An SSH bastion: admits certificates of trusted authorities, forwards TCP where policy allows.

pub mod admin;
pub mod config;
pub mod drain;
pub mod listener;
pub mod metrics;
pub mod socket;
pub mod telemetry;
pub mod throttle;
