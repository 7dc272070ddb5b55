//! The system calls that the daemon may make: a name, a guard and a reason each. What is not here answers `EPERM`.
//!
//! `docs/sandbox.md` has the same table, and `cargo xtask tidy` compares the two.

use libc::c_long;

/// A system call that is allowed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SystemCall {
    /// Its name, as in syscalls(2).
    pub name: &'static str,
    /// Its number here; `None` where this architecture has none.
    pub number: Option<c_long>,
    /// Which architecture has it: "all", "x86_64" or "aarch64", or with which C library: "gnu", or "musl" (on x86-64).
    pub architecture: &'static str,
    /// What its arguments must be.
    pub guard: Guard,
    /// What the daemon needs it for.
    pub reason: &'static str,
}

/// What the arguments of an allowed call must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guard {
    /// Anything.
    Free,
    /// Streams and datagrams of IPv4 and IPv6, streams of Unix sockets and vsock, and the kernel's routing table.
    Families,
    /// Opened for reading, and nothing made.
    Reading,
    /// A thread of this process, not a process.
    Threads,
    /// Memory that is not executable.
    NoCode,
    /// This process.
    Itself,
    /// The names of threads and of memory.
    Names,
    /// Blocking or not, how much there is to read, whether it is a terminal.
    Modes,
    /// Answered with `ENOSYS`, so that the C library takes its older way.
    NotThere,
}

impl Guard {
    /// The guard in a few words; empty for [`Guard::Free`].
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Guard::Free => "",
            Guard::Families => "IPv4, IPv6: streams, datagrams; Unix, vsock: streams; netlink: routing",
            Guard::Reading => "for reading only, nothing created",
            Guard::Threads => "threads, no processes",
            Guard::NoCode => "never executable",
            Guard::Itself => "to this process",
            Guard::Names => "names of threads and of memory",
            Guard::Modes => "FIONBIO, FIONREAD, TCGETS",
            Guard::NotThere => "answered ENOSYS",
        }
    }
}

/// One row for each call. `@x86_64` stands before those that newer architectures have left out, `@aarch64` before those that
/// the C library uses in their place there, `@gnu` and `@musl` (on x86-64) before those of one C library.
macro_rules! calls {
    ($($(@$older:ident)? $number:ident $guard:ident $reason:literal,)*) => {
        &[$(SystemCall {
            // Without its "SYS_".
            name: stringify!($number).split_at(4).1,
            number: number!($($older)? $number),
            architecture: architecture!($($older)?),
            guard: Guard::$guard,
            reason: $reason,
        },)*]
    };
}

macro_rules! architecture {
    () => {
        "all"
    };
    ($older:ident) => {
        stringify!($older)
    };
}

macro_rules! number {
    (x86_64 $number:ident) => {
        only!("x86_64", "gnu" "musl", $number)
    };
    (aarch64 $number:ident) => {
        only!("aarch64", "gnu" "musl", $number)
    };
    (gnu $number:ident) => {
        only!("x86_64" "aarch64", "gnu", $number)
    };
    (musl $number:ident) => {
        only!("x86_64", "musl", $number)
    };
    ($number:ident) => {
        Some(libc::$number)
    };
}

/// The number on one of these architectures with one of these C libraries; elsewhere the call may not even have a number.
macro_rules! only {
    ($($architecture:literal)*, $($library:literal)*, $number:ident) => {{
        #[cfg(all(any($(target_arch = $architecture),*), any($(target_env = $library),*)))]
        let number = Some(libc::$number);
        #[cfg(not(all(any($(target_arch = $architecture),*), any($(target_env = $library),*))))]
        let number = None;
        number
    }};
}

