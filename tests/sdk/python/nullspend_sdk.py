"""The published `nullspend` client 0.4.0, which knows nothing of this server, against it."""

import os
import uuid

import httpx
from nullspend import (
    CostBreakdown,
    CostEventInput,
    CostReportingConfig,
    ListCostEventsOptions,
    NullSpend,
    NullSpendError,
)
from nullspend.errors import BudgetExceededError

from common import CREDENTIAL, KEY, URL, raises, run

PROVIDER = os.environ["E2E_PROVIDER"]
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello [[fake tokens=100 cached=2]]"}]}


def client(key=KEY, **settings):
    return NullSpend(base_url=URL, api_key=key, **settings)


def event(cost=1500, **more):
    return CostEventInput(
        provider="openai", model="gpt-4o", input_tokens=400, output_tokens=50, cost_microdollars=cost, **more
    )


def report_cost():
    with client() as nullspend:
        session = f"ses_{uuid.uuid4()}"
        made = nullspend.report_cost(
            event(
                cached_input_tokens=100,
                cost_breakdown=CostBreakdown(input=750, output=500, cached=250),
                duration_ms=12,
                session_id=session,
                trace_id=uuid.uuid4().hex,
                event_type="llm",
                tags={"team": "a", "_ns_unpriced": "true"},
                customer="acme",
                source="sdk",
            )
        )
        assert made["data"]["id"].startswith("ns_evt_") and made["data"]["createdAt"].endswith("Z"), made
        found = [one for one in everything(nullspend) if one.session_id == session]
        assert len(found) == 1, found
        assert (found[0].cost_microdollars, found[0].customer_id, found[0].tags["team"]) == (1500, "acme", "a")
        assert found[0].cost_breakdown["cached"] == 250


def report_cost_batch():
    with client() as nullspend:
        answer = nullspend.report_cost_batch([event(cost) for cost in range(1, 101)])
        assert answer["inserted"] == 100 and len(set(answer["ids"])) == 100, answer
        error = raises(NullSpendError, lambda: nullspend.report_cost(event(-1)))
        assert error.status_code == 400, error


def check_budget():
    with client() as nullspend:
        before = nullspend.check_budget().entities[0]
        assert before.entity_type == "api_key" and before.policy == "strict_block", before
        nullspend.report_cost(event(2500))
        after = nullspend.check_budget().entities[0]
        assert after.spend_microdollars == before.spend_microdollars + 2500
        assert after.remaining_microdollars == before.remaining_microdollars - 2500


def list_budgets():
    with client() as nullspend:
        budgets = nullspend.list_budgets().data
        assert budgets and all(budget.id.startswith("ns_bgt_") for budget in budgets)
        assert budgets[0].threshold_percentages == [50, 80, 90, 95], budgets[0]


def everything(nullspend, limit=7):
    """Every event, by way of the cursor."""
    found, cursor = [], None
    while True:
        page = nullspend.list_cost_events(ListCostEventsOptions(limit=limit, cursor=cursor))
        found += page.data
        cursor = page.cursor
        if cursor is None:
            return found


def list_cost_events_with_cursor():
    with client() as nullspend:
        for cost in range(20):
            nullspend.report_cost(event(cost))
        found = everything(nullspend)
        assert len(found) >= 20 and len({one.id for one in found}) == len(found)
        moments = [one.created_at for one in found]
        assert moments == sorted(moments, reverse=True)


def tracked_client_proxied():
    with client(proxy_url=URL) as nullspend:
        http = nullspend.create_tracked_client(
            "openai", customer="acme", tags={"team": "b"}, trace_id="0af7651916cd43dd8448eb211c80319c"
        )
        answer = http.post(
            f"{URL}/v1/chat/completions", json=CHAT, headers={"Authorization": f"Bearer {CREDENTIAL}"}
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-nullspend-trace-id"] == "0af7651916cd43dd8448eb211c80319c"
        assert '"customer":"acme"' in answer.headers["x-nullspend-effective-tags"].replace(" ", "")


def tracked_client_denied():
    with client(os.environ["E2E_POOR_KEY"], proxy_url=URL) as nullspend:
        http = nullspend.create_tracked_client("openai", enforcement=True)
        send = lambda: http.post(
            f"{URL}/v1/chat/completions", json=CHAT, headers={"Authorization": f"Bearer {CREDENTIAL}"}
        )
        error = raises(BudgetExceededError, send)
        assert error.remaining_microdollars == 1 and error.limit_microdollars == 1, vars(error)


def tracked_client_direct():
    """Direct: the call goes to the provider, and the client reports its cost afterwards."""
    with client(cost_reporting=CostReportingConfig(batch_size=1)) as nullspend:
        session = f"ses_{uuid.uuid4()}"
        http = nullspend.create_tracked_client("openai", session_id=session, tags={"team": "c"}, customer="acme")
        answer = http.post(
            f"{PROVIDER}/v1/chat/completions", json=CHAT, headers={"Authorization": f"Bearer {CREDENTIAL}"}
        )
        usage = answer.json()["usage"]
        nullspend.flush()
        found = [one for one in everything(nullspend, 100) if one.session_id == session]
        assert len(found) == 1, found
        fresh = usage["prompt_tokens"] - 2
        assert found[0].cost_microdollars == round(fresh * 2.5 + 2 * 1.25 + 100 * 10), found[0]
        assert (found[0].customer_id, found[0].tags["team"]) == ("acme", "c")


def a_repeated_batch_is_recorded_once():
    """What the client's own retries do: the same Idempotency-Key again."""
    body = {"events": [{
        "provider": "openai", "model": "gpt-4o", "inputTokens": 1, "outputTokens": 1, "costMicrodollars": 7,
    }] * 3}
    headers = {"X-NullSpend-Key": KEY, "Idempotency-Key": f"ns_{uuid.uuid4()}"}
    first = httpx.post(f"{URL}/api/cost-events/batch", json=body, headers=headers)
    second = httpx.post(f"{URL}/api/cost-events/batch", json=body, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201), (first.text, second.text)
    assert first.json() == second.json() and first.json()["inserted"] == 3
    assert second.headers["x-idempotent-replayed"] == "true"


run([
    report_cost,
    report_cost_batch,
    check_budget,
    list_budgets,
    list_cost_events_with_cursor,
    tracked_client_proxied,
    tracked_client_denied,
    tracked_client_direct,
    a_repeated_batch_is_recorded_once,
])
