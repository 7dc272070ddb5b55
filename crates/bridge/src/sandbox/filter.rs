//! The tables of system calls → filters that the kernel runs (seccomp).

use std::collections::BTreeMap;
use std::io;

use libc::{c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, Error as InstallError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::system_calls::{FATAL_CALLS, Guard, SYSTEM_CALLS};

/// The bits of `socket`'s second argument that say the type; the others are flags.
const TYPE_MASK: u64 = 0xf;

/// Requests of ioctl(2), which the C libraries have in different types: the kernel's own numbers.
const FIONBIO: u64 = 0x5421;
const FIONREAD: u64 = 0x541b;
const TCGETS: u64 = 0x5401;

/// Installs the filters on every thread of the process. They stay until its end, and nothing can take them back.
///
/// Three, because each has one answer: the fatal calls end the process, `clone3` is not there, and of the rest only the table
/// is allowed. The kernel takes the strictest answer of the three.
pub(super) fn install() -> io::Result<()> {
    let fatal = rules(FATAL_CALLS.iter().filter_map(|call| call.number).map(|number| (number, Vec::new())));
    let absent = SYSTEM_CALLS.iter().filter(|call| call.guard == Guard::NotThere).filter_map(|call| call.number);
    let mut allowed = BTreeMap::new();
    for call in SYSTEM_CALLS {
        if let Some(number) = call.number {
            allowed.insert(number, guarded(call.guard).map_err(io::Error::other)?);
        }
    }
    let filters = [
        (fatal, SeccompAction::Allow, SeccompAction::KillProcess),
        (rules(absent.map(|number| (number, Vec::new()))), SeccompAction::Allow, errno(libc::ENOSYS)),
        (allowed, errno(libc::EPERM), SeccompAction::Allow),
    ];
    for (rules, otherwise, answer) in filters {
        let program = compile(rules, otherwise, answer).map_err(io::Error::other)?;
        apply_filter_all_threads(&program).map_err(|error| match error {
            InstallError::Prctl(error) | InstallError::Seccomp(error) => error,
            other @ (InstallError::Backend(_) | InstallError::EmptyFilter | InstallError::ThreadSync(_)) => {
                io::Error::other(other)
            }
        })?;
    }
    Ok(())
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn rules(calls: impl Iterator<Item = (c_long, Vec<SeccompRule>)>) -> Rules {
    calls.collect()
}

fn compile(rules: Rules, otherwise: SeccompAction, answer: SeccompAction) -> Result<BpfProgram, BackendError> {
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    BpfProgram::try_from(SeccompFilter::new(rules, otherwise, answer, here)?)
}

fn errno(number: c_int) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

/// The alternatives for the arguments; none is no condition.
fn guarded(guard: Guard) -> Result<Vec<SeccompRule>, BackendError> {
    match guard {
        Guard::Free | Guard::NotThere => Ok(Vec::new()),
        Guard::Families => families(),
        // Neither writing nor creating nor emptying, and no file without a name.
        Guard::Reading => {
            let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE & !libc::O_DIRECTORY;
            Ok(vec![rule([masked(2, writing, libc::O_RDONLY)?])?])
        }
        Guard::Threads => Ok(vec![rule([masked(0, libc::CLONE_THREAD, libc::CLONE_THREAD)?])?]),
        Guard::NoCode => Ok(vec![rule([masked(2, libc::PROT_EXEC, 0)?])?]),
        Guard::Itself => Ok(vec![rule([equal(0, u64::from(std::process::id()))?])?]),
        Guard::Names => {
            [libc::PR_SET_NAME, libc::PR_SET_VMA].into_iter().map(|name| rule([equal(0, bits(name))?])).collect()
        }
        Guard::Modes => [FIONBIO, FIONREAD, TCGETS].into_iter().map(|mode| rule([equal(1, mode)?])).collect(),
    }
}

fn families() -> Result<Vec<SeccompRule>, BackendError> {
    let kinds = [
        (libc::AF_INET, libc::SOCK_STREAM),
        (libc::AF_INET, libc::SOCK_DGRAM),
        (libc::AF_INET6, libc::SOCK_STREAM),
        (libc::AF_INET6, libc::SOCK_DGRAM),
        (libc::AF_UNIX, libc::SOCK_STREAM),
        (libc::AF_VSOCK, libc::SOCK_STREAM),
    ];
    let mut rules = Vec::new();
    for (family, kind) in kinds {
        let kind = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(TYPE_MASK), bits(kind))?;
        rules.push(rule([equal(0, bits(family))?, kind])?);
    }
    // The C library asks for the host's addresses over a raw socket of this one family.
    rules.push(rule([equal(0, bits(libc::AF_NETLINK))?, equal(2, bits(libc::NETLINK_ROUTE))?])?);
    Ok(rules)
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

fn equal(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: c_int, value: c_int) -> Result<SeccompCondition, BackendError> {
    let operator = SeccompCmpOp::MaskedEq(bits(mask));
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, bits(value))
}

/// A constant of C as the bits that a filter sees.
fn bits(value: c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_compile() {
        for call in SYSTEM_CALLS.iter().chain(FATAL_CALLS) {
            assert!(guarded(call.guard).is_ok(), "{}", call.name);
        }
    }
}
