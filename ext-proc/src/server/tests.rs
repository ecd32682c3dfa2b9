//! The service as Envoy meets it: messages in, messages out, and what the spool and the ledger hold meanwhile.

mod frozen;
mod increments;
mod told;
mod trail;
mod unpriced;

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::ext_proc::v3::{
        HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse, body_mutation::Mutation,
        external_processor_client::ExternalProcessorClient,
        external_processor_server::ExternalProcessorServer, processing_request::Request as Phase,
        processing_response::Response as Answer,
    },
};
use nullspend_core::{
    clock::{Clock, SystemClock},
    exchange::{
        Settings,
        upstream::{Dialect, Upstream, Upstreams},
    },
    id::{BudgetId, KeyId, OrgId, RandomIds, UserId},
    ledger::{CounterKey, Ledger},
    loops::Fingerprints,
    money::Nanos,
};
use nullspend_ledger::MemoryLedger;
use nullspend_proto::internal::{BudgetRule, KeyPolicy, SpoolRecord, WatchResponse, spool_record::Kind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Endpoint, Server},
};
use uuid::Uuid;

use super::ExtProcService;
use crate::{
    Config, DataPlane, Deps, RateLimits, lease::LeaseConfig, report::ReportConfig, spool::SpoolConfig,
    testing::FakePlane,
};

const KEY: &str = "ns_live_sk_00000000000000000000000000000001";
const ORG: Uuid = Uuid::from_u128(1);
const BUDGET: Uuid = Uuid::from_u128(9);

/// A data plane with one key and one strict budget, its control plane, and one Envoy.
struct World {
    plane: Arc<DataPlane>,
    control: FakePlane,
    ledger: Arc<MemoryLedger>,
    envoy: ExternalProcessorClient<tonic::transport::Channel>,
    _watch: mpsc::UnboundedSender<Result<WatchResponse, Status>>,
    dir: TempDir,
}

impl World {
    async fn new(limit: Nanos) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        Self::timed(snapshot(limit), Arc::clone(&clock), clock).await
    }

    async fn timed(policy: WatchResponse, clock: Arc<dyn Clock>, ledger_clock: Arc<dyn Clock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control = FakePlane::default();
        let watch = control.next_watch();
        watch.send(Ok(policy)).unwrap();
        let ledger = Arc::new(MemoryLedger::new(ledger_clock));
        let upstream =
            Upstream::parse("openai", "https://api.openai.com", Dialect::OpenAi, "openai", true).unwrap();
        let config = Config {
            settings: Settings {
                upstreams: Upstreams(vec![upstream]),
                lease_ms: 30_000,
                max_body_bytes: 1 << 20,
                fingerprints: Fingerprints::default(),
            },
            spool_dir: dir.path().join("spool"),
            spool: SpoolConfig::default(),
            report: ReportConfig::default(),
            lease: LeaseConfig::default(),
            max_bodies_in_flight_bytes: 1 << 20,
            rate_limits: RateLimits::default(),
            policy_max_age: None,
        };
        let deps = Deps {
            ledger: Arc::clone(&ledger) as Arc<dyn Ledger>,
            clock,
            ids: Arc::new(RandomIds),
            control_plane: control.channel(),
        };
        let plane = DataPlane::build(config, deps).unwrap();
        assert!(plane.wait_for_policy(Duration::from_secs(10)).await);
        let envoy = connect(&plane);
        Self { plane, control, ledger, envoy, _watch: watch, dir }
    }

    async fn request(&mut self) -> Exchange {
        let (messages, stream) = mpsc::channel(16);
        let answers = self.envoy.process(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Exchange { messages, answers }
    }

    /// The reported records, once the plane has nothing left to do.
    async fn records(&self) -> Vec<SpoolRecord> {
        let idle = async {
            while self.plane.in_flight() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), idle).await.expect("requests end");
        assert!(self.plane.flush(Duration::from_secs(10)).await);
        self.control.records()
    }

    async fn settled(&self) -> Nanos {
        let counter = CounterKey { budget: BudgetId(BUDGET), generation: 1, window_start_ms: 0 };
        let balance = self.ledger.balances(OrgId(ORG), &[counter]).await.unwrap()[0];
        assert_eq!(balance.held, Nanos::ZERO, "no hold is left");
        balance.settled
    }
}

fn connect(plane: &Arc<DataPlane>) -> ExternalProcessorClient<tonic::transport::Channel> {
    let (connections, incoming) =
        mpsc::unbounded_channel::<Result<tokio::io::DuplexStream, std::io::Error>>();
    let service = ExternalProcessorServer::new(ExtProcService(Arc::clone(plane)));
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(tokio_stream::wrappers::UnboundedReceiverStream::new(incoming)),
    );
    let connect = tower::service_fn(move |_| {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let sent = connections.send(Ok(theirs)).map_err(std::io::Error::other);
        async move { sent.map(|()| hyper_util::rt::TokioIo::new(ours)) }
    });
    ExternalProcessorClient::new(Endpoint::from_static("http://plane").connect_with_connector_lazy(connect))
}

