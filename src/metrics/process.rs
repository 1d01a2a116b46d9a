//! The process's own figures, by the names that all Prometheus clients give them.

use std::fmt;

use procfs::{WithCurrentSystemInfo, process};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

/// Reads them when they are scraped. What the kernel does not tell is left out: of a process that is not
/// dumpable (proc(5)) the open files, unless it runs as root.
#[derive(Debug)]
pub(super) struct Process {
    /// When the process started, in seconds since 1970.
    start: Option<u64>,
}

impl Process {
    /// Reads what does not change, and cannot be read once the process is confined.
    pub(super) fn new() -> Self {
        let stat = process::Process::myself().and_then(|process| process.stat());
        let start = stat.and_then(|stat| Ok(procfs::boot_time_secs()? + stat.starttime / procfs::ticks_per_second()));
        Self { start: start.ok() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Ok(process) = process::Process::myself() else { return Ok(()) };
        let Ok(stat) = process.stat() else { return Ok(()) };
        let e = &mut encoder;
        #[expect(clippy::cast_precision_loss, reason = "ticks of a hundredth of a second")]
        let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        e.encode_descriptor("process_cpu", "CPU time", Some(&Unit::Seconds), MetricType::Counter)?
            .encode_counter::<NoLabelSet, f64, u64>(&cpu, None)?;
        let mut gauge = |name, help, unit, value: u64| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            e.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
        };
        let bytes = Some(&Unit::Bytes);
        gauge("process_resident_memory", "Memory in use", bytes, stat.rss_bytes().get())?;
        gauge("process_virtual_memory", "Address space in use", bytes, stat.vsize)?;
        gauge("process_threads", "Threads", None, u64::try_from(stat.num_threads).unwrap_or(0))?;
        if let Ok(count) = process.fd_count() {
            gauge("process_open_fds", "Open files", None, count as u64)?;
        }
        gauge("process_max_fds", "Files that may be open", None, crate::process::max_open_files())?;
        if let Some(start) = self.start {
            gauge("process_start_time", "When it was started", Some(&Unit::Seconds), start)?;
        }
        Ok(())
    }
}
