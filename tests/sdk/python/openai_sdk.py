"""The official `openai` package, unmodified, through the ingress."""

import os

import httpx
import openai

from common import CREDENTIAL, KEY, URL, raises, run

MESSAGES = [{"role": "user", "content": "say a few words [[fake tokens=12 chunks=6]]"}]
TOOL = {
    "name": "lookup",
    "description": "Looks something up",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}


def client(key=KEY, **settings):
    settings.setdefault("base_url", f"{URL}/v1")
    return openai.OpenAI(api_key=CREDENTIAL, default_headers={"X-NullSpend-Key": key}, **settings)


def chat(messages=MESSAGES, via=None, **settings):
    return (via or client()).chat.completions.create(model="gpt-4o-mini", messages=messages, **settings)


def plain():
    answer = chat(max_tokens=50)
    assert answer.choices[0].message.content.split() == ["word"] * 12, answer
    assert answer.usage.completion_tokens == 12
    assert answer._request_id


def stream_as_the_client_asked_for_it():
    chunks = list(chat(stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.split() == ["word"] * 12, text
    assert all(chunk.usage is None for chunk in chunks), "usage that this client did not ask for"
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12, chunks[-1]


def stream_with_its_cost():
    """A comment after the last event: nothing for this SDK, there for whoever reads the bytes."""
    told = {"X-NullSpend-Stream-Cost": "1"}
    chunks = list(chat(stream=True, extra_headers=told))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).split() == ["word"] * 12
    events = list(client().responses.create(model="gpt-4o-mini", input="hi", stream=True, extra_headers=told))
    assert events[-1].type == "response.completed"
    with client().chat.completions.with_streaming_response.create(
        model="gpt-4o-mini", messages=MESSAGES, stream=True, extra_headers=told
    ) as raw:
        last = raw.read().decode().strip().splitlines()[-1]
    assert last.startswith(': nullspend {"costMicrodollars":'), last


def tool_call():
    tools = [{"type": "function", "function": TOOL}]
    answer = chat(tools=tools)
    assert answer.choices[0].message.tool_calls[0].function.name == "lookup"
    arguments = ""
    for chunk in chat(tools=tools, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            arguments += call.function.arguments or ""
    assert arguments.startswith('{"query":') and arguments.endswith("}"), arguments


def responses():
    answer = client().responses.create(model="gpt-4o-mini", input="hello [[fake tokens=9]]")
    assert answer.output_text.split() == ["word"] * 9
    events = list(client().responses.create(model="gpt-4o-mini", input="hello [[fake tokens=9]]", stream=True))
    assert events[-1].type == "response.completed" and events[-1].response.usage.output_tokens == 9


def provider_error():
    once = client(max_retries=0)
    failing = [{"role": "user", "content": "[[fake status=429]]"}]
    error = raises(openai.RateLimitError, lambda: chat(failing, once))
    assert error.body["message"] == "The fake provider was asked to fail.", error.body
    assert error.response.headers.get("x-nullspend-denied") is None
    failing = [{"role": "user", "content": "[[fake status=500]]"}]
    raises(openai.InternalServerError, lambda: chat(failing, once, stream=True))
    raises(openai.BadRequestError, lambda: chat(via=once, max_tokens=-1))


def denial():
    """With the SDK's usual retries: the caller counts what arrives."""
    poor = client(os.environ["E2E_POOR_KEY"], base_url=f"{os.environ['E2E_TAP']}/v1")
    error = raises(openai.RateLimitError, lambda: chat(via=poor))
    assert error.status_code == 429 and error.code == "budget_exceeded", error.body
    assert error.response.headers["x-nullspend-denied"] == "1"
    assert error.body["details"]["remaining_microdollars"] == 1, error.body
    assert "budget" in str(error)


def big_body():
    answer = chat([{"role": "user", "content": "x" * (20 * 1024 * 1024)}], max_tokens=10)
    assert answer.usage.prompt_tokens == 7


def http2():
    with httpx.Client(http1=False, http2=True) as transport:
        raw = client(http_client=transport).chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=MESSAGES
        )
        assert raw.http_response.http_version == "HTTP/2"
        chunks = list(chat(via=client(http_client=transport), stream=True))
        assert len(chunks) > 6


# A budget ends the stream in the middle: the SDK reads the valid end of an answer that reached its limit.
LONG = "hello [[fake tokens=3000 chunks=3000 gate=never gate_at=2600]]"


def cut_chat():
    chunks = list(chat([{"role": "user", "content": LONG}], stream=True))
    assert chunks[-1].choices[0].finish_reason == "length", chunks[-1]
    assert len(chunks) > 100


def cut_responses():
    *_, last = client().responses.create(model="gpt-4o-mini", input=LONG, stream=True)
    assert last.type == "response.incomplete" and last.response.status == "incomplete", last
    assert last.response.incomplete_details.reason == "max_output_tokens", last
    assert last.response.output_text.startswith("word word"), last


def cut_responses_helper():
    with client().responses.stream(model="gpt-4o-mini", input=LONG) as events:
        assert [event.type for event in events][-1] == "response.incomplete"


CUTS = [cut_chat, cut_responses, cut_responses_helper]
run(CUTS if "E2E_CUT" in os.environ else [plain, stream_as_the_client_asked_for_it, stream_with_its_cost, tool_call, responses, provider_error, denial, big_body, http2])