fn snapshot(limit: Nanos) -> WatchResponse {
    let key = KeyPolicy {
        key_id: KeyId(Uuid::from_u128(2)).bare(),
        org_id: OrgId(ORG).bare(),
        user_id: UserId(Uuid::from_u128(3)).bare(),
        name: "agent".into(),
        key_sha256: Sha256::digest(KEY).to_vec(),
        role: "agent".into(),
        api_version: "2026-04-01".into(),
        ..KeyPolicy::default()
    };
    let budget = BudgetRule {
        budget_id: BudgetId(BUDGET).bare(),
        org_id: OrgId(ORG).bare(),
        entity_type: "org".into(),
        entity_id: OrgId(ORG).bare(),
        limit_nanos: limit.0,
        policy: "strict_block".into(),
        interval: "none".into(),
        time_zone: "UTC".into(),
        generation: 1,
        revision: 1,
        ..BudgetRule::default()
    };
    WatchResponse {
        revision: 1,
        history_id: "h".into(),
        snapshot: true,
        keys: vec![key],
        budgets: vec![budget],
        ..WatchResponse::default()
    }
}

struct Exchange {
    messages: mpsc::Sender<ProcessingRequest>,
    answers: Streaming<ProcessingResponse>,
}

impl Exchange {
    async fn ask(&mut self, phase: Phase) -> Answer {
        self.tell(phase).await;
        self.answers.message().await.unwrap().expect("an answer").response.expect("a response")
    }

    async fn tell(&self, phase: Phase) {
        let mut message = ProcessingRequest { request: Some(phase), ..ProcessingRequest::default() };
        if matches!(message.request, Some(Phase::ResponseHeaders(_))) {
            message.attributes = via_upstream();
        }
        self.messages.send(message).await.unwrap();
    }

    /// Headers and body; gives the verdict.
    async fn send(&mut self, body: &Value) -> Answer {
        self.send_with(&[], body).await
    }

    async fn send_with(&mut self, more: &[(&str, &str)], body: &Value) -> Answer {
        let headers = [(":method", "POST"), (":path", "/v1/chat/completions"), ("x-nullspend-key", KEY)];
        let headers = [&headers, more].concat();
        let Answer::RequestHeaders(_) = self.ask(head(&headers)).await else { panic!("refused by headers") };
        self.ask(Phase::RequestBody(HttpBody {
            body: body.to_string().into_bytes(),
            end_of_stream: true,
            ..HttpBody::default()
        }))
        .await
    }

    async fn answer_head(&mut self, kind: &str) -> Answer {
        let Phase::RequestHeaders(head) = head(&[(":status", "200"), ("content-type", kind)]) else {
            unreachable!()
        };
        self.ask(Phase::ResponseHeaders(head)).await
    }

    async fn answer_body(&mut self, body: &str, end_of_stream: bool) -> Vec<u8> {
        let body = HttpBody { body: body.as_bytes().to_vec(), end_of_stream, ..HttpBody::default() };
        chunk(self.ask(Phase::ResponseBody(body)).await)
    }
}

fn head(pairs: &[(&str, &str)]) -> Phase {
    let field = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    Phase::RequestHeaders(HttpHeaders {
        headers: Some(HeaderMap { headers: pairs.iter().map(field).collect() }),
        ..HttpHeaders::default()
    })
}

fn via_upstream() -> std::collections::HashMap<String, envoy_types::pb::google::protobuf::Struct> {
    use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
    let value = Value { kind: Some(Kind::StringValue("via_upstream".into())) };
    let fields = BTreeMap::from([("response.code_details".to_owned(), value)]).into_iter().collect();
    [("envoy.filters.http.ext_proc".to_owned(), Struct { fields })].into_iter().collect()
}

fn chunk(answer: Answer) -> Vec<u8> {
    let Answer::ResponseBody(body) = answer else { panic!("no body: {answer:?}") };
    let Some(Mutation::StreamedResponse(chunk)) =
        body.response.and_then(|r| r.body_mutation).and_then(|m| m.mutation)
    else {
        panic!("nothing for the client")
    };
    chunk.body
}

fn chat(stream: bool) -> Value {
    json!({"model": "gpt-4o-mini", "stream": stream, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]})
}

const ANSWER: &str =
    r#"{"model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":10}}"#;

