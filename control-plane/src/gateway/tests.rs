//! The gateway against stub services of the real API: what goes in, what comes out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use nullspend_core::{
    clock::ManualClock,
    id::{OrgId, RandomIds, UserId},
    policy::Role,
};
use nullspend_proto::v1::{self, key_service_server as keys};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tonic::service::Routes;
use uuid::Uuid;

use super::Gateway;
use crate::{
    app::Caller,
    auth::{Callers, Gatekeeper, Guarded, LookupFailed},
    idempotency::{Answers, Claim, Idempotent, MemoryFailed, Remembered, Standing},
    schema::Schema,
};

/// Keys named by their role; `down` stands for a database that does not answer.
struct Table;

#[async_trait]
impl Callers for Table {
    async fn by_key(&self, sha256: &[u8; 32]) -> Result<Option<Caller>, LookupFailed> {
        let is = |name: &str| Sha256::digest(name).as_slice() == sha256;
        if is("down") {
            return Err(LookupFailed("no database".into()));
        }
        let role = [Role::Agent, Role::Viewer, Role::Member, Role::Admin, Role::Owner]
            .into_iter()
            .find(|role| is(role.as_str()));
        Ok(role.map(|role| Caller {
            org: OrgId(Uuid::from_u128(1)),
            user: UserId(Uuid::from_u128(2)),
            key: None,
            role,
        }))
    }
}

/// Remembers answers in a map.
#[derive(Default)]
struct Map(Mutex<HashMap<Place, (Claim, Option<Remembered>)>>);

type Place = (OrgId, String, String);

impl Map {
    fn place(claim: &Claim) -> Place {
        (claim.org, claim.method.clone(), claim.key.clone())
    }
}

#[async_trait]
impl Answers for Map {
    async fn claim(&self, claim: &Claim) -> Result<Standing, MemoryFailed> {
        let mut map = self.0.lock().unwrap();
        Ok(match map.get(&Self::place(claim)) {
            None => {
                map.insert(Self::place(claim), (claim.clone(), None));
                Standing::Claimed
            }
            Some((known, _)) if known != claim => Standing::Different,
            Some((_, None)) => Standing::Running,
            Some((_, Some(answer))) => Standing::Done(answer.clone()),
        })
    }
    async fn remember(&self, claim: &Claim, answer: &Remembered) -> Result<(), MemoryFailed> {
        self.0.lock().unwrap().insert(Self::place(claim), (claim.clone(), Some(answer.clone())));
        Ok(())
    }
    async fn release(&self, claim: &Claim) -> Result<(), MemoryFailed> {
        self.0.lock().unwrap().remove(&Self::place(claim));
        Ok(())
    }
}

/// Key service whose answers show what reached it.
#[derive(Default)]
struct Keys {
    created: Mutex<Vec<v1::CreateKeyRequest>>,
    updated: Mutex<Vec<v1::UpdateKeyRequest>>,
    listed: Mutex<Vec<v1::ListKeysRequest>>,
    /// A call named `slow` has come, and may go on.
    entered: Notify,
    go_on: Notify,
}

