//! Limits clients by their source before the login and by their identity after it. The clock is an argument.

pub(crate) mod bandwidth;
pub(crate) mod identities;
pub(crate) mod startups;
pub(crate) mod token_bucket;
