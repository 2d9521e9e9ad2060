//! Wall time that all processes of a host share, CPU time of this task, and dates as C prints them.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Whose CPU time a task counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuOf {
    /// This process with all its threads: the task is a process.
    Process,
    /// This thread only: tasks are threads.
    Thread,
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds since the host started; the same clock in every process of the host.
pub fn now_ns() -> u64 {
    let now = nanoseconds(clock_gettime(ClockId::Monotonic));
    #[cfg(test)]
    let now = now + skipped::ns();
    now
}

/// Waits.
pub fn sleep(time: Duration) {
    #[cfg(test)]
    if skipped::wait(time) {
        return;
    }
    std::thread::sleep(time);
}

/// Time that a thread of a test lets pass without waiting for it.
#[cfg(test)]
pub mod skipped {
    use std::cell::Cell;
    use std::time::Duration;

    thread_local! {
        static SKIPPED: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// From now on waiting takes no time in this thread, and its clock goes on as if it had.
    pub fn begin() {
        SKIPPED.set(Some(ns()));
    }

    /// How far this thread's clock is ahead.
    pub fn ns() -> u64 {
        SKIPPED.get().unwrap_or(0)
    }

    /// Lets time pass; answers whether this thread's clock is one that can.
    pub fn wait(time: Duration) -> bool {
        let can = SKIPPED.get().is_some();
        if can {
            SKIPPED.set(Some(ns() + time.as_nanos() as u64));
        }
        can
    }
}

/// CPU time used so far, user and system, in nanoseconds.
pub fn cpu_ns(of: CpuOf) -> u64 {
    nanoseconds(clock_gettime(match of {
        CpuOf::Process => ClockId::ProcessCPUTime,
        CpuOf::Thread => ClockId::ThreadCPUTime,
    }))
}

/// Name of this host.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What tells one boot of a host from all others: processes with the same value share the clock of [`now_ns`].
pub fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if id.trim().is_empty() { host() } else { id.trim().to_owned() }
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    clock_gettime(ClockId::Realtime).tv_sec as u64
}

/// A point in time as `ctime` writes it, in UTC: `Sat Mar 27 15:44:43 2021`.
pub fn ctime(unix_seconds: u64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = unix_seconds / 86_400;
    let (year, month, day) = civil(days);
    let second = unix_seconds % 86_400;
    format!(
        "{} {} {day:2} {:02}:{:02}:{:02} {year}",
        WEEKDAYS[(days % 7) as usize],
        MONTHS[month as usize - 1],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// A point in time as IO500 writes it, in UTC: `2020-01-06 10:23:49`.
pub fn timestamp(unix_seconds: u64) -> String {
    let (year, month, day) = civil(unix_seconds / 86_400);
    let second = unix_seconds % 86_400;
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// A point in time as mdtest writes it, in UTC: `04/03/2025 14:39:30`.
pub fn american_date(unix_seconds: u64) -> String {
    let (year, month, day) = civil(unix_seconds / 86_400);
    let second = unix_seconds % 86_400;
    format!("{month:02}/{day:02}/{year} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day number counted from 1970-01-01. Years are taken to begin in March, so that the leap day
/// is the last of a year and every month before it has a fixed place.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{american_date, ctime, timestamp};

    #[test]
    fn dates_are_those_of_mdtest_and_io500() {
        assert_eq!(american_date(1_743_691_170), "04/03/2025 14:39:30");
        assert_eq!(timestamp(1_578_306_229), "2020-01-06 10:23:49");
    }

    #[test]
    fn dates_are_those_of_c() {
        for (seconds, text) in [
            (0, "Thu Jan  1 00:00:00 1970"),
            (951_782_399, "Mon Feb 28 23:59:59 2000"),
            (951_782_400, "Tue Feb 29 00:00:00 2000"),
            (1_616_859_883, "Sat Mar 27 15:44:43 2021"),
            (4_107_542_399, "Sun Feb 28 23:59:59 2100"),
            (4_107_542_400, "Mon Mar  1 00:00:00 2100"),
        ] {
            assert_eq!(ctime(seconds), text);
        }
    }
}
