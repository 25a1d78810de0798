//! What `/proc` tells about a process, and words on standard error.

use std::io::Write;

/// Says a line, on standard error.
pub fn say(line: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The resident set of a process, in bytes.
///
/// # Panics
///
/// When there is no such process.
#[must_use]
pub fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
    let kib = line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
    kib.expect("a number of KiB") << 10
}

/// Open descriptors of this process, the one used to count them left out.
///
/// # Panics
///
/// When `/proc` is not there.
#[must_use]
pub fn descriptor_count() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count() - 1
}

/// Threads of this process.
///
/// # Panics
///
/// When `/proc` is not there.
#[must_use]
pub fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").expect("/proc is mounted").count()
}

/// Processor time of a process so far, in hundredths of a second.
///
/// # Panics
///
/// When there is no such process.
#[must_use]
pub fn cpu_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
    let fields = stat.rsplit_once(')').expect("a name in brackets").1;
    fields.split_whitespace().skip(11).take(2).filter_map(|it| it.parse::<u64>().ok()).sum()
}
