//! Units and files: small tools that know nothing of the bastion.

pub mod units;
pub mod watched_file;