#[tonic::async_trait]
impl keys::KeyService for Keys {
    async fn create_key(
        &self,
        request: tonic::Request<v1::CreateKeyRequest>,
    ) -> Result<tonic::Response<v1::CreateKeyResponse>, tonic::Status> {
        assert!(request.extensions().get::<Caller>().is_some(), "the caller must reach the service");
        assert!(request.metadata().get("x-nullspend-key").is_none(), "the key must not");
        let request = request.into_inner();
        if request.name == "taken" {
            return Err(crate::status::status(tonic::Code::AlreadyExists, "limit_exceeded", "taken"));
        }
        let mut created = self.created.lock().unwrap();
        created.push(request.clone());
        let data = v1::CreatedKey {
            id: format!("key-{}", created.len()),
            name: request.name,
            role: request.role,
            default_tags: request.default_tags,
            allowed_models: request.allowed_models,
            created_at: Some(prost_types::Timestamp { seconds: 1_775_984_400, nanos: 5_000_000 }),
            ..Default::default()
        };
        Ok(tonic::Response::new(v1::CreateKeyResponse { data: Some(data) }))
    }
    async fn list_keys(
        &self,
        request: tonic::Request<v1::ListKeysRequest>,
    ) -> Result<tonic::Response<v1::ListKeysResponse>, tonic::Status> {
        self.listed.lock().unwrap().push(request.into_inner());
        let mut response = tonic::Response::new(v1::ListKeysResponse::default());
        response.metadata_mut().insert("x-http-status", tonic::metadata::MetadataValue::from_static("206"));
        Ok(response)
    }
    async fn update_key(
        &self,
        request: tonic::Request<v1::UpdateKeyRequest>,
    ) -> Result<tonic::Response<v1::UpdateKeyResponse>, tonic::Status> {
        let request = request.into_inner();
        if request.name.as_deref() == Some("slow") {
            self.entered.notify_one();
            self.go_on.notified().await;
        }
        if request.name.as_deref() == Some("taken") {
            return Err(crate::status::status(tonic::Code::AlreadyExists, "limit_exceeded", "taken"));
        }
        let mut updated = self.updated.lock().unwrap();
        updated.push(request.clone());
        let id = format!("change-{}", updated.len());
        let data = request.name.map(|name| v1::Key { id, name, ..Default::default() });
        Ok(tonic::Response::new(v1::UpdateKeyResponse { data }))
    }
    async fn revoke_key(
        &self,
        _: tonic::Request<v1::RevokeKeyRequest>,
    ) -> Result<tonic::Response<v1::RevokeKeyResponse>, tonic::Status> {
        Err(tonic::Status::internal("secret inside"))
    }
}

struct World {
    gateway: Gateway,
    answers: Arc<Map>,
    keys: Arc<Keys>,
}

struct Got {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
}

