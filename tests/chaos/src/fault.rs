//! The faults, one kind a file: each case injects one for real, and measures what the applications notice.

pub mod address;
pub mod certificates;
pub mod crowd;
pub mod death;
pub mod proven;
pub mod settings;
pub mod silence;
pub mod streams;
pub mod wire;
