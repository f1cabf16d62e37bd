// Redlock works: a lock on three nodes keeps eight clerks from overwriting each other's changes, expires, is extended, and needs
// a majority. The nodes are three databases of one server.
//
// Usage: node redlock.js HOST PORT, with NODE_PATH set to the folder that contains redlock and ioredis. Empties the server.
// Exits with status 0 if all results are as computed.
"use strict";

const assert = require("node:assert/strict");
const { setTimeout } = require("node:timers/promises");
const Redis = require("ioredis");
const { default: Redlock, ExecutionError, ResourceLockedError } = require("redlock");

const PATIENCE_MS = 30_000;
const [host, port] = [process.argv[2], Number(process.argv[3])];

/** Runs `work` with the lock. A loser must release its votes before it retries, which Redlock's own retries don't do. */
async function locked(redlock, key, work) {
  for (;;) {
    const lock = await redlock.acquire([key], 10_000).catch((error) => assert.ok(error instanceof ExecutionError, error));
    if (lock) {
      await work();
      return lock.release();
    }
    await setTimeout(10 * Math.random());
  }
}

/** Checks at least two of the three nodes: Redlock does not wait for the third. */
async function most(nodes, check) {
  const answers = await Promise.all(nodes.map(check));
  assert.ok(answers.filter((answer) => answer).length >= 2, `on the nodes: ${answers}`);
}

async function exclusion({ nodes, once, store }) {
  await store.set("balance", 0);
  let inside = 0;
  const clerk = async (amount) => {
    for (let round = 0; round < 5; round++) {
      await locked(once, "account", async () => {
        assert.equal(++inside, 1, "two clerks hold the lock");
        const balance = Number(await store.get("balance"));
        await store.set("balance", balance + amount);
        inside--;
      });
    }
  };
  await Promise.all(Array.from({ length: 8 }, (_, amount) => clerk(amount)));
  assert.equal(await store.get("balance"), String((5 * 8 * 7) / 2));
  for (const node of nodes) assert.equal(await node.exists("account"), 0, "the lock is released on all nodes");
}

async function several({ nodes, redlock, once }) {
  assert.equal(await redlock.using(["left"], 5_000, () => redlock.using(["right"], 5_000, async () => 42)), 42);
  const both = await redlock.acquire(["left", "right"], 5_000);
  for (const key of ["left", "right"]) await most(nodes, async (node) => (await node.get(key)) === both.value);
  await assert.rejects(once.acquire(["right", "other"], 5_000), ExecutionError);
  for (const node of nodes) assert.equal(await node.exists("other"), 0, "either all keys are locked or none");
  await both.release();
  const right = await once.acquire(["right", "other"], 5_000);
  await right.release();
}

async function extension({ nodes, redlock, once }) {
  let lock = await redlock.acquire(["short"], 200);
  assert.ok((await nodes[0].pttl("short")) <= 200);
  lock = await lock.extend(60_000);
  await most(nodes, async (node) => (await node.pttl("short")) > 50_000);
  await assert.rejects(once.acquire(["short"], 100), ExecutionError);
  await lock.release();
  // An expired lock belongs to the client that takes it next; its first owner can no longer change it.
  const first = await once.acquire(["brief"], 30);
  const second = await redlock.acquire(["brief"], 60_000);
  await assert.rejects(first.extend(60_000));
  await assert.rejects(first.release(), ExecutionError);
  await most(nodes, async (node) => (await node.get("brief")) === second.value);
  await second.release();
}

async function majority({ nodes, once }) {
  await nodes[0].set("vote", "someone else");
  const lock = await once.acquire(["vote"], 5_000);
  assert.equal(await nodes[0].get("vote"), "someone else");
  await lock.release();
  await nodes[1].set("vote", "someone else");
  const refusal = await once.acquire(["vote"], 5_000).catch((error) => error);
  assert.ok(refusal instanceof ExecutionError);
  const [attempt] = await Promise.all(refusal.attempts);
  assert.equal(attempt.votesAgainst.size, 2);
  for (const error of attempt.votesAgainst.values()) assert.ok(error instanceof ResourceLockedError, String(error));
  assert.equal(await nodes[2].exists("vote"), 0);
}

async function main() {
  const nodes = [1, 2, 3].map((db) => new Redis({ host, port, db }));
  const store = new Redis({ host, port });
  await store.flushall();
  const all = {
    nodes,
    store,
    redlock: new Redlock(nodes, { retryCount: 1000, retryDelay: 5, retryJitter: 5 }),
    once: new Redlock(nodes, { retryCount: 0 }),
  };
  for (const check of [exclusion, several, extension, majority]) {
    const start = Date.now();
    await check(all);
    console.log(`Redlock: ${check.name}, ${Date.now() - start} ms`);
  }
  await Promise.all([store, ...nodes].map((client) => client.quit()));
}

setTimeout(PATIENCE_MS, null, { ref: false }).then(() => {
  console.error(`not done after ${PATIENCE_MS} ms`);
  process.exit(1);
});
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