impl World {
    fn new() -> Self {
        let schema = Arc::new(Schema::load().unwrap());
        let keys = Arc::new(Keys::default());
        let answers = Arc::new(Map::default());
        let routes = Routes::new(keys::KeyServiceServer::from_arc(Arc::clone(&keys))).prepare();
        let gatekeeper = Gatekeeper::new(Arc::clone(&schema), Arc::new(Table));
        let idempotent = Idempotent::new(Arc::clone(&schema), answers.clone(), routes);
        let api = crate::Api::new(Guarded::new(gatekeeper.clone(), idempotent));
        let clock = Arc::new(ManualClock::at(1_775_984_400_000));
        let gateway = Gateway::new(schema, gatekeeper, api, clock, Arc::new(RandomIds)).unwrap();
        Self { gateway, answers, keys }
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<axum::body::Body>) -> Got {
        let response = self.gateway.handle(request.body(body.into()).unwrap()).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap();
        Got { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn call(&self, key: &str, verb: &str, path: &str, body: &str) -> Got {
        let request = Request::builder().method(verb).uri(path).header("X-NullSpend-Key", key);
        let request =
            if body.is_empty() { request } else { request.header("content-type", "application/json") };
        self.send(request, body.to_owned()).await
    }
}

fn issues(got: &Got) -> Vec<(String, String)> {
    assert_eq!((got.status, &got.body["error"]["code"]), (400, &json!("validation_error")), "{}", got.body);
    let issues = got.body["error"]["details"]["issues"].as_array().unwrap().iter();
    let mut found: Vec<_> = issues
        .map(|issue| (issue["path"].to_string(), issue["message"].as_str().unwrap().to_owned()))
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_call_goes_in_and_out() {
    let world = World::new();
    let body = r#"{"name":"ci","defaultTags":{"b":"2","a":"1"},"allowedModels":[],"role":"viewer"}"#;
    let got = world.call("member", "POST", "/api/keys", body).await;
    assert_eq!(got.status, 201, "{}", got.body);
    let expected = json!({"data":{"id":"key-1","name":"ci","keyPrefix":"","role":"viewer","userId":"",
        "defaultTags":{"a":"1","b":"2"},"lockedTags":[],"requiredTags":[],"allowedModels":[],"allowedProviders":null,
        "rawKey":"","createdAt":"2026-04-12T09:00:00.005Z"}});
    assert_eq!(got.body, expected);
    assert_eq!(got.headers["cache-control"], "private, no-store");
    assert_eq!(got.headers["nullspend-version"], "2026-04-01");
    assert_eq!(got.headers["content-type"], "application/json");
    assert_eq!(got.headers["x-request-id"].len(), 36);
}

#[tokio::test]
async fn request_ids_are_echoed_when_fit() {
    let world = World::new();
    let send = |id: &'static str| world.send(Request::get("/api/nothing").header("x-request-id", id), "");
    assert_eq!(send("abc-1").await.headers["x-request-id"], "abc-1");
    assert_ne!(send("a b").await.headers["x-request-id"], "a b");
}

#[tokio::test]
async fn unknown_paths_and_verbs_are_404_in_the_same_shape() {
    let world = World::new();
    for (verb, path) in [("GET", "/api/nope"), ("PUT", "/api/keys"), ("GET", "/"), ("GET", "/api/keys/")] {
        let got = world.call("owner", verb, path, "").await;
        assert_eq!((got.status, &got.body["error"]["code"]), (404, &json!("not_found")), "{verb} {path}");
        assert!(got.body["error"]["details"].is_null());
    }
}

#[tokio::test]
async fn rights_are_checked_before_the_body() {
    let world = World::new();
    let got = world.call("agent", "POST", "/api/keys", "{broken").await;
    assert_eq!((got.status, &got.body["error"]["code"]), (403, &json!("forbidden")));
    let message = got.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("CreateKey needs a key of role member"), "{message}");
    let got = world.call("nobody", "POST", "/api/keys", "{broken").await;
    assert_eq!((got.status, &got.body["error"]["code"]), (401, &json!("authentication_required")));
    let got = world.send(Request::post("/api/keys"), "{broken").await;
    assert!(got.body["error"]["message"].as_str().unwrap().contains("X-NullSpend-Key"));
    let got = world.call("down", "POST", "/api/keys", "{}").await;
    assert_eq!((got.status, &got.body["error"]["code"]), (503, &json!("service_unavailable")));
    assert_eq!(got.headers["retry-after"], "5");
    assert!(world.keys.created.lock().unwrap().is_empty());
}

#[tokio::test]
async fn every_issue_is_told_at_once() {
    let world = World::new();
    let body = r#"{"nam":"x","default_tags":{},"role":"king","lockedTags":["a",1,null],"userId":true,
        "defaultTags":{"k":5,"z":"\u0000"},"allowedModels":"gpt-4o","userId":"u"}"#;
    let got = issues(&world.call("member", "POST", "/api/keys", body).await);
    let expected = [
        (r#"["allowedModels"]"#, "must be an array, not text"),
        (r#"["defaultTags","k"]"#, "must be text, not a number"),
        (r#"["defaultTags","z"]"#, "must not contain the character U+0000"),
        (r#"["default_tags"]"#, "is not known; did you mean defaultTags?"),
        (r#"["lockedTags",1]"#, "must be text, not a number"),
        (r#"["lockedTags",2]"#, "must be text, not null"),
        (r#"["nam"]"#, "is not known"),
        (r#"["name"]"#, "is required"),
        (r#"["role"]"#, "must be one of agent, viewer, member, admin, owner"),
        (r#"["userId"]"#, "is given more than once"),
        (r#"["userId"]"#, "must be text, not true or false"),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn bodies_are_checked_from_outside_in() {
    let world = World::new();
    let keyed = || Request::post("/api/keys").header("x-nullspend-key", "member");
    let json = || keyed().header("content-type", "application/json; charset=utf-8");
    let got = world.send(keyed().header("content-type", "text/plain"), "{}").await;
    assert_eq!((got.status, &got.body["error"]["code"]), (415, &json!("unsupported_media_type")));
    for (body, word) in [("", "empty"), ("{", "EOF"), ("[1", "EOF"), ("\"\\ud800\"", "")] {
        let got = world.send(json(), body).await;
        assert_eq!((got.status, &got.body["error"]["code"]), (400, &json!("invalid_json")), "{body}");
        assert!(got.body["error"]["message"].as_str().unwrap().contains(word), "{}", got.body);
    }
    let got = world.send(json(), "[]").await;
    assert_eq!(issues(&got), [("[]".to_owned(), "must be an object, not an array".to_owned())]);
    let got = world.send(json().header("content-length", "1048577"), "{}").await;
    assert_eq!((got.status, &got.body["error"]["code"]), (413, &json!("payload_too_large")));
    let got = world.send(json(), " ".repeat(1_048_577)).await;
    assert_eq!(got.status, 413);
    let got = world.send(json(), format!("{{\"x\":{}1{}}}", "[".repeat(50), "]".repeat(50))).await;
    assert!(
        got.body["error"]["message"].as_str().unwrap().contains("nested deeper than 32 levels"),
        "{}",
        got.body
    );
}

#[tokio::test]
async fn null_clears_where_the_request_can_say_so() {
    let world = World::new();
    let body = r#"{"allowedModels":null,"allowedProviders":["openai"],"defaultTags":{"a":"1"},"id":"other"}"#;
    let got = world.call("admin", "PATCH", "/api/keys/k%201", body).await;
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(got.body, json!({ "data": null }));
    let updated = std::mem::take(&mut *world.keys.updated.lock().unwrap());
    assert_eq!(updated[0].id, "k 1", "the path wins");
    assert_eq!(updated[0].clear, ["allowedModels"]);
    assert_eq!(updated[0].allowed_models, None);
    assert_eq!(updated[0].allowed_providers.as_ref().unwrap().values, ["openai"]);
    assert_eq!(updated[0].default_tags.as_ref().unwrap().values.len(), 1);
    assert_eq!(updated[0].locked_tags, None);
    let got = world.call("admin", "PATCH", "/api/keys/k1", r#"{"clear":["name"]}"#).await;
    assert_eq!(issues(&got), [(r#"["clear"]"#.to_owned(), "is not known".to_owned())]);
}

#[tokio::test]
async fn queries_are_typed_and_strict() {
    let world = World::new();
    let cursor = r#"%7B%22createdAt%22:%222026-04-12T09:00:00.000Z%22,%22id%22:%22k%22%7D"#;
    let got = world.call("viewer", "GET", &format!("/api/keys?limit=7&cursor={cursor}"), "").await;
    assert_eq!((got.status, &got.body), (206, &json!({"data":[],"cursor":null})));
    assert!(!got.headers.contains_key("x-http-status") && !got.headers.contains_key("grpc-status"));
    let listed = world.keys.listed.lock().unwrap().remove(0);
    assert_eq!(listed.limit, Some(7));
    let cursor = listed.cursor.unwrap();
    assert_eq!((cursor.id.as_str(), cursor.created_at.unwrap().seconds), ("k", 1_775_984_400));
    let got = world.call("viewer", "GET", "/api/keys?limit=x&page=2&cursor=abc", "").await;
    let got = issues(&got);
    assert!(got[0].0 == r#"["cursor"]"# && got[0].1.starts_with("must be a JSON object"), "{got:?}");
    assert_eq!(got[1], (r#"["limit"]"#.to_owned(), "must be a whole number, not text".to_owned()));
    assert_eq!(got[2], (r#"["page"]"#.to_owned(), "is not a parameter of this method".to_owned()));
    let got = world.call("viewer", "GET", "/api/keys?limit=1&limit=2&cursor=%7B%22id%22:3%7D", "").await;
    let got = issues(&got);
    assert_eq!(got[0], (r#"["cursor","id"]"#.to_owned(), "must be text, not a number".to_owned()));
    assert_eq!(got[1], (r#"["limit"]"#.to_owned(), "is given more than once".to_owned()));
}

#[tokio::test]
async fn failures_of_services_tell_what_they_should() {
    let world = World::new();
    let got = world.call("member", "POST", "/api/keys", r#"{"name":"taken"}"#).await;
    assert_eq!(got.status, 409);
    assert_eq!(got.body, json!({"error":{"code":"limit_exceeded","message":"taken","details":null}}));
    let got = world.call("admin", "DELETE", "/api/keys/k", "").await;
    assert_eq!((got.status, &got.body["error"]["code"]), (500, &json!("internal_error")));
    assert!(!got.body.to_string().contains("secret inside"));
    // A method of the API that this stack does not have.
    let got = world.call("viewer", "GET", "/api/budgets", "").await;
    assert_eq!(got.status, StatusCode::NOT_IMPLEMENTED.as_u16());
}

#[tokio::test]
async fn repeats_get_the_first_answer() {
    let world = World::new();
    let send = |key: &'static str, body: &'static str| {
        let request =
            Request::patch("/api/keys/k").header("x-nullspend-key", "admin").header("idempotency-key", key);
        world.send(request.header("content-type", "application/json"), body)
    };
    let first = send("a", r#"{"name":"x","defaultTags":{"1":"1","2":"2","3":"3"}}"#).await;
    assert!(!first.headers.contains_key("x-idempotent-replayed"));
    for _ in 0..4 {
        // The order of a map's entries is no difference.
        let again = send("a", r#"{"defaultTags":{"3":"3","2":"2","1":"1"},"name":"x"}"#).await;
        assert_eq!((again.status, &again.body), (200, &first.body));
        assert_eq!(again.headers["x-idempotent-replayed"], "true");
    }
    assert_eq!(world.keys.updated.lock().unwrap().len(), 1);
    let other = send("a", r#"{"name":"y"}"#).await;
    assert_eq!((other.status, &other.body["error"]["code"]), (409, &json!("conflict")));
    assert_eq!(send("b", r#"{"name":"y"}"#).await.body["data"]["id"], "change-2");
    // Failures are not remembered.
    assert_eq!(send("c", r#"{"name":"taken"}"#).await.status, 409);
    assert_eq!(send("c", r#"{"name":"free"}"#).await.status, 200);
    let long: &'static str = Box::leak("k".repeat(256).into_boxed_str());
    assert_eq!(send(long, r#"{"name":"z"}"#).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_waits_for_the_first_call_and_a_client_that_leaves_loses_nothing() {
    let world = World::new();
    let send = || {
        let request =
            Request::patch("/api/keys/k").header("x-nullspend-key", "admin").header("idempotency-key", "a");
        world.send(request.header("content-type", "application/json"), r#"{"name":"slow"}"#)
    };
    let mut first = Box::pin(send());
    tokio::select! {
        _ = &mut first => panic!("the first call must still run"),
        () = world.keys.entered.notified() => {}
    }
    let repeat = send().await;
    assert_eq!((repeat.status, &repeat.body["error"]["code"]), (503, &json!("request_in_progress")));
    assert_eq!(repeat.headers["retry-after"], "1");
    // The first client leaves; its call goes on.
    drop(first);
    world.keys.go_on.notify_one();
    let repeat = send().await;
    assert_eq!((repeat.status, &repeat.body["data"]["id"]), (200, &json!("change-1")));
    assert_eq!(repeat.headers["x-idempotent-replayed"], "true");
}

#[tokio::test]
async fn answers_with_secrets_are_never_remembered() {
    let world = World::new();
    let send = || {
        let request =
            Request::post("/api/keys").header("x-nullspend-key", "member").header("idempotency-key", "a");
        world.send(request.header("content-type", "application/json"), r#"{"name":"x"}"#)
    };
    assert_eq!(send().await.status, 201);
    let repeat = send().await;
    assert_eq!((repeat.status, &repeat.body["error"]["code"]), (409, &json!("conflict")));
    assert_eq!(world.keys.created.lock().unwrap().len(), 1);
    let remembered: Vec<_> =
        world.answers.0.lock().unwrap().values().map(|(_, answer)| answer.clone()).collect();
    assert!(remembered[0].as_ref().unwrap().message.is_empty());
}
