//! The bench: four arms, the same loads, and ratios instead of absolute figures, since generator, provider, Envoy and
//! product share one machine.

mod arms;
pub mod freeze;
mod table;

use std::{error::Error, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use self::arms::Arm;
use crate::load::{Load, Report, cpu_seconds};

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Each arm in each scenario, all rounds together.
    pub measured: Duration,
}

/// Everything measured.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// One row for each scenario and arm, arms in the order bare, no-op, product, product on Redis.
    pub rows: Vec<Row>,
}

/// One arm under one load.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The load's name.
    pub scenario: &'static str,
    /// The arm's name.
    pub arm: &'static str,
    /// What the load saw.
    pub report: Report,
    /// Envoy's processor time, microseconds for each request.
    pub envoy_us: f64,
    /// The same of ext_proc or of the whole product.
    pub ours_us: f64,
    /// Round trips to Redis for each request, where the ledger is there.
    pub redis_calls: Option<f64>,
}

/// A kind of load.
struct Scenario {
    name: &'static str,
    connections: usize,
    prompt_bytes: usize,
    /// Milliseconds between the chunks of a stream.
    stream: Option<u64>,
}

const KB: usize = 1024;

/// How often each arm has its turn in a scenario.
const ROUNDS: u32 = 5;

#[rustfmt::skip]
const SCENARIOS: [Scenario; 5] = [
    Scenario { name: "JSON, 1 KB prompt, 1 connection", connections: 1, prompt_bytes: KB, stream: None },
    Scenario { name: "JSON, 1 KB prompt, 32 connections", connections: 32, prompt_bytes: KB, stream: None },
    Scenario { name: "JSON, 32 KB prompt, 32 connections", connections: 32, prompt_bytes: 32 * KB, stream: None },
    Scenario { name: "SSE, 100 chunks 5 ms apart, 32 connections", connections: 32, prompt_bytes: KB, stream: Some(5) },
    Scenario { name: "SSE, 100 chunks in a burst, 16 connections", connections: 16, prompt_bytes: KB, stream: Some(0) },
];

impl Scenario {
    fn body(&self) -> Bytes {
        let order = match self.stream {
            Some(pace) => format!("[[fake tokens=200 chunks=100 pace_ms={pace}]] "),
            None => "[[fake tokens=200]] ".to_owned(),
        };
        let prompt = order + &"lorem ipsum ".repeat(self.prompt_bytes / 12);
        let mut body = json!({"model": "gpt-4o-mini", "max_tokens": 400, "stream": self.stream.is_some(),
            "messages": [{"role": "user", "content": prompt}]});
        if self.stream.is_some() {
            // Asked for in every arm, so that all of them carry the same bytes.
            body["stream_options"] = json!({"include_usage": true});
        }
        Bytes::from(body.to_string())
    }
}

/// Starts the arms, one after the other for each scenario, and measures them.
///
/// # Errors
/// When an arm cannot be started or a process of it is gone.
pub async fn run(settings: Settings) -> Result<Figures, Box<dyn Error>> {
    let provider = arms::Provider::start().await?;
    let arms = [
        Arm::bare(&provider).await?,
        Arm::no_op(&provider).await?,
        Arm::product(&provider).await?,
        Arm::on_redis(&provider).await?,
    ];
    let mut figures = Figures::default();
    for scenario in &SCENARIOS {
        let mut of_arms = arms.each_ref().map(|_| Vec::new());
        // In turns, so that what else the machine does in a while meets every arm.
        for _ in 0..ROUNDS {
            for (rows, arm) in of_arms.iter_mut().zip(&arms) {
                rows.push(measure(arm, scenario, settings.measured / ROUNDS).await?);
            }
        }
        figures.rows.extend(of_arms.into_iter().filter_map(middle));
    }
    Ok(figures)
}

/// The round in the middle by processor time.
fn middle(mut rows: Vec<Row>) -> Option<Row> {
    rows.sort_by(|a, b| a.cpu_us().total_cmp(&b.cpu_us()));
    let at = rows.len() / 2;
    rows.into_iter().nth(at)
}

async fn measure(arm: &Arm, scenario: &Scenario, measured: Duration) -> Result<Row, Box<dyn Error>> {
    eprintln!("{}: {}", scenario.name, arm.name);
    let load = Load {
        url: arm.url.clone(),
        path: "/v1/chat/completions".into(),
        headers: arm.headers.clone(),
        body: scenario.body(),
        connections: scenario.connections,
        warm_up: measured / 4,
        measured,
    };
    let cpu = || -> Result<(f64, f64), Box<dyn Error>> {
        Ok((cpu_seconds(arm.envoy)?, arm.ours.map_or(Ok(0.0), cpu_seconds)?))
    };
    let (before, calls_before) = (cpu()?, arm.redis_calls().await);
    let report = load.run().await?;
    let (after, calls_after) = (cpu()?, arm.redis_calls().await);
    let exchanges = f64::from(u32::try_from(report.exchanges.max(1))?);
    let each = |before: f64, after: f64| (after - before) * 1e6 / exchanges;
    Ok(Row {
        scenario: scenario.name,
        arm: arm.name,
        envoy_us: each(before.0, after.0),
        ours_us: each(before.1, after.1),
        redis_calls: calls_before.zip(calls_after).map(|(before, after)| (after - before) / exchanges),
        report,
    })
}
