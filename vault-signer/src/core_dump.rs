//! Keeps what is in memory, tokens and private keys among it, out of core dumps.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The smallest limit. With 0, Linux would still hand the memory to a program that `core_pattern` names, and with 1 it does
/// not (fs/coredump.c); for a file, both are too little.
const NONE: u64 = 1;

/// From now on this process, and the programs that it starts, write no core dump. The hard limit stays: a program that is
/// started may raise its own again. Nothing can be done where the system refuses, and nothing else depends on it.
pub fn disable() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_CORE) {
        let _ = setrlimit(Resource::RLIMIT_CORE, NONE.min(hard), hard);
    }
}
