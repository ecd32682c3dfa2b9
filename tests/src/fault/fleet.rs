//! Agents under load: mixed APIs, plain and streamed, some leaving in mid-stream and asking again.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::Method;
use nullspend_core::id::{Ids, RandomIds};
use serde_json::{Value, json};
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    console::{Agent, Console},
    http::{Http, Live},
};

const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/responses", "/v1/messages"];

/// What the agents ask for.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Whether some leave in mid-stream and ask again.
    pub leave: bool,
    /// The provider's pause before each piece of an answer.
    pub pace_ms: u64,
    /// Headers of every call, e.g. tags.
    pub headers: Vec<(&'static str, &'static str)>,
    /// Makes runs differ.
    pub seed: u64,
}

/// What an agent knows of one of its calls.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its trace id, by which the provider and the event know it too.
    pub trace: String,
    /// The status of the answer; `None` when there was none.
    pub status: Option<u16>,
    /// It was a 200 that ended validly.
    pub complete: bool,
}

/// Agents that share one key and call some ingresses in turn.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Where they call.
    pub ingresses: Vec<Console>,
    /// Whose key they have.
    pub agent: Agent,
    /// What they ask for.
    pub mix: Mix,
    stop: Arc<AtomicBool>,
}

/// Agents that are calling; [`Running::stop`] ends them.
#[derive(Debug)]
pub struct Running {
    agents: JoinSet<Vec<Seen>>,
    stop: Arc<AtomicBool>,
}

impl Running {
    /// Lets every agent finish its call; everything they saw.
    pub async fn stop(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        self.ended().await
    }

    /// Waits until every agent was denied; everything they saw.
    pub async fn ended(mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        while let Some(seen) = self.agents.join_next().await {
            all.extend(seen.expect("an agent"));
        }
        all
    }
}

impl Fleet {
    /// Agents with that key.
    #[must_use]
    pub fn new(ingresses: Vec<Console>, agent: Agent, mix: Mix) -> Self {
        Self { ingresses, agent, mix, stop: Arc::default() }
    }

    /// Starts so many agents at one moment. Each calls until a budget denies it, or until it is told to stop.
    #[must_use]
    pub fn start(&self, agents: usize) -> Running {
        let barrier = Arc::new(Barrier::new(agents));
        let mut running = JoinSet::new();
        for number in 0..agents {
            let (fleet, barrier) = (self.clone(), Arc::clone(&barrier));
            running.spawn(async move {
                barrier.wait().await;
                fleet.spend(number).await
            });
        }
        Running { agents: running, stop: Arc::clone(&self.stop) }
    }

    async fn spend(&self, number: usize) -> Vec<Seen> {
        let (http, mut seen) = (Http::default(), Vec::new());
        for count in 0_u64.. {
            let console = &self.ingresses[number % self.ingresses.len()];
            let (path, body, leave_after) = self.request(number, count);
            let mut last = self.call(console, &http, path, &body, leave_after).await;
            if last.status == Some(200) && leave_after.is_some() {
                // Who left asks again, as an SDK would.
                seen.push(last);
                last = self.call(console, &http, path, &body, None).await;
            }
            let denied = last.status == Some(429);
            // A refusal for want of a decision, or no answer at all: the next call may find what is missing back.
            let failed = !denied && last.status != Some(200);
            seen.push(last);
            if denied || self.stop.load(Ordering::SeqCst) {
                break;
            }
            if failed {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        seen
    }

    /// A path, a body, and the piece after which the agent leaves.
    fn request(&self, number: usize, count: u64) -> (&'static str, Value, Option<u64>) {
        let draw = |what: &str, below: u64| {
            let mut hasher = DefaultHasher::new();
            (self.mix.seed, number, count, what).hash(&mut hasher);
            hasher.finish() % below
        };
        let path = PATHS[usize::try_from(draw("path", 3)).unwrap_or(0)];
        let (tokens, chunks) = (20 + draw("tokens", 60), 4 + draw("chunks", 5));
        let stream = draw("stream", 3) > 0;
        let leave_after =
            (self.mix.leave && stream && draw("leave", 6) == 0).then(|| 1 + draw("after", chunks - 2));
        let prompt = format!("[[fake tokens={tokens} chunks={chunks} pace_ms={}]]", self.mix.pace_ms);
        let body = match path {
            "/v1/responses" => {
                json!({"model": "gpt-4o", "stream": stream, "max_output_tokens": 90, "input": prompt})
            }
            "/v1/messages" => json!({"model": "claude-haiku-4-5", "stream": stream, "max_tokens": 90,
                "messages": [{"role": "user", "content": prompt}]}),
            _ => json!({"model": "gpt-4o", "stream": stream, "max_tokens": 90,
                "messages": [{"role": "user", "content": prompt}]}),
        };
        (path, body, leave_after)
    }

    async fn call(
        &self,
        console: &Console,
        http: &Http,
        path: &str,
        body: &Value,
        leave_after: Option<u64>,
    ) -> Seen {
        let trace = RandomIds.v4().simple().to_string();
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        let mut headers = vec![
            ("x-nullspend-key", self.agent.key.as_str()),
            ("authorization", "Bearer sk-provider-credential"),
            ("content-type", "application/json"),
            ("traceparent", parent.as_str()),
        ];
        headers.extend(self.mix.headers.iter().copied());
        let url = format!("{}{path}", console.url);
        let Ok(mut live) = http.open(&Method::POST, &url, &headers, body.to_string()).await else {
            return Seen { trace, status: None, complete: false };
        };
        let status = live.status.as_u16();
        if let (Some(pieces), 200) = (leave_after, status) {
            leave(&mut live, pieces).await;
            return Seen { trace, status: Some(status), complete: false };
        }
        let whole = live.rest().await.1;
        Seen { trace, status: Some(status), complete: whole && status == 200 }
    }
}

/// Reads so many pieces of an answer and no more.
async fn leave(live: &mut Live, pieces: u64) {
    for _ in 0..pieces {
        if !matches!(live.next().await, Ok(Some(_))) {
            return;
        }
    }
}
