//! Limits the process by seccomp to the system calls of a program with sockets, threads, timers and files to
//! read.
//!
//! Every other call fails with `ENOSYS`, as in a kernel that does not have it, so that the C library falls
//! back to a listed call where it has a fallback.

use std::collections::BTreeMap;

use nix::libc::{self, c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Calls that are allowed with any arguments: they act on descriptors that were opened under the conditions
/// below.
const ALLOWED: &[c_long] = &[
    // Reading and writing.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    // Files and their metadata.
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    // Sockets that exist already.
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // Time, random numbers, and the process's own identifiers.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_sched_getaffinity,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    // The process's own threads and signals.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older variants of some calls, which only this architecture has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[c_long] = &[
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_pipe,
    libc::SYS_dup2,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[c_long] = &[];

/// The length of a netlink address, which no internet address has: the C library binds a netlink socket to
/// list network interfaces. Listeners were bound before, DNS queries go out from sockets that are only
/// connected, and a socket that was never bound cannot listen without `listen`.
const NETLINK_ADDRESS: u64 = size_of::<libc::sockaddr_nl>() as u64;

/// Families of sockets: TCP and UDP, name services of this machine, and netlink for its network interfaces.
const FAMILIES: [c_int; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];
/// Types of sockets in every family but the last, so no raw packets. Flags beside the type are ignored.
const SOCKET_TYPES: [c_int; 2] = [libc::SOCK_STREAM, libc::SOCK_DGRAM];
const SOCKET_TYPE_MASK: c_int = 0xf;
/// Requests about sockets, pipes and terminals: FIONBIO, FIOCLEX, FIONREAD, TCGETS, TIOCGWINSZ. Written as
/// numbers, since the type of the named constants differs between C libraries.
const REQUESTS: [u64; 5] = [0x5421, 0x5451, 0x541b, 0x5401, 0x5413];
/// Flags that create, change or write a file.
const WRITING: c_int = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
/// Memory that is both writable and executable.
const BOTH: c_int = libc::PROT_WRITE | libc::PROT_EXEC;

/// Whether `bind` to another address reports success and does nothing. musl's `getaddrinfo` binds its sockets
/// to the unspecified address and port 0 before it asks a name server, gives up if that fails, and works as
/// well without.
const PRETEND_TO_BIND: bool = cfg!(target_env = "musl");

pub(super) fn restrict() -> Result<(), String> {
    let programs = match PRETEND_TO_BIND {
        // The first filter decides about a call that the second allows, and affects no other call.
        true => vec![pretend_to_bind(), program()],
        false => vec![program()],
    };
    programs.into_iter().try_for_each(|program| {
        seccompiler::apply_filter(&program.map_err(|error| error.to_string())?)
            .map_err(|error| error.to_string())
    })
}

fn pretend_to_bind() -> Result<BpfProgram, BackendError> {
    let other = rule([condition(2, SeccompCmpOp::Ne, NETLINK_ADDRESS)])?;
    let rules = BTreeMap::from([(libc::SYS_bind, vec![other])]);
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(0), architecture)?.try_into()
}

fn program() -> Result<BpfProgram, BackendError> {
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules()?, missing, SeccompAction::Allow, architecture)?.try_into()
}

fn rules() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<_, _> =
        ALLOWED.iter().chain(ALLOWED_OLD).map(|call| (*call, Vec::new())).collect();
    let read_only = |flags: u8| masked(flags, WRITING, 0);
    rules.insert(libc::SYS_openat, vec![rule([read_only(2)])?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![rule([read_only(1)])?]);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let unlike_both =
            [0, libc::PROT_WRITE, libc::PROT_EXEC].map(|protection| rule([masked(2, BOTH, protection)]));
        rules.insert(call, unlike_both.into_iter().collect::<Result<_, _>>()?);
    }
    // Threads only, not processes. The arguments of `clone3` are in memory, where seccomp cannot check them,
    // so it is not listed.
    rules.insert(libc::SYS_clone, vec![rule([masked(0, libc::CLONE_THREAD, libc::CLONE_THREAD)])?]);
    let mut sockets = vec![rule([equal(0, libc::AF_NETLINK), equal(2, libc::NETLINK_ROUTE)])?];
    for family in FAMILIES.into_iter().filter(|family| *family != libc::AF_NETLINK) {
        for kind in SOCKET_TYPES {
            sockets.push(rule([equal(0, family), masked(1, SOCKET_TYPE_MASK, kind)])?);
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    let bind = match PRETEND_TO_BIND {
        true => Vec::new(),
        false => vec![rule([condition(2, SeccompCmpOp::Eq, NETLINK_ADDRESS)])?],
    };
    rules.insert(libc::SYS_bind, bind);
    let requests = REQUESTS.map(|request| rule([condition(1, SeccompCmpOp::Eq, request)]));
    rules.insert(libc::SYS_ioctl, requests.into_iter().collect::<Result<_, _>>()?);
    // The names of threads and of memory.
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA].map(|name| rule([equal(0, name)]));
    rules.insert(libc::SYS_prctl, names.into_iter().collect::<Result<_, _>>()?);
    // The limits of this process.
    rules.insert(libc::SYS_prlimit64, vec![rule([equal(0, 0)])?]);
    Ok(rules)
}

type Condition = Result<SeccompCondition, BackendError>;

/// A rule that allows a call if all conditions hold.
fn rule<const N: usize>(conditions: [Condition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

fn equal(argument: u8, value: c_int) -> Condition {
    condition(argument, SeccompCmpOp::Eq, value.unsigned_abs().into())
}

fn masked(argument: u8, mask: c_int, value: c_int) -> Condition {
    condition(argument, SeccompCmpOp::MaskedEq(mask.unsigned_abs().into()), value.unsigned_abs().into())
}

/// The kernel itself takes these arguments as 32 bits.
fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_can_be_built_and_lists_nothing_that_makes_programs() {
        assert!(!program().unwrap().is_empty());
        assert!(!pretend_to_bind().unwrap().is_empty());
        let rules = rules().unwrap();
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_bpf,
            libc::SYS_init_module,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setuid,
            libc::SYS_kill,
            libc::SYS_io_uring_setup,
            libc::SYS_memfd_create,
            libc::SYS_process_vm_readv,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_listen,
        ] {
            assert!(!rules.contains_key(&call), "{call}");
        }
    }
}