/// Every call that is allowed: at most sixty.
pub const SYSTEM_CALLS: &[SystemCall] = calls![
    // Bytes
    SYS_read Free "wake-ups of the runtime, files of the configuration",
    SYS_write Free "wake-ups of the runtime, standard output and error",
    SYS_writev Free "streams: header and payload of a record in one call",
    SYS_recvfrom Free "streams, name servers, the routing table",
    SYS_sendto Free "streams, name servers, the routing table",
    SYS_recvmsg Free "name servers, the routing table",
    SYS_splice Free "streams: from socket to socket inside the kernel",
    SYS_pipe2 Free "streams: the pipe that splice goes through",
    SYS_close Free "every descriptor",
    // Sockets
    SYS_socket Families "listeners, dials, name servers, the routing table",
    SYS_socketpair Families "wake-ups for signals",
    SYS_bind Free "listeners of sessions, name servers",
    SYS_listen Free "listeners of sessions",
    SYS_accept4 Free "listeners",
    SYS_connect Free "dials",
    SYS_shutdown Free "the end of one direction of a stream",
    SYS_getsockname Free "addresses of listeners",
    SYS_getpeername Free "whether a stream that failed is still connected",
    SYS_getsockopt Free "what became of a dial",
    SYS_setsockopt Free "no delay, linger, keepalive, address reuse",
    // Waiting
    SYS_epoll_create1 Free "the runtimes",
    SYS_epoll_ctl Free "the runtimes",
    @x86_64 SYS_epoll_wait Free "the runtimes",
    SYS_epoll_pwait Free "the runtimes, where epoll_wait is gone",
    SYS_eventfd2 Free "wake-ups of the runtime",
    SYS_futex Free "locks, ends of threads",
    SYS_clock_nanosleep Free "pauses of the log writer",
    SYS_clock_gettime Free "time, where the kernel has no page for it",
    // Descriptors and files
    SYS_fcntl Free "blocking or not, copies of standard output",
    SYS_ioctl Modes "blocking or not",
    SYS_openat Reading "the configuration, the resolver's and the hosts file",
    @musl SYS_open Reading "the same, by another C library",
    SYS_statx Free "the configuration's permissions, who made a socket file",
    SYS_newfstatat Free "the same, on older kernels",
    SYS_fstat Free "the size of a file that is read",
    SYS_lseek Free "the size of a file that is read",
    @x86_64 SYS_unlink Free "socket files of sessions that ended",
    @aarch64 SYS_unlinkat Free "socket files of sessions that ended",
    // Memory
    SYS_brk Free "memory",
    SYS_mmap NoCode "memory, stacks of threads",
    SYS_munmap Free "memory, stacks of threads",
    SYS_mremap Free "memory",
    SYS_mprotect NoCode "memory, guards of stacks",
    SYS_madvise Free "memory that is given back",
    // Threads
    SYS_clone Threads "threads of the runtime",
    SYS_clone3 NotThere "its flags cannot be seen by a filter",
    SYS_set_robust_list Free "the start of a thread",
    @gnu SYS_rseq Free "the start of a thread",
    SYS_sched_getaffinity Free "how many threads there are to be",
    SYS_sched_yield Free "locks",
    SYS_prctl Names "names of threads and of memory",
    SYS_getrandom Free "keys of hash tables, questions to name servers",
    SYS_gettid Free "the end by a bug",
    SYS_getpid Free "the end by a bug",
    SYS_tgkill Itself "the end by a bug: abort",
    // Signals and the end
    SYS_rt_sigaction Free "signals, the end by a bug",
    SYS_rt_sigprocmask Free "the start of a thread, signals that were blocked at the start",
    SYS_rt_sigreturn Free "the way back from a signal",
    SYS_sigaltstack Free "the stack that an overflow is told on",
    SYS_restart_syscall Free "a call that a signal has interrupted",
    SYS_exit Free "the end of a thread",
    SYS_exit_group Free "the end",
];

/// Calls that no line of the daemon makes and that no C library makes unasked: whoever makes one has taken the
/// process over, and it ends.
pub const FATAL_CALLS: &[SystemCall] = calls![
    SYS_execve Free "another program",
    SYS_execveat Free "another program",
    SYS_ptrace Free "another process's memory",
    SYS_process_vm_readv Free "another process's memory",
    SYS_process_vm_writev Free "another process's memory",
    SYS_pidfd_getfd Free "another process's descriptors",
    SYS_kcmp Free "another process's descriptors",
    SYS_mount Free "the file system",
    SYS_umount2 Free "the file system",
    SYS_pivot_root Free "the file system",
    SYS_chroot Free "the file system",
    SYS_open_by_handle_at Free "the file system",
    SYS_unshare Free "namespaces",
    SYS_setns Free "namespaces",
    SYS_bpf Free "the kernel",
    SYS_perf_event_open Free "the kernel",
    SYS_userfaultfd Free "the kernel",
    SYS_init_module Free "the kernel",
    SYS_finit_module Free "the kernel",
    SYS_delete_module Free "the kernel",
    SYS_kexec_load Free "the kernel",
    SYS_reboot Free "the machine",
    SYS_setuid Free "other rights",
    SYS_setgid Free "other rights",
    SYS_setreuid Free "other rights",
    SYS_setresuid Free "other rights",
    SYS_capset Free "other rights",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{FATAL_CALLS, SYSTEM_CALLS};

    #[test]
    fn at_most_sixty_and_none_twice() {
        let here = SYSTEM_CALLS.iter().filter(|call| call.number.is_some());
        assert!(here.clone().count() <= 60, "{} calls", here.count());
        let all: BTreeSet<&str> = SYSTEM_CALLS.iter().chain(FATAL_CALLS).map(|call| call.name).collect();
        assert_eq!(all.len(), SYSTEM_CALLS.len() + FATAL_CALLS.len());
    }
}
