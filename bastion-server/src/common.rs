//! Parses units, escapes text and watches files: small tools that know nothing of the bastion.

pub(crate) mod text;
pub(crate) mod units;
pub(crate) mod watched_file;
