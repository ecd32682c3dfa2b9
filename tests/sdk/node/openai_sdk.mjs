// The official `openai` package, unmodified, through the ingress.
import assert from "node:assert/strict";

import { CREDENTIAL, KEY, POOR_KEY, TAP, URL, load, raises, run } from "./common.mjs";

const { default: OpenAI, RateLimitError, InternalServerError, BadRequestError } = await load("openai");

const messages = [{ role: "user", content: "say a few words [[fake tokens=12 chunks=6]]" }];
const parameters = { type: "object", properties: { query: { type: "string" } }, required: ["query"] };
const tools = [{ type: "function", function: { name: "lookup", description: "Looks something up", parameters } }];
const words = Array(12).fill("word").join(" ");

function client(settings = {}) {
  const { key = KEY, ...rest } = settings;
  const defaultHeaders = { "X-NullSpend-Key": key };
  return new OpenAI({ apiKey: CREDENTIAL, baseURL: `${URL}/v1`, defaultHeaders, ...rest });
}

const chat = (more = {}, via = client()) => via.chat.completions.create({ model: "gpt-4o-mini", messages, ...more });

async function plain() {
  const answer = await chat({ max_tokens: 50 });
  assert.equal(answer.choices[0].message.content, words);
  assert.equal(answer.usage.completion_tokens, 12);
}

async function stream() {
  let text = "";
  for await (const chunk of await chat({ stream: true })) {
    assert.equal(chunk.usage ?? null, null, "usage that this client did not ask for");
    text += chunk.choices[0].delta.content ?? "";
  }
  assert.equal(text, words);
  const chunks = [];
  for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) chunks.push(chunk);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 12);
}

// A comment after the last event: nothing for this SDK.
async function streamWithItsCost() {
  const headers = { "X-NullSpend-Stream-Cost": "1" };
  let text = "";
  for await (const chunk of await client().chat.completions.create(
    { model: "gpt-4o-mini", messages, stream: true },
    { headers },
  )) {
    text += chunk.choices[0].delta.content ?? "";
  }
  assert.equal(text, words);
}

async function toolCall() {
  const answer = await chat({ tools });
  assert.equal(answer.choices[0].message.tool_calls[0].function.name, "lookup");
  let given = "";
  for await (const chunk of await chat({ tools, stream: true })) {
    given += chunk.choices[0].delta.tool_calls?.[0]?.function?.arguments ?? "";
  }
  assert.equal(JSON.parse(given).query, words);
}

async function responses() {
  const request = { model: "gpt-4o-mini", input: "hello [[fake tokens=12]]" };
  assert.equal((await client().responses.create(request)).output_text, words);
  let last;
  for await (const event of await client().responses.create({ ...request, stream: true })) last = event;
  assert.equal(last.type, "response.completed");
}

async function providerError() {
  const via = client({ maxRetries: 0 });
  const failing = (status) => ({ messages: [{ role: "user", content: `[[fake status=${status}]]` }] });
  const limited = await raises(RateLimitError, () => chat(failing(429), via));
  assert.equal(limited.error.message, "The fake provider was asked to fail.");
  await raises(InternalServerError, () => chat({ ...failing(500), stream: true }, via));
  await raises(BadRequestError, () => chat({ max_tokens: -1 }, via));
}

// With the SDK's usual retries: the caller counts what arrives.
async function denial() {
  const error = await raises(RateLimitError, () => chat({}, client({ key: POOR_KEY, baseURL: `${TAP}/v1` })));
  assert.equal(error.code, "budget_exceeded");
  assert.equal(error.headers.get("x-nullspend-denied"), "1");
}

async function bigBody() {
  const answer = await chat({ messages: [{ role: "user", content: "x".repeat(20 * 1024 * 1024) }], max_tokens: 10 });
  assert.equal(answer.usage.prompt_tokens, 7);
}

// A budget ends the stream in the middle: the SDK reads the valid end of an answer that reached its limit.
const long = "hello [[fake tokens=3000 chunks=3000 gate=never gate_at=2600]]";

async function cutChat() {
  const request = { model: "gpt-4o-mini", messages: [{ role: "user", content: long }] };
  const answer = await client().chat.completions.stream(request).finalChatCompletion();
  assert.equal(answer.choices[0].finish_reason, "length");
}

async function cutResponses() {
  let last;
  for await (const event of await client().responses.create({ model: "gpt-4o-mini", input: long, stream: true })) {
    last = event;
  }
  assert.equal(last.type, "response.incomplete");
  assert.equal(last.response.incomplete_details.reason, "max_output_tokens");
}

const cuts = [cutChat, cutResponses];
await run(process.env.E2E_CUT ? cuts : [plain, stream, streamWithItsCost, toolCall, responses, providerError, denial, bigBody]);
