// What the SDK programs share. The packages are found in NULLSPEND_TEST_NODE_MODULES, since they are installed outside
// of the source tree.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

export const { E2E_URL: URL, E2E_KEY: KEY, E2E_POOR_KEY: POOR_KEY, E2E_TAP: TAP } = process.env;
export const CREDENTIAL = "sk-provider-credential";

/** Imports a package as a user's program would. */
export async function load(name) {
  const from = createRequire(path.join(process.env.NULLSPEND_TEST_NODE_MODULES, "..", "package.json"));
  return import(pathToFileURL(from.resolve(name)));
}

/** Runs every scenario (or those that the arguments name), all of them even when one fails, and ends with a status that says so. */
export async function run(scenarios) {
  const wanted = process.argv.slice(2);
  for (const scenario of scenarios) {
    if (wanted.length > 0 && !wanted.includes(scenario.name)) continue;
    try {
      await scenario();
      console.log(`ok ${scenario.name}`);
    } catch (error) {
      process.exitCode = 1;
      console.log(`FAILED ${scenario.name}\n${error.stack}`);
    }
  }
}

/** Awaits a call that must fail with `kind`, and returns the error. */
export async function raises(kind, call) {
  let result;
  try {
    result = await call();
  } catch (error) {
    assert.ok(error instanceof kind, `not a ${kind.name}: ${error.stack}`);
    return error;
  }
  assert.fail(`no ${kind.name} but ${JSON.stringify(result)}`);
}
