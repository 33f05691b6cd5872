//! Where it ran; pinning.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::thread;

use mochi_rs::program::Outcome;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

/// What figures depend on.
#[derive(Serialize)]
pub(super) struct Machine {
    /// Processors that this process may use.
    cpus: usize,
    kernel: String,
    model: String,
}

impl Machine {
    pub(super) fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let unknown = || "unknown".to_owned();
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        // aarch64 has no model name; the device tree may have one.
        let device = || Some(read("/proc/device-tree/model").trim_end_matches('\0').to_owned());
        Self {
            cpus: processors(),
            kernel: Some(kernel).filter(|text| !text.is_empty()).unwrap_or_else(unknown),
            model: model_name(&read("/proc/cpuinfo"))
                .or_else(device)
                .filter(|text| !text.is_empty())
                .unwrap_or_else(unknown),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.cpus == 1 { "" } else { "s" };
        write!(f, "{} processor{s} ({}), Linux {}", self.cpus, self.model, self.kernel)
    }
}

fn model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// Processors that this process may use.
pub(super) fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Where client and server are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Pins {
    pub(super) client: usize,
    pub(super) server: usize,
}

impl FromStr for Pins {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse().ok().filter(|&cpu| cpu < CpuSet::MAX_CPU);
        let (client, server) = text.split_once(',').ok_or("two processors are needed, as in 0,1")?;
        match (number(client), number(server)) {
            (Some(client), Some(server)) => Ok(Self { client, server }),
            _ => Err("not a number of a processor"),
        }
    }
}

/// Keeps this thread, and those that it starts, on one processor.
pub(super) fn pin(cpu: usize) -> Outcome {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| format!("cannot stay on processor {cpu}: {error}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_two_small_numbers() {
        assert_eq!("0,3".parse(), Ok(Pins { client: 0, server: 3 }));
        for wrong in ["", "1", "1,", "1,x", "-1,0", "0,1,2", "0,1000000"] {
            assert!(wrong.parse::<Pins>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_model_is_the_first_processors() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nprocessor\t: 1\n";
        assert_eq!(model_name(cpuinfo).as_deref(), Some("AMD EPYC"));
        assert_eq!(model_name("processor\t: 0\n"), None);
    }
}
