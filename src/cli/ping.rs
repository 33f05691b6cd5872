//! `mochi ping`: how far away a server is.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use margo_rs::{Address, Endpoint, Engine, ProviderId};
use mochi_rs::program::{Outcome, print};
use serde::Serialize;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the server, as it printed it
    address: Address,

    /// Round trips to measure
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    /// Seconds between two round trips
    #[arg(short, long, default_value = "1", value_parser = seconds)]
    interval: Duration,

    /// Seconds to wait for an answer
    #[arg(short, long, default_value = "5", value_parser = seconds)]
    timeout: Duration,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

/// Times in microseconds.
#[derive(Serialize)]
struct Report {
    address: String,
    connect_us: f64,
    through_memory: bool,
    round_trips_us: Vec<f64>,
    min_us: f64,
    median_us: f64,
    max_us: f64,
}

pub(crate) async fn run(arguments: &Arguments) -> Outcome {
    let engine = Engine::connect(&arguments.address)?;
    let start = Instant::now();
    let server = engine.lookup(&arguments.address).await?;
    let connect = start.elapsed();
    let (address, through_memory) = (server.address(), server.is_through_memory());
    if !arguments.json {
        let way = if through_memory { ", through shared memory" } else { "" };
        print(format_args!("connected to {address} in {}{way}", Shown(connect)))?;
    }

    let mut round_trips = Vec::new();
    for number in 1..=arguments.count {
        if number > 1 {
            tokio::time::sleep(arguments.interval).await;
        }
        let took = round_trip(&server, arguments.timeout).await?;
        if !arguments.json {
            print(format_args!("answer {number} from {address}: time={}", Shown(took)))?;
        }
        round_trips.push(took);
    }

    let report = Report { through_memory, ..Report::new(address, connect, &round_trips)? };
    if arguments.json {
        print(serde_json::to_string_pretty(&report)?)?;
    } else {
        let Report { min_us, median_us, max_us, .. } = report;
        print(format_args!(
            "{} answers, min/median/max = {min_us:.1}/{median_us:.1}/{max_us:.1} µs",
            round_trips.len()
        ))?;
    }
    Ok(())
}

/// One question that every server answers: who it is. That it has no identity is an answer as well.
async fn round_trip(server: &Endpoint, timeout: Duration) -> Outcome<Duration> {
    let provider = server.provider(ProviderId::DEFAULT);
    let start = Instant::now();
    let answer = tokio::time::timeout(timeout, provider.identity()).await;
    let took = start.elapsed();
    answer.map_err(|_| format!("no answer from {} within {timeout:?}", server.address()))??;
    Ok(took)
}

impl Report {
    fn new(address: &Address, connect: Duration, round_trips: &[Duration]) -> Outcome<Self> {
        let mut histogram = Histogram::<u64>::new(3)?;
        for took in round_trips {
            histogram.record(u64::try_from(took.as_nanos())?)?;
        }
        let micros = |nanos: u64| nanos as f64 / 1e3;
        Ok(Self {
            address: address.to_string(),
            connect_us: connect.as_secs_f64() * 1e6,
            through_memory: false,
            round_trips_us: round_trips.iter().map(|took| took.as_secs_f64() * 1e6).collect(),
            min_us: micros(histogram.min()),
            median_us: micros(histogram.value_at_quantile(0.5)),
            max_us: micros(histogram.max()),
        })
    }
}

/// A duration in the unit that suits it.
struct Shown(Duration);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_secs_f64() * 1e6;
        if micros < 1e3 { write!(f, "{micros:.1} µs") } else { write!(f, "{:.2} ms", micros / 1e3) }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_fractions_but_no_sign() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["-1", "", "x", "inf", "NaN", "1e30"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
