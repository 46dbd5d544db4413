//! The few kernel calls that neither the standard library nor mio nor socket2 offer.
//!
//! The only module of this crate with `unsafe`: clocks of this and of other processes, a sub-millisecond
//! alarm, a send on a bare descriptor number, two limits. Everything exported is safe to call.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

const NS_PER_S: u64 = 1_000_000_000;
/// The kernel's own limit on 64-bit machines.
const PID_LIMIT: libc::pid_t = 1 << 22;

/// Nanoseconds of the monotonic clock: one clock for schedules, stamps and latencies.
pub(crate) fn now_ns() -> u64 {
    // The monotonic clock always exists, so the error branch is unreachable on Linux.
    clock_ns(libc::CLOCK_MONOTONIC).unwrap_or_default()
}

/// CPU time this process has used in all its threads, user and system.
pub(crate) fn own_cpu_ns() -> io::Result<u64> {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time process `pid` has used in all its threads, user and system.
///
/// Unlike `/proc/PID/stat` it counts nanoseconds and not hundredths of a second, and it includes the
/// part of the current time slice. An `Err` means that there is no such process.
pub(crate) fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    // Of a number larger than any process can have, the library makes the clock of another process.
    match libc::pid_t::try_from(pid) {
        Ok(pid) if pid <= PID_LIMIT => clock_ns(cpu_clock_of(pid)?),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

#[expect(unsafe_code, reason = "libc call")]
fn cpu_clock_of(pid: libc::pid_t) -> io::Result<libc::clockid_t> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a live, writable clockid_t; the call stores nothing else.
    let errno = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if errno == 0 { Ok(clock) } else { Err(io::Error::from_raw_os_error(errno)) }
}

#[expect(unsafe_code, reason = "libc call")]
fn clock_ns(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live, writable timespec; the call stores nothing else.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } == 0 {
        Ok(time.tv_sec.unsigned_abs() * NS_PER_S + time.tv_nsec.unsigned_abs())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Raises this process's limit of open files to the hard limit and returns it.
#[expect(unsafe_code, reason = "libc calls")]
pub(crate) fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live, writable rlimit; the call stores nothing else.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a live rlimit that the call only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// Lets `bind` fix only the address and leaves the port to `connect`.
///
/// Without it a source port is taken for all destinations at once, and many connections from one
/// address run out of ports long before they run out of address pairs.
#[expect(unsafe_code, reason = "libc call")]
pub(crate) fn bind_address_no_port(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the option's value is the live c_int `on`, and `size` is its size.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size,
        )
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends on a bare descriptor, so that a room can keep four bytes per member side by side instead of
/// visiting every member's connection. A wrong number is an error of the kernel's, not a fault here.
#[expect(unsafe_code, reason = "libc call")]
pub(crate) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of one live slice, which the call only reads.
    let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// A descriptor that becomes readable at an instant of the monotonic clock.
///
/// `epoll_wait` counts whole milliseconds, which is more than the latencies to be measured.
#[derive(Debug)]
pub(crate) struct Alarm {
    fd: OwnedFd,
}

impl Alarm {
    /// An alarm that is not set.
    #[expect(unsafe_code, reason = "libc call")]
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Sets the alarm for `at_ns`; an instant already past goes off at once. Replaces what was set.
    #[expect(unsafe_code, reason = "libc call")]
    pub(crate) fn set(&self, at_ns: u64) -> io::Result<()> {
        // Zero would disarm the timer instead.
        let at = Duration::from_nanos(at_ns.max(1));
        let time = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(at.as_secs()).map_err(io::Error::other)?,
                tv_nsec: libc::c_long::from(at.subsec_nanos()),
            },
        };
        // SAFETY: `time` is a live itimerspec that the call only reads; a null old value is allowed.
        let failed = unsafe {
            libc::timerfd_settime(
                self.fd.as_raw_fd(),
                libc::TFD_TIMER_ABSTIME,
                &raw const time,
                std::ptr::null_mut(),
            )
        };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_clock_by_pid_is_the_own_clock() {
        let before = own_cpu_ns().unwrap();
        let by_pid = process_cpu_ns(std::process::id()).unwrap();
        let after = own_cpu_ns().unwrap();
        assert!(before <= by_pid && by_pid <= after);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(process_cpu_ns(1 << 22).is_err());
        assert!(process_cpu_ns(u32::MAX / 4).is_err());
    }

    #[test]
    fn an_alarm_in_the_past_goes_off_at_once() {
        use mio::{Events, Interest, Poll, Token, unix::SourceFd};
        let alarm = Alarm::new().unwrap();
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut SourceFd(&alarm.as_raw_fd()), Token(7), Interest::READABLE).unwrap();
        alarm.set(0).unwrap();
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
        assert!(events.iter().any(|event| event.token() == Token(7)));
    }
}
