//! What `/proc` says of the server and the machine.
//!
//! A server on this machine is found by the port it listens on: the socket's inode in
//! `/proc/net/tcp`, then the processes with a descriptor of that inode. Servers elsewhere, and those
//! of other users, are not seen; nothing is reported of them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

/// The state of a listening socket in `/proc/net/tcp`.
const STATE_LISTEN: &str = "0A";

/// CPU time of a process, its threads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In its own code.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

impl CpuTime {
    /// What was spent since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }

    /// Both kinds.
    #[must_use]
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

/// The processes that listen on one address: one, unless a server forks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerProcess {
    process_ids: Vec<u32>,
}

impl ServerProcess {
    /// The process that serves `address`, if this machine's `/proc` shows it.
    #[must_use]
    pub fn find(address: SocketAddr) -> Option<Self> {
        let mut inodes = BTreeSet::new();
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            let text = fs::read_to_string(table).unwrap_or_default();
            inodes.extend(listening_inodes(&text, address));
        }
        if inodes.is_empty() {
            return None;
        }
        let mut process_ids: Vec<u32> =
            process_ids().into_iter().filter(|&it| holds_socket(it, &inodes)).collect();
        process_ids.sort_unstable();
        (!process_ids.is_empty()).then_some(Self { process_ids })
    }

    /// These and others together.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.process_ids.extend(others.process_ids);
        self.process_ids.sort_unstable();
        self.process_ids.dedup();
        self
    }

    /// This process.
    #[must_use]
    pub fn this() -> Self {
        Self { process_ids: vec![std::process::id()] }
    }

    /// Their ids.
    #[must_use]
    pub fn process_ids(&self) -> &[u32] {
        &self.process_ids
    }

    /// CPU time so far, in steps of a clock tick; `None` once a process is gone.
    #[must_use]
    pub fn cpu_time(&self) -> Option<CpuTime> {
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        let mut sum = CpuTime::default();
        for id in &self.process_ids {
            let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            let time = parse_cpu_time(&text, ticks_per_second)?;
            sum = CpuTime { user: sum.user + time.user, system: sum.system + time.system };
        }
        Some(sum)
    }

    /// How long its threads have waited for a CPU while they could run; `None` once a process is
    /// gone. Where this grows, others disturb.
    #[must_use]
    pub fn cpu_wait(&self) -> Option<Duration> {
        let mut sum = Duration::ZERO;
        for id in &self.process_ids {
            for task in fs::read_dir(format!("/proc/{id}/task")).ok()?.flatten() {
                let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                sum += parse_cpu_wait(&text).unwrap_or_default();
            }
        }
        Some(sum)
    }

    /// Resident memory; `None` once a process is gone.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        self.process_ids
            .iter()
            .map(|id| parse_resident_bytes(&fs::read_to_string(format!("/proc/{id}/status")).ok()?))
            .sum()
    }

    /// The CPUs that any of its threads is pinned to: those whose set is smaller than the machine.
    #[must_use]
    pub fn pinned_cpus(&self) -> BTreeSet<usize> {
        let online = online_cpus();
        let mut pinned = BTreeSet::new();
        for id in &self.process_ids {
            let Ok(tasks) = fs::read_dir(format!("/proc/{id}/task")) else { continue };
            for task in tasks.flatten() {
                let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                let allowed = parse_allowed_cpus(&text).unwrap_or_default();
                if !online.is_subset(&allowed) {
                    pinned.extend(allowed);
                }
            }
        }
        pinned
    }
}

/// The machine that measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// As the kernel names it.
    pub cpu_model: String,
    /// Logical CPUs.
    pub cpu_count: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Runnable processes over the last minute, before the run.
    pub load_average: f64,
}

impl Machine {
    /// This machine, at this moment.
    #[must_use]
    pub fn observe() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            cpu_model: parse_cpu_model(&read("/proc/cpuinfo")).unwrap_or_default(),
            cpu_count: online_cpus().len(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: load.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// How long this thread has waited for a CPU while it could run.
#[must_use]
pub fn thread_cpu_wait() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    parse_cpu_wait(&text).unwrap_or_default()
}

/// CPUs that work.
#[must_use]
pub fn online_cpus() -> BTreeSet<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    parse_cpu_list(text.trim()).unwrap_or_default()
}

/// A list as in `0,2-3`; `None` when it is none.
#[must_use]
pub fn parse_cpu_list(text: &str) -> Option<BTreeSet<usize>> {
    let mut cpus = BTreeSet::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 4096 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

fn process_ids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok()).collect()
}

fn holds_socket(process_id: u32, inodes: &BTreeSet<u64>) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process_id}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let link = fs::read_link(descriptor.path()).unwrap_or_default();
        parse_socket_link(&link.to_string_lossy()).is_some_and(|inode| inodes.contains(&inode))
    })
}

