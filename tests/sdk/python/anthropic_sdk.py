"""The official `anthropic` package, unmodified, through the ingress."""

import os

import anthropic
import httpx2

from common import CREDENTIAL, KEY, URL, raises, run

MESSAGES = [{"role": "user", "content": "say a few words [[fake tokens=12 chunks=6]]"}]
TOOLS = [{
    "name": "lookup",
    "description": "Looks something up",
    "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}]


def client(key=KEY, **settings):
    settings.setdefault("base_url", URL)
    return anthropic.Anthropic(api_key=CREDENTIAL, default_headers={"X-NullSpend-Key": key}, **settings)


def message(messages=MESSAGES, via=None, **settings):
    settings.setdefault("max_tokens", 100)
    return (via or client()).messages.create(model="claude-haiku-4-5", messages=messages, **settings)


def plain():
    answer = message()
    assert answer.content[0].text.split() == ["word"] * 12, answer
    assert answer.usage.output_tokens == 12 and answer.stop_reason == "end_turn"


def base_url_with_v1():
    """Guides of similar products tell users to end the base URL in /v1; the SDK then asks for /v1/v1/messages."""
    assert message(via=client(base_url=f"{URL}/v1")).usage.output_tokens == 12


def stream():
    with client().messages.stream(model="claude-haiku-4-5", max_tokens=100, messages=MESSAGES) as events:
        assert events.get_final_text().split() == ["word"] * 12
        assert events.get_final_message().usage.output_tokens == 12
    kinds = [event.type for event in message(stream=True, extra_headers={"X-NullSpend-Stream-Cost": "1"})]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds


def tool_call():
    answer = message(tools=TOOLS)
    assert answer.stop_reason == "tool_use" and answer.content[0].name == "lookup", answer
    with client().messages.stream(
        model="claude-haiku-4-5", max_tokens=100, messages=MESSAGES, tools=TOOLS
    ) as events:
        assert "query" in events.get_final_message().content[0].input


def provider_error():
    once = client(max_retries=0)
    failing = [{"role": "user", "content": "[[fake status=529]]"}]
    error = raises(anthropic.InternalServerError, lambda: message(failing, once))
    assert error.body["error"]["type"] == "overloaded_error", error.body
    failing = [{"role": "user", "content": "[[fake status=429]]"}]
    error = raises(anthropic.RateLimitError, lambda: message(failing, once))
    assert error.body["error"]["message"] == "The fake provider was asked to fail.", error.body
    raises(anthropic.BadRequestError, lambda: message(via=once, max_tokens=-1))


def denial():
    """With the SDK's usual retries: the caller counts what arrives."""
    poor = client(os.environ["E2E_POOR_KEY"], base_url=os.environ["E2E_TAP"])
    error = raises(anthropic.RateLimitError, lambda: message(via=poor))
    assert error.status_code == 429 and error.body["error"]["code"] == "budget_exceeded", error.body
    assert error.body["type"] == "error" and error.body["error"]["type"], error.body
    assert error.response.headers["x-nullspend-denied"] == "1"


def big_body():
    answer = message([{"role": "user", "content": "x" * (20 * 1024 * 1024)}], max_tokens=10)
    assert answer.usage.input_tokens == 7


def http2():
    with httpx2.Client(http1=False, http2=True) as transport:
        raw = client(http_client=transport).messages.with_raw_response.create(
            model="claude-haiku-4-5", max_tokens=100, messages=MESSAGES
        )
        assert raw.http_response.http_version == "HTTP/2"


# A budget ends the stream in the middle: the SDK reads the valid end of an answer that reached its limit.
LONG = {"max_tokens": 32_000, "messages": [{"role": "user", "content": "hello [[fake tokens=3000 chunks=3000 gate=never gate_at=2600]]"}]}


def cut_helper():
    with client().messages.stream(model="claude-haiku-4-5", **LONG) as events:
        answer = events.get_final_message()
    assert answer.stop_reason == "max_tokens" and answer.content[0].text.startswith("word word"), answer
    assert answer.usage.output_tokens > 100, answer.usage


def cut_events():
    kinds = [event.type for event in message(stream=True, **LONG)]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds[-3:]


CUTS = [cut_helper, cut_events]
run(CUTS if "E2E_CUT" in os.environ else [plain, base_url_with_v1, stream, tool_call, provider_error, denial, big_body, http2])