fn closed(records: &[SpoolRecord]) -> Vec<&nullspend_proto::internal::Closed> {
    records
        .iter()
        .filter_map(|record| match &record.kind {
            Some(Kind::Closed(closed)) => Some(closed),
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_forwarded_settled_before_its_last_byte_and_reported_once() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    let mut exchange = world.request().await;
    let Answer::RequestBody(forward) = exchange.send(&chat(false)).await else { panic!("not forwarded") };
    let common = forward.response.unwrap();
    let mutation = common.header_mutation.unwrap();
    assert!(common.clear_route_cache);
    assert!(mutation.remove_headers.contains(&"x-nullspend-key".to_owned()));
    exchange.answer_head("application/json").await;
    assert_eq!(exchange.answer_body(ANSWER, true).await, ANSWER.as_bytes());
    // 1000 x 150 + 10 x 600 nano-dollars, at the moment the last byte leaves.
    assert_eq!(world.settled().await, Nanos(156_000));
    let records = world.records().await;
    let events = closed(&records);
    assert_eq!((events.len(), events[0].cost_nanos, events[0].measurement.as_str()), (1, 156_000, "exact"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_does_not_fit_denies_before_anything_is_forwarded() {
    let mut world = World::new(Nanos(1)).await;
    let mut exchange = world.request().await;
    let Answer::ImmediateResponse(denied) = exchange.send(&chat(false)).await else { panic!("forwarded") };
    assert_eq!(denied.status.unwrap().code, 429);
    let body: Value = serde_json::from_slice(&denied.body).unwrap();
    assert_eq!(body["error"]["code"], "budget_exceeded");
    let records = world.records().await;
    assert!(closed(&records).is_empty(), "a denial is no event");
    assert!(matches!(records[0].kind, Some(Kind::Denied(_))));
    assert_eq!(world.settled().await, Nanos::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fits_once_its_text_is_counted_is_forwarded() {
    // By bytes it may cost 0.0012 dollars, by tokens less than 0.0003.
    let mut world = World::new(Nanos(400_000)).await;
    let mut exchange = world.request().await;
    let mut body = chat(false);
    body["messages"][0]["content"] = json!("Nobody had read the report before the meeting. ".repeat(150));
    let Answer::RequestBody(_) = exchange.send(&body).await else { panic!("not forwarded") };
    exchange.answer_head("application/json").await;
    exchange.answer_body(ANSWER, true).await;
    assert_eq!(world.settled().await, Nanos(156_000));
    let events = world.records().await;
    assert_eq!(closed(&events).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_is_charged_what_may_have_been_generated() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    let mut exchange = world.request().await;
    let Answer::RequestBody(_) = exchange.send(&chat(true)).await else { panic!("not forwarded") };
    exchange.answer_head("text/event-stream").await;
    let frame = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n";
    assert_eq!(exchange.answer_body(frame, false).await, frame.as_bytes());
    drop(exchange);
    let records = world.records().await;
    let events = closed(&records);
    assert_eq!(
        (events.len(), events[0].ending.as_str(), events[0].measurement.as_str()),
        (1, "aborted", "estimated")
    );
    assert!(events[0].cost_nanos > 0);
    assert_eq!(world.settled().await, Nanos(events[0].cost_nanos));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_before_its_body_costs_nothing() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    let mut exchange = world.request().await;
    let headers = [(":method", "POST"), (":path", "/v1/chat/completions"), ("x-nullspend-key", KEY)];
    exchange.ask(head(&headers)).await;
    drop(exchange);
    assert!(world.records().await.is_empty());
    assert_eq!(world.settled().await, Nanos::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_unknown_routes_are_answered_without_a_key() {
    let mut world = World::new(Nanos(1)).await;
    for (method, path, status) in
        [("GET", "/health", 200), ("GET", "/health/ready", 200), ("GET", "/v1/models", 404)]
    {
        let mut exchange = world.request().await;
        let answer = exchange.ask(head(&[(":method", method), (":path", path)])).await;
        let Answer::ImmediateResponse(answer) = answer else { panic!("{path} went on") };
        assert_eq!(answer.status.unwrap().code, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_room_is_refused_as_its_provider_would_and_can_be_traced() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    let all = world.plane.bodies.permit(1 << 20).expect("nothing is held");
    let Answer::ImmediateResponse(refused) = world.request().await.send(&chat(false)).await else {
        panic!("forwarded")
    };
    assert_eq!(refused.status.unwrap().code, 503);
    let body: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!((&body["error"]["code"], body["error"]["type"].is_string()), (&json!("overloaded"), true));
    let set = refused.headers.unwrap().set_headers;
    assert!(set.iter().any(|set| set.header.as_ref().unwrap().key == "x-nullspend-trace-id"));
    drop(all);
    assert!(matches!(world.request().await.send(&chat(false)).await, Answer::RequestBody(_)));
}

#[tokio::test]
async fn a_panic_is_an_error_to_envoy_and_not_an_end() {
    fn fails() {
        panic!("on purpose")
    }
    let (here, apart) = (async { fails() }, async { drop(super::apart(fails).await) });
    for run in [Box::pin(here) as Pin<Box<dyn Future<Output = ()>>>, Box::pin(apart)] {
        let (to_envoy, mut answers) = mpsc::channel(1);
        super::guarded(run, to_envoy).await;
        assert_eq!(answers.recv().await.unwrap().unwrap_err().code(), tonic::Code::Internal);
        assert!(answers.recv().await.is_none());
    }
}
