//! gRPC through the same entrance: what grpcurl does, done with its own protocol.

use nullspend_e2e::stack::Stack;
use nullspend_proto::v1::{
    GetHealthRequest, ListBudgetsRequest, budget_service_client::BudgetServiceClient,
    health_service_client::HealthServiceClient,
};
use tonic::{Code, Request, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

async fn channel(stack: &Stack) -> Channel {
    Channel::from_shared(stack.url.clone()).expect("a URL").connect().await.expect("connects")
}

#[tokio::test]
async fn reflection_lists_the_public_services_only() {
    let stack = Stack::start().await;
    let mut client = ServerReflectionClient::new(channel(&stack).await);
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("nullspend.v1.BudgetService".to_owned())),
    ];
    let mut answers =
        client.server_reflection_info(tokio_stream::iter(requests)).await.expect("reflection").into_inner();
    let mut next = async || answers.message().await.expect("an answer").expect("one more").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = next().await else { panic!("no list") };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for wanted in [
        "nullspend.v1.KeyService",
        "nullspend.v1.BudgetService",
        "nullspend.v1.CostEventService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&wanted), "{wanted}: {names:?}");
    }
    assert!(names.iter().all(|name| !name.contains("internal")), "{names:?}");
    assert!(matches!(next().await, Some(MessageResponse::FileDescriptorResponse(_))));
}

#[tokio::test]
async fn a_unary_call_needs_a_key_and_answers_as_rest_does() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let made = stack.limit_key(&agent, 1_000_000).await;
    let channel = channel(&stack).await;
    let health =
        HealthServiceClient::new(channel.clone()).get_health(GetHealthRequest {}).await.expect("public");
    assert_eq!(health.into_inner().status, "ok");

    let mut budgets = BudgetServiceClient::new(channel);
    let nobody = budgets.list_budgets(ListBudgetsRequest {}).await.expect_err("no key");
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let mut request = Request::new(ListBudgetsRequest {});
    request.metadata_mut().insert("x-nullspend-key", stack.owner.parse().expect("a header value"));
    let listed = budgets.list_budgets(request).await.expect("with a key").into_inner().data;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id, made["id"].as_str().expect("an id"));
    assert_eq!(listed[0].max_budget_microdollars, 1_000_000);
}
