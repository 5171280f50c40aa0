//! Limits what has not logged in yet by its source, and what has by its identity. The clock is an argument.

pub mod bandwidth;
pub mod identities;
pub mod startups;
pub mod token_bucket;
