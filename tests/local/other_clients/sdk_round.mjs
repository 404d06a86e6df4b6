// SPDX-License-Identifier: Apache-2.0
// The official SDK for TypeScript, run by tests/local/test_other_clients.py; its address is in the environment.
import assert from "node:assert";
import Cloudflare, { toFile } from "cloudflare";

const account_id = process.env.CLOUDFLARE_ACCOUNT_ID;
const { indexes } = new Cloudflare({ apiToken: process.env.CLOUDFLARE_API_TOKEN }).vectorize;
const values = Array(32).fill(0.5);

async function applied({ mutationId }) {
  for (let i = 0; i < 600; i++) {
    if ((await indexes.info("sdk", { account_id })).processedUpToMutation === mutationId) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`${mutationId} was not applied`);
}

await indexes.create({ account_id, name: "sdk", config: { dimensions: 32, metric: "cosine" } });
const lines = ["a", "b"].map((id) => JSON.stringify({ id, values })).join("\n");
const ndjson = { headers: { "content-type": "application/x-ndjson" } };
await applied(await indexes.upsert("sdk", { account_id, body: await toFile(Buffer.from(lines), "v.ndjson") }, ndjson));
const found = await indexes.query("sdk", { account_id, vector: values, topK: 5 });
assert.deepEqual(found.matches.map(({ id }) => id), ["a", "b"]);
await applied(await indexes.deleteByIDs("sdk", { account_id, ids: ["a"] }));
assert.deepEqual((await indexes.getByIDs("sdk", { account_id, ids: ["a", "b"] })).map(({ id }) => id), ["b"]);
await indexes.delete("sdk", { account_id });
