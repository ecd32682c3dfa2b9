//! The control plane on real sockets and a real SQLite file.

use std::{num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use nullspend_core::{
    clock::{Clock, SystemClock},
    id::{AttemptId, Ids, KeyId, OrgId, RandomIds, UserId},
    policy::{KeyIdentity, Role},
};
use nullspend_ledger::MemoryLedger;
use nullspend_proto::internal::{
    Denied, ReportRequest, SequencedRecord, SpoolRecord, WatchRequest,
    data_plane_service_client::DataPlaneServiceClient, spool_record::Kind,
};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;

use crate::{
    Config, ControlPlane, Deps, JoinCheck,
    store::{Founding, KeyRecord, Store},
};

pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) plane: Arc<ControlPlane>,
    pub(crate) org: OrgId,
    user: UserId,
    stop: CancellationToken,
}

fn url(dir: &Path) -> SecretString {
    format!("sqlite:{}", dir.join("db").display()).into()
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::limiting(None).await
    }

    /// Where a key may make so many calls of the API in a minute.
    pub(crate) async fn limiting(api_calls_per_minute: Option<NonZeroU32>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let deps = Deps {
            ledger: Arc::new(MemoryLedger::new(Arc::clone(&clock))),
            clock: Arc::clone(&clock),
            ids: Arc::new(RandomIds),
        };
        let config = Config { database_url: url(dir.path()), catalogue_file: None, api_calls_per_minute };
        let plane = ControlPlane::build(config, deps).await.unwrap();
        let (org, user) = (OrgId(RandomIds.v4()), UserId(RandomIds.v4()));
        let world = Self { dir, plane, org, user, stop: CancellationToken::new() };
        let keys = [Role::Owner, Role::Agent].map(|role| world.key(role, role.as_str()));
        let founding = Founding {
            org,
            org_name: "default".to_owned(),
            org_slug: "default".to_owned(),
            user,
            user_name: "owner".to_owned(),
            keys: keys.to_vec(),
            now_ms: clock.now_ms(),
        };
        assert!(world.plane.app().store().found(&founding).await.unwrap());
        let (public, internal, admin) =
            (world.listen("public"), world.listen("internal"), world.listen("admin"));
        let (plane, stop) = (Arc::clone(&world.plane), world.stop.clone());
        tokio::spawn(async move {
            tokio::try_join!(
                plane.serve_public(public, stop.clone()),
                plane.serve_internal(UnixListenerStream::new(internal), JoinCheck::default(), stop.clone()),
                plane.serve_admin(admin, stop),
            )
        });
        world
    }

    fn key(&self, role: Role, raw: &str) -> (KeyRecord, [u8; 32]) {
        let identity = KeyIdentity {
            key: KeyId(RandomIds.v4()),
            org: self.org,
            user: self.user,
            name: raw.to_owned(),
            role,
            default_tags: [("team".to_owned(), "core".to_owned())].into(),
            locked_tags: Vec::new(),
            required_tags: Vec::new(),
            allowed_models: (role == Role::Agent).then(Vec::new),
            allowed_providers: None,
            api_version: "2026-04-01".to_owned(),
        };
        let record = KeyRecord {
            identity,
            prefix: raw.to_owned(),
            last_used_at_ms: None,
            created_at_ms: 1,
            revoked_at_ms: None,
        };
        (record, Sha256::digest(raw).into())
    }

    fn listen(&self, name: &str) -> UnixListener {
        UnixListener::bind(self.dir.path().join(name)).unwrap()
    }

    pub(crate) async fn channel(&self, name: &str) -> Channel {
        let uri = format!("unix://{}", self.dir.path().join(name).display());
        tonic::transport::Endpoint::try_from(uri).unwrap().connect().await.unwrap()
    }

    async fn http(&self, socket: &str, request: &str) -> String {
        let mut stream = UnixStream::connect(self.dir.path().join(socket)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str, headers: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        self.http("public", &request).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits for what another task does, a bounded time.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("within ten seconds")
}

#[tokio::test]
async fn clients_discover_the_api_and_nothing_internal() {
    let world = World::new().await;
    let mut client =
        reflection::server_reflection_client::ServerReflectionClient::new(world.channel("public").await);
    let request = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(reflection::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = soon(answers.message()).await.unwrap().unwrap().message_response.unwrap();
    let reflection::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["nullspend.v1.KeyService", "nullspend.v1.BudgetService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("internal")), "{names:?}");
    let mut health = HealthClient::new(world.channel("public").await);
    let request = tonic_health::pb::HealthCheckRequest { service: "nullspend.v1.KeyService".to_owned() };
    assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
}

#[tokio::test]
async fn both_protocols_share_one_listener_and_one_gatekeeper() {
    let world = World::new().await;
    let mut keys =
        nullspend_proto::v1::key_service_client::KeyServiceClient::new(world.channel("public").await);
    let call = |key: &'static str| {
        let mut request = tonic::Request::new(nullspend_proto::v1::ListKeysRequest::default());
        if !key.is_empty() {
            request.metadata_mut().insert("x-nullspend-key", key.parse().unwrap());
        }
        request
    };
    for (key, code) in [("", 16), ("unknown", 16), ("agent", 7)] {
        let status = keys.list_keys(call(key)).await.unwrap_err();
        assert_eq!(status.code() as i32, code, "{key} {status}");
    }
    let answer = world.get("/api/keys", "").await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("authentication_required"), "{answer}");
    let answer = world.get("/api/keys", "x-nullspend-key: agent\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("\"code\":\"forbidden\""), "{answer}");
    let answer = world.get("/api/openapi.json", "").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"openapi\": \"3.1.0\""), "{answer}");
    // gRPC-Web has another framing: it must not reach the gRPC side.
    let answer =
        world.get("/nullspend.v1.KeyService/ListKeys", "content-type: application/grpc-web\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    // The planes' own service is not there.
    let mut planes = DataPlaneServiceClient::new(world.channel("public").await);
    let status = planes.watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    let metrics = world.http("admin", "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let refused = r#"nullspend_control_requests_total{transport="rest",method="nullspend.v1.KeyService.ListKeys",status="403"} 1"#;
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn data_planes_follow_policy() {
    let world = World::new().await;
    let mut client = DataPlaneServiceClient::new(world.channel("internal").await);
    let mut watch = client.watch(WatchRequest::default()).await.unwrap().into_inner();
    let first = soon(watch.message()).await.unwrap().unwrap();
    assert!(first.snapshot && first.keys.len() == 2 && first.orgs.len() == 1, "{first:?}");
    let agent = first.keys.iter().find(|key| key.role == "agent").unwrap();
    assert!(agent.models_restricted && !agent.providers_restricted && agent.default_tags["team"] == "core");
    // A change by another process on the same database.
    let other = Store::open(&url(world.dir.path()), "unused").await.unwrap();
    let (record, hash) = world.key(Role::Agent, "third");
    other.insert_key(&record, &hash).await.unwrap();
    let second = soon(watch.message()).await.unwrap().unwrap();
    assert!(!second.snapshot && second.revision > first.revision);
    assert_eq!(second.keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["third"]);
    other.revoke_key(world.org, record.identity.key, 5).await.unwrap();
    let third = soon(watch.message()).await.unwrap().unwrap();
    assert_eq!(third.revoked_key_ids, [record.identity.key.bare()]);
    // A reconnect with what is held gets what was missed; one with another history gets everything.
    let resume = |history_id: &str| WatchRequest {
        dataplane_id: "d".to_owned(),
        resume_revision: first.revision,
        history_id: history_id.to_owned(),
    };
    let mut again = client.watch(resume(&first.history_id)).await.unwrap().into_inner();
    let missed = soon(again.message()).await.unwrap().unwrap();
    assert!(!missed.snapshot && missed.revision == third.revision && missed.revoked_key_ids.len() == 1);
    let mut foreign = client.watch(resume("another")).await.unwrap().into_inner();
    assert!(soon(foreign.message()).await.unwrap().unwrap().snapshot);
    world.stop.cancel();
    assert!(soon(watch.message()).await.unwrap().is_none(), "streams end with the server");
}

#[tokio::test]
async fn a_data_plane_whose_host_is_gone_is_not_waited_for() {
    let world = World::new().await;
    let planes = world.plane.app().data_planes();
    let socket = format!("unix://{}", world.dir.path().join("internal").display());
    // A runtime that nobody drives any more is a host without power: its sockets stay open, and nothing answers.
    let vanish = move || {
        let host = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let watch = host.block_on(async {
            let channel = tonic::transport::Endpoint::try_from(socket).unwrap().connect().await.unwrap();
            let request = WatchRequest { dataplane_id: "gone".to_owned(), ..WatchRequest::default() };
            let mut watch = DataPlaneServiceClient::new(channel).watch(request).await.unwrap().into_inner();
            watch.message().await.unwrap().unwrap();
            watch
        });
        (host, watch)
    };
    let (host, watch) = tokio::task::spawn_blocking(vanish).await.unwrap();
    assert_eq!(planes.all_enforce(), Some(0), "it follows and has confirmed nothing");
    let mut changes = planes.changes();
    let gone = changes.wait_for(|_| planes.all_enforce().is_none());
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("noticed").unwrap();
    drop(watch);
    host.shutdown_background();
}

#[tokio::test]
async fn records_are_acknowledged_in_order() {
    let world = World::new().await;
    let mut client = DataPlaneServiceClient::new(world.channel("internal").await);
    let record = |seq| {
        let denied = Denied {
            attempt_id: AttemptId(RandomIds.v7(1_775_984_400_000)).bare(),
            org_id: world.org.bare(),
            key_id: KeyId(RandomIds.v4()).bare(),
            at_ms: 1_775_984_400_000,
            code: "budget_exceeded".to_owned(),
            details_json: "{}".to_owned(),
            ..Denied::default()
        };
        SequencedRecord::new(seq, &SpoolRecord { kind: Some(Kind::Denied(denied)) })
    };
    let batch = |seqs: std::ops::Range<u64>| ReportRequest {
        dataplane_id: "d".to_owned(),
        ephemeral_spool: false,
        records: seqs.map(record).collect(),
    };
    let batches = tokio_stream::iter([batch(1..4), batch(4..5), batch(2..9)]);
    let mut acks = client.report(batches).await.unwrap().into_inner();
    for expected in [3, 4, 8] {
        assert_eq!(soon(acks.message()).await.unwrap().unwrap().acked_seq, expected);
    }
    assert!(soon(acks.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_database_belongs_to_one_node() {
    let world = World::new().await;
    world.plane.claim_node("one").await.unwrap();
    world.plane.claim_node("one").await.unwrap();
    let error = world.plane.claim_node("two").await.unwrap_err();
    assert!(error.to_string().contains("nullspend ledger take-over"), "{error}");
}
