// The official `@anthropic-ai/sdk` package, unmodified, through the ingress.
import assert from "node:assert/strict";

import { CREDENTIAL, KEY, POOR_KEY, TAP, URL, load, raises, run } from "./common.mjs";

const { default: Anthropic, RateLimitError, InternalServerError } = await load("@anthropic-ai/sdk");

const model = "claude-haiku-4-5";
const messages = [{ role: "user", content: "say a few words [[fake tokens=12 chunks=6]]" }];
const input_schema = { type: "object", properties: { query: { type: "string" } }, required: ["query"] };
const tools = [{ name: "lookup", description: "Looks something up", input_schema }];
const words = Array(12).fill("word").join(" ");

function client(settings = {}) {
  const { key = KEY, ...rest } = settings;
  return new Anthropic({ apiKey: CREDENTIAL, baseURL: URL, defaultHeaders: { "X-NullSpend-Key": key }, ...rest });
}

const message = (more = {}, via = client()) => via.messages.create({ model, max_tokens: 100, messages, ...more });

async function plain() {
  const answer = await message();
  assert.equal(answer.content[0].text, words);
  assert.equal(answer.usage.output_tokens, 12);
}

async function baseUrlWithV1() {
  assert.equal((await message({}, client({ baseURL: `${URL}/v1` }))).usage.output_tokens, 12);
}

async function stream() {
  const headers = { "X-NullSpend-Stream-Cost": "1" };
  const events = client().messages.stream({ model, max_tokens: 100, messages }, { headers });
  assert.equal(await events.finalText(), words);
  assert.equal((await events.finalMessage()).usage.output_tokens, 12);
}

async function toolCall() {
  const answer = await message({ tools });
  assert.equal(answer.content[0].name, "lookup");
  const events = client().messages.stream({ model, max_tokens: 100, messages, tools });
  assert.equal((await events.finalMessage()).content[0].input.query, words);
}

async function providerError() {
  const via = client({ maxRetries: 0 });
  const failing = (status) => ({ messages: [{ role: "user", content: `[[fake status=${status}]]` }] });
  const overloaded = await raises(InternalServerError, () => message(failing(529), via));
  assert.equal(overloaded.error.error.type, "overloaded_error");
  await raises(RateLimitError, () => message(failing(429), via));
}

// With the SDK's usual retries: the caller counts what arrives.
async function denial() {
  const error = await raises(RateLimitError, () => message({}, client({ key: POOR_KEY, baseURL: TAP })));
  assert.equal(error.error.error.code, "budget_exceeded");
  assert.equal(error.headers.get("x-nullspend-denied"), "1");
}

async function bigBody() {
  const answer = await message({ messages: [{ role: "user", content: "x".repeat(20 * 1024 * 1024) }] });
  assert.equal(answer.usage.input_tokens, 7);
}

// A budget ends the stream in the middle: the SDK reads the valid end of an answer that reached its limit.
async function cutHelper() {
  const long = [{ role: "user", content: "hello [[fake tokens=3000 chunks=3000 gate=never gate_at=2600]]" }];
  const answer = await client().messages.stream({ model, max_tokens: 32000, messages: long }).finalMessage();
  assert.equal(answer.stop_reason, "max_tokens");
  assert.ok(answer.content[0].text.startsWith("word word"));
}

await run(process.env.E2E_CUT ? [cutHelper] : [plain, baseUrlWithV1, stream, toolCall, providerError, denial, bigBody]);