/// `socket:[12345]`.
fn parse_socket_link(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Inodes of sockets in a text of `/proc/net/tcp` that accept connections to `address`.
fn listening_inodes(text: &str, address: SocketAddr) -> BTreeSet<u64> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let listener = parse_socket_address(fields.get(1)?)?;
        let accepts = listener.port() == address.port()
            && (listener.ip().is_unspecified()
                || listener.ip().to_canonical() == address.ip().to_canonical());
        (*fields.get(3)? == STATE_LISTEN && accepts).then(|| fields.get(9)?.parse().ok())?
    };
    text.lines().skip(1).filter_map(inode).collect()
}

/// `0100007F:1F90`: words of the address in the machine's order, then the port.
fn parse_socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = (0..ip.len() / 8)
        .map(|index| u32::from_str_radix(ip.get(index * 8..index * 8 + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Option<Vec<[u8; 4]>>>()?;
    let ip = match *words.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(word)),
        [a, b, c, d] => {
            let bytes = [a, b, c, d].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Fields 14 and 15 of `/proc/<pid>/stat`. The second field may hold anything, parentheses too.
fn parse_cpu_time(text: &str, ticks_per_second: u64) -> Option<CpuTime> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut next = || {
        let ticks: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64))
    };
    Some(CpuTime { user: next()?, system: next()? })
}

/// The second field of `schedstat`, in nanoseconds.
fn parse_cpu_wait(schedstat: &str) -> Option<Duration> {
    let nanoseconds = schedstat.split_ascii_whitespace().nth(1)?;
    Some(Duration::from_nanos(nanoseconds.parse().ok()?))
}

fn parse_resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn parse_allowed_cpus(status: &str) -> Option<BTreeSet<usize>> {
    parse_cpu_list(status.lines().find_map(|it| it.strip_prefix("Cpus_allowed_list:"))?.trim())
}

fn parse_cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|it| it.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11111 1 0000000000000000 100 0 0 10 0
   1: 00000000:18EC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22222 1 0000000000000000 100 0 0 10 0
   2: 0100007F:18EB 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 33333 1 0000000000000000 20 4 30 10 -1
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:18EB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 44444 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000000000000:18ED 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 55555 1 0000000000000000 100 0 0 10 0
";

    fn inodes(text: &str, address: &str) -> Vec<u64> {
        listening_inodes(text, address.parse().unwrap()).into_iter().collect()
    }

    #[test]
    fn a_listener_is_found_by_its_address_or_by_any_address() {
        assert_eq!(inodes(TCP, "127.0.0.1:6379"), [11111]);
        assert_eq!(inodes(TCP, "127.0.0.1:6380"), [22222]);
        assert_eq!(inodes(TCP, "10.1.2.3:6379"), Vec::<u64>::new());
        assert_eq!(inodes(TCP6, "[::1]:6379"), [44444]);
        assert_eq!(inodes(TCP6, "127.0.0.1:6379"), Vec::<u64>::new());
        assert_eq!(inodes(TCP6, "127.0.0.1:6381"), [55555]);
    }

    #[test]
    fn cpu_time_is_read_behind_any_process_name() {
        let text = "42 (a) b) S 1 42 42 0 -1 4194560 2500 0 0 0 150 50 0 0 20 0 5 0 100 1000 200";
        let time =
            CpuTime { user: Duration::from_millis(1500), system: Duration::from_millis(500) };
        assert_eq!(parse_cpu_time(text, 100), Some(time));
        assert_eq!(time.total(), Duration::from_secs(2));
        assert_eq!(parse_cpu_time("42 (cut", 100), None);
        assert_eq!(parse_cpu_time("42 (cut) S 1", 100), None);
    }

    #[test]
    fn status_tells_memory_and_cpus() {
        let text = "Name:\tredis-server\nVmRSS:\t   10240 kB\nCpus_allowed_list:\t0,2-3\n";
        assert_eq!(parse_resident_bytes(text), Some(10_485_760));
        assert_eq!(parse_allowed_cpus(text), Some([0, 2, 3].into()));
        assert_eq!(parse_resident_bytes("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn the_wait_for_a_cpu_is_the_second_field() {
        assert_eq!(parse_cpu_wait("5000 1500 7\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(parse_cpu_wait(""), None);
    }

    #[test]
    fn cpu_lists_are_read_or_refused() {
        assert_eq!(parse_cpu_list("1"), Some([1].into()));
        assert_eq!(parse_cpu_list("0-1,5"), Some([0, 1, 5].into()));
        for text in ["", "a", "3-1", "1-", "0-99999999"] {
            assert_eq!(parse_cpu_list(text), None, "{text}");
        }
    }

    #[test]
    fn the_cpu_model_is_read_from_cpuinfo() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\n";
        assert_eq!(parse_cpu_model(text).as_deref(), Some("Some CPU @ 2GHz"));
    }

    #[test]
    fn this_process_is_found_by_its_own_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = ServerProcess::find(listener.local_addr().unwrap()).unwrap();
        assert_eq!(server, ServerProcess::this());
        assert!(server.cpu_time().is_some());
        assert!(server.resident_bytes().unwrap() > 0);
    }
}
