//! How much each RUN may use: docker's flags for memory and processors.

use clap::Args;
use lithify_linux::cgroup::Limits;

use crate::exit::Problem;
use crate::inputs::{SIZE, bytes, wrong};

/// Flags that set limits, which control groups hold.
#[derive(Debug, Args)]
pub(crate) struct LimitFlags {
    /// The most memory that a RUN may use
    #[arg(short, long, value_name = "SIZE", env = "LITHIFY_MEMORY")]
    memory: Option<String>,
    /// The most memory and swap together; -1 for any [default: twice the memory]
    #[arg(long, value_name = "SIZE", requires = "memory", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// How many processors' time a RUN may use, such as 1.5
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["cpu_quota", "cpu_period"], env = "LITHIFY_CPUS")]
    cpus: Option<String>,
    /// Processor time of a RUN in each period, in microseconds; -1 for any
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// That period, in microseconds [default: 100000]
    #[arg(long, value_name = "MICROSECONDS", requires = "cpu_quota")]
    cpu_period: Option<String>,
    /// The share of a RUN beside other processes: 2 to 262144 [usual: 1024]
    #[arg(short = 'c', long, value_name = "NUMBER")]
    cpu_shares: Option<String>,
    /// The processors that a RUN may use, such as 0-3 or 0,1
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// The memory nodes that a RUN may use, such as 0-3 or 0,1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
}

/// docker's period.
const PERIOD_MICROSECONDS: u64 = 100_000;
/// What docker takes for the smallest useful memory.
const LEAST_MEMORY_BYTES: u64 = 6 << 20;

/// # Errors
/// A value that is none of its flag's.
pub(crate) fn limits(flags: &LimitFlags) -> Result<Limits, Problem> {
    let memory_bytes = flags.memory.as_deref().map(memory).transpose()?;
    let memory_and_swap_bytes = match (flags.memory_swap.as_deref(), memory_bytes) {
        (None, _) => None,
        (Some("-1"), _) => Some(u64::MAX),
        (Some(text), memory) => {
            let both = bytes(text).ok_or_else(|| wrong("--memory-swap", text, SIZE))?;
            if memory.is_some_and(|memory| both < memory) {
                return Err(wrong(
                    "--memory-swap",
                    text,
                    "it is memory and swap together, so not less than --memory",
                ));
            }
            Some(both)
        }
    };
    let number = |flag: &str, text: &str, least: u64, most: u64| {
        let value = text.parse().ok().filter(|value| (least..=most).contains(value));
        value.ok_or_else(|| wrong(flag, text, format!("expected a number from {least} to {most}")))
    };
    let period = flags.cpu_period.as_deref().map(|text| number("--cpu-period", text, 1000, 1_000_000));
    let period = period.transpose()?.unwrap_or(PERIOD_MICROSECONDS);
    let cpu_quota = match (flags.cpus.as_deref(), flags.cpu_quota.as_deref()) {
        (Some(text), _) => Some((processors(text)?, PERIOD_MICROSECONDS)),
        (None, None | Some("-1" | "0")) => None,
        (None, Some(text)) => Some((number("--cpu-quota", text, 1000, u64::MAX / 2)?, period)),
    };
    let shares = |text: &str| number("--cpu-shares", text, 2, 262_144);
    Ok(Limits {
        memory_bytes,
        memory_and_swap_bytes,
        cpu_quota,
        cpu_shares: flags.cpu_shares.as_deref().filter(|text| *text != "0").map(shares).transpose()?,
        cpus: flags.cpuset_cpus.as_deref().map(|text| list("--cpuset-cpus", text)).transpose()?,
        memory_nodes: flags.cpuset_mems.as_deref().map(|text| list("--cpuset-mems", text)).transpose()?,
    })
}

fn memory(text: &str) -> Result<u64, Problem> {
    let size = bytes(text).ok_or_else(|| wrong("--memory", text, SIZE))?;
    match size >= LEAST_MEMORY_BYTES {
        true => Ok(size),
        false => Err(wrong("--memory", text, "nothing runs in less than 6m")),
    }
}

/// A number of processors as microseconds in each period.
fn processors(text: &str) -> Result<u64, Problem> {
    let number = text.parse::<f64>().ok().filter(|number| (0.01..=100_000.0).contains(number));
    let number =
        number.ok_or_else(|| wrong("--cpus", text, "expected a number such as 1.5, at least 0.01"))?;
    Ok((number * PERIOD_MICROSECONDS as f64).round() as u64)
}

fn list(flag: &str, text: &str) -> Result<String, Problem> {
    let is_range = |part: &str| {
        let mut ends = part.splitn(2, '-');
        ends.all(|end| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit()))
    };
    match text.split(',').all(is_range) {
        true => Ok(text.to_owned()),
        false => Err(wrong(flag, text, "expected numbers and ranges such as 0-2,4")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: LimitFlags,
    }

    #[test]
    fn flags_become_limits() {
        let parse = |line: &str| {
            let line = Line::try_parse_from(["lithify"].into_iter().chain(line.split_whitespace())).ok()?;
            limits(&line.flags).ok()
        };
        let check = |line: &str, expected: Limits| assert_eq!(parse(line), Some(expected), "{line}");
        let none = Limits::default;
        check("", none());
        check("-m 64m", Limits { memory_bytes: Some(64 << 20), ..none() });
        check(
            "--memory=1g --memory-swap=-1",
            Limits { memory_bytes: Some(1 << 30), memory_and_swap_bytes: Some(u64::MAX), ..none() },
        );
        check("--cpus=1.5", Limits { cpu_quota: Some((150_000, 100_000)), ..none() });
        check("--cpu-quota 5000 --cpu-period 10000", Limits { cpu_quota: Some((5000, 10_000)), ..none() });
        check("--cpu-quota=-1", none());
        check("-c 512", Limits { cpu_shares: Some(512), ..none() });
        check(
            "--cpuset-cpus=0-1,3 --cpuset-mems=0",
            Limits { cpus: Some("0-1,3".into()), memory_nodes: Some("0".into()), ..none() },
        );
        let refused = "-m=1m|-m=x|--memory-swap=1g|-m=64m --memory-swap=32m|--cpus=0|--cpus=x|--cpu-quota=5|--cpu-period=1000\
            |--cpus=1 --cpu-quota=5000|-c=1|--cpuset-cpus=a|--cpuset-cpus=|--cpuset-cpus=1-2-3|--cpuset-mems=1,";
        for line in refused.split('|') {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
