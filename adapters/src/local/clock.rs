//! The boot clock, which counts suspended time too, and the name of this boot.

use nix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;

/// Milliseconds since the machine booted, time in suspension included. Comparable between processes of one boot.
pub(crate) fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had the boot clock since 2.6.39");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000
}

/// The kernel's random name of this boot. Empty where it cannot be read.
pub(crate) fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
    })
}

/// When a process started, in clock ticks since boot: with its pid it names a process once and for all.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the name in parentheses may hold blanks; field 22 counts from the closing one
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}
