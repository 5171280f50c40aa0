//! The faults, one kind a file: each case injects one for real, and measures what the applications notice.

pub mod address;
pub mod death;
pub mod silence;
pub mod wire;
