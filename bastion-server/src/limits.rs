//! Limits what has not logged in yet by its source, and what has by its identity. The clock is an argument.

pub(crate) mod bandwidth;
pub(crate) mod identities;
pub(crate) mod startups;
pub(crate) mod token_bucket;
