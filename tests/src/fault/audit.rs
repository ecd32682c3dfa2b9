//! After the storm: what agents saw, what the provider billed, what the events say and what budgets have spent.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::fleet::Seen;
use crate::{
    console::{Console, eventually, nanos},
    provider::{Call, FakeProvider, State},
};

/// Figures of a run that was found in order.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Calls that agents made.
    pub asked: usize,
    /// Calls that reached the provider.
    pub calls: usize,
    /// Calls that budgets denied.
    pub denied: usize,
    /// Events by how their cost was found.
    pub exact: usize,
    /// Likewise.
    pub estimated: usize,
    /// Likewise.
    pub lapsed: usize,
    /// What the provider billed.
    pub billed_nanos: i64,
    /// What events, and every budget, say was spent.
    pub spent_nanos: i64,
    /// What the provider generated for calls that were cut and nobody saw.
    pub unseen_nanos: i64,
}

impl Audit {
    /// As words for a table.
    #[must_use]
    pub fn figures(&self) -> String {
        let dollars = |nanos: i64| format!("${}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
        let mut text = format!(
            "{} asked, {} at the provider, {} denied; {} exact, {} estimated, {} lapsed; billed {}, spent {}",
            self.asked,
            self.calls,
            self.denied,
            self.exact,
            self.estimated,
            self.lapsed,
            dollars(self.billed_nanos),
            dollars(self.spent_nanos)
        );
        if self.unseen_nanos > 0 {
            text.push_str(&format!(", unseen {}", dollars(self.unseen_nanos)));
        }
        text
    }

    /// Neither spent nor billed more than a limit, but for what nobody saw.
    pub fn within(&self, limit_nanos: i64) {
        assert!(self.spent_nanos <= limit_nanos, "spent more than {limit_nanos}: {self:?}");
        assert!(
            self.billed_nanos - self.unseen_nanos <= limit_nanos,
            "billed more than {limit_nanos}: {self:?}"
        );
    }
}

fn trace_of(call: &Call) -> Option<&str> {
    call.headers.get("traceparent")?.get(3..35)
}

/// Waits until nothing is under way, and holds everything against everything else.
///
/// Every call at the provider has one event and no other call has one, unless it died before it was forwarded; complete
/// calls cost exactly what the provider billed; every budget (all of them match all calls) has spent what the events sum
/// to, and holds nothing.
pub async fn audit(console: &Console, provider: &FakeProvider, budgets: &[Value], seen: &[Seen]) -> Audit {
    let open = |calls: &[Call]| calls.iter().filter(|call| call.state == State::Open).count();
    let calls = eventually("the end of every call at the provider", async || {
        let calls = provider.calls();
        (open(&calls) == 0).then_some(calls)
    })
    .await;
    let reached: HashSet<&str> = calls.iter().filter_map(trace_of).collect();
    assert_eq!(reached.len(), calls.len(), "every call has a trace of its own");
    let mut last = String::new();
    let events = eventually("events, budgets and holds that agree", async || {
        let events = console.events().await;
        let traces: HashSet<&str> = events.iter().filter_map(|event| event["traceId"].as_str()).collect();
        let sum: i64 = events.iter().map(|event| nanos(&event["costNanodollars"])).sum();
        let mut told = Vec::new();
        for budget in budgets {
            let now = console.budget_now(budget).await;
            told.push((nanos(&now["spendNanodollars"]), nanos(&now["heldNanodollars"])));
        }
        let missing = reached.difference(&traces).count();
        let agree = missing == 0 && told.iter().all(|(spent, held)| (*spent, *held) == (sum, 0));
        let state = format!("{missing} events missing, they sum to {sum}, budgets (spent, held) {told:?}");
        if !agree && state != last {
            eprintln!("waiting: {state}");
            last = state;
        }
        agree.then_some(events)
    })
    .await;
    compare(&calls, &events, seen)
}

fn compare(calls: &[Call], events: &[Value], seen: &[Seen]) -> Audit {
    let mut audit = Audit { asked: seen.len(), calls: calls.len(), ..Audit::default() };
    let calls: HashMap<&str, &Call> = calls.iter().filter_map(|call| Some((trace_of(call)?, call))).collect();
    let mut event_of: HashMap<&str, &Value> = HashMap::new();
    for event in events {
        let trace = event["traceId"].as_str().unwrap_or_default();
        let twice = event_of.insert(trace, event);
        assert!(twice.is_none(), "two events for one call: {event:#} {twice:#?}");
        match event["measurement"].as_str() {
            Some("exact") => audit.exact += 1,
            Some("estimated") => audit.estimated += 1,
            _ => audit.lapsed += 1,
        }
        audit.spent_nanos += nanos(&event["costNanodollars"]);
    }
    for Seen { trace, status, complete } in seen {
        audit.denied += usize::from(*status == Some(429));
        let (event, call) = (event_of.remove(trace.as_str()), calls.get(trace.as_str()));
        let story =
            || json!({"trace": trace, "status": status, "complete": complete, "event": event, "call": call});
        audit.billed_nanos += call.map_or(0, |call| call.billed_nanos);
        let cost = event.map_or(0, |event| nanos(&event["costNanodollars"]));
        if status.is_some_and(|status| status >= 400) {
            // Refused by us, unless the process died between the forwarding and the answer.
            let refused = call.is_none() && event.is_none_or(|event| event["measurement"] != "exact");
            assert!(refused || event.is_some(), "{:#}", story());
        }
        if *complete {
            let exact = event.is_some_and(|event| event["measurement"] == "exact");
            assert!(exact && Some(cost) == call.map(|call| call.billed_nanos), "{:#}", story());
        }
        audit.unseen_nanos += call.map_or(0, |call| (call.billed_nanos - cost).max(0));
    }
    assert!(event_of.is_empty(), "events out of nowhere: {event_of:#?}");
    audit
}
