//! What a process takes, as Linux counts it.

use std::fs;
use std::time::{Duration, Instant};

/// Memory and processor time of a process up to now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds of processor time, in user mode and in the kernel.
    pub cpu_s: f64,
    /// Resident memory now, in MiB.
    pub rss_mib: f64,
    /// The most resident memory that it had, in MiB.
    pub peak_mib: f64,
}

/// Lets the peak of a running process count from what it holds now.
pub fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// What the running process has taken; panics when it is gone.
pub fn usage(pid: u32) -> Usage {
    // Fields 14 and 15 of `stat` in hundredths of a second; the second field may hold spaces and ends with `)`.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |i: usize| fields[i - 3].parse::<f64>().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mib = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("0 kB");
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    };
    Usage { cpu_s: (ticks(14) + ticks(15)) / 100.0, rss_mib: mib("VmRSS:"), peak_mib: mib("VmHWM:") }
}

/// Waits until the process takes less than a tenth of a processor: what it does behind an answer is done.
pub async fn at_rest(pid: u32) {
    let (begun, mut before) = (Instant::now(), usage(pid).cpu_s);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = usage(pid).cpu_s;
        if now - before < 0.1 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "process {pid} does not come to rest");
        before = now;
    }
}
