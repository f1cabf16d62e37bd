// Bull 4 works: jobs with delays, priorities, retries, repetition, rate limits and stalls, and their events, sent by PUBLISH.
//
// Usage: node bull.js HOST PORT, with NODE_PATH set to the folder that contains bull and ioredis. Empties the server.
// Exits with status 0 if all results are as computed.
"use strict";

const assert = require("node:assert/strict");
const { once } = require("node:events");
const Queue = require("bull");
const Redis = require("ioredis");

const PATIENCE_MS = 30_000;
const [host, port] = [process.argv[2], Number(process.argv[3])];
const opened = [];

function queue(name, options) {
  const made = new Queue(name, { redis: { host, port }, ...options });
  made.on("error", (error) => {
    console.error(error);
    process.exit(1);
  });
  opened.push(made);
  return made;
}

/** Resolves with the jobs once `count` of them have completed at this queue. */
function completed(at, count) {
  const jobs = [];
  return new Promise((resolve) => at.on("completed", (job) => jobs.push(job) === count && resolve(jobs)));
}

async function manyJobs() {
  const squares = queue("squares");
  const jobs = await squares.addBulk(Array.from({ length: 200 }, (_, number) => ({ data: { number } })));
  const helper = queue("squares");
  const seen = [];
  const work = async (job) => {
    seen.push(job.id);
    return job.data.number ** 2;
  };
  const both = Promise.all([squares, helper].map((each) => each.isReady()));
  const done = new Promise((resolve) => {
    let count = 0;
    for (const each of [squares, helper]) each.on("completed", () => ++count === 200 && resolve());
  });
  await both;
  squares.process(5, work);
  helper.process(5, work);
  await done;
  assert.equal(new Set(seen).size, 200);
  assert.equal(seen.length, 200, "each job runs once");
  const stored = await Promise.all(jobs.map((job) => squares.getJob(job.id)));
  assert.deepEqual(stored.map((job) => job.returnvalue), Array.from({ length: 200 }, (_, number) => number ** 2));
  const counts = await squares.getJobCounts();
  assert.deepEqual(counts, { waiting: 0, active: 0, completed: 200, failed: 0, delayed: 0, paused: 0 });
  assert.equal((await squares.clean(0, "completed", 50)).length, 50);
  assert.equal(await squares.getCompletedCount(), 150);
}

async function events() {
  const [heard, listener] = [queue("heard"), queue("heard")];
  await listener.isReady();
  const finished = new Promise((resolve) => listener.on("global:completed", (id, result) => resolve([id, result])));
  const progressed = new Promise((resolve) => listener.on("global:progress", (id, progress) => resolve(progress)));
  heard.process(async (job) => {
    await job.progress(50);
    if (job.data.fails) throw new Error("no");
    return { sum: job.data.left + job.data.right };
  });
  const job = await heard.add({ left: 20, right: 22 });
  assert.deepEqual(await job.finished(), { sum: 42 });
  assert.deepEqual(await finished, [String(job.id), '{"sum":42}']);
  assert.equal(Number(await progressed), 50);
  await assert.rejects((await heard.add({ fails: true })).finished(), /^Error: no$/);
}

async function order() {
  const ordered = queue("ordered");
  await ordered.pause();
  await ordered.add({ name: "3" }, { priority: 3 });
  await ordered.add({ name: "1" }, { priority: 1 });
  await ordered.add({ name: "last" }, { delay: 250 });
  await ordered.add({ name: "2" }, { priority: 2 });
  await ordered.add({ name: "0" }, { lifo: true });
  const names = [];
  const done = completed(ordered, 5);
  ordered.process(async (job) => void names.push(job.data.name));
  await ordered.resume();
  const jobs = await done;
  assert.deepEqual(names, ["0", "1", "2", "3", "last"]);
  assert.ok(jobs[4].processedOn >= jobs[4].timestamp + 250);
}

async function retries() {
  const shaky = queue("shaky");
  const done = completed(shaky, 1);
  const failures = [];
  const failed = new Promise((resolve) => {
    shaky.on("failed", (job, error) => failures.push(error.message) === 4 && resolve());
  });
  shaky.process(async (job) => {
    if (job.data.always || job.attemptsMade < 2) throw new Error(`${job.data.name} ${job.attemptsMade}`);
    return job.attemptsMade;
  });
  await shaky.add({ name: "a" }, { attempts: 3, backoff: { type: "exponential", delay: 10 } });
  const hopeless = await shaky.add({ name: "b", always: true }, { attempts: 2 });
  const [job] = await done;
  await failed;
  assert.equal(job.returnvalue, 2);
  assert.deepEqual(failures.sort(), ["a 0", "a 1", "b 0", "b 1"]);
  assert.ok(await hopeless.isFailed());
  assert.equal((await shaky.getFailed())[0].failedReason, "b 1");
}

async function repetition() {
  const clock = queue("clock");
  const done = completed(clock, 3);
  clock.process(async (job) => job.data.tick);
  await clock.add({ tick: 7 }, { repeat: { every: 60, limit: 3 } });
  await clock.add({ tick: 1 }, { repeat: { cron: "0 0 1 1 *" } });
  const jobs = await done;
  assert.deepEqual(jobs.map((job) => job.returnvalue), [7, 7, 7]);
  await clock.removeRepeatable({ cron: "0 0 1 1 *" });
  assert.deepEqual((await clock.getRepeatableJobs()).filter((each) => each.cron === "0 0 1 1 *"), []);
}

async function limits() {
  const slow = queue("slow", { limiter: { max: 2, duration: 120 } });
  await slow.addBulk(Array.from({ length: 6 }, (_, number) => ({ data: { number } })));
  const done = completed(slow, 6);
  slow.process(6, async (job) => job.data.number);
  const jobs = await done;
  const starts = jobs.map((job) => job.processedOn).sort((left, right) => left - right);
  assert.ok(starts[5] - starts[0] >= 200, `six jobs within ${starts[5] - starts[0]} ms`);
  assert.deepEqual(jobs.map((job) => job.data.number).sort(), [0, 1, 2, 3, 4, 5]);
}

async function stalled() {
  // A worker takes a job and dies, so its lock expires.
  const dead = queue("fragile", { settings: { lockDuration: 50, lockRenewTime: 1_000_000, stalledInterval: 0 } });
  const job = await dead.add({ number: 5 });
  assert.equal((await dead.getNextJob()).id, job.id);
  assert.ok(await job.isActive());
  const heir = queue("fragile", { settings: { stalledInterval: 40 } });
  const [found, done] = [once(heir, "stalled"), completed(heir, 1)];
  heir.process(async (job) => job.data.number);
  assert.equal((await found)[0].id, job.id);
  assert.equal((await done)[0].returnvalue, 5);
}

async function main() {
  const client = new Redis({ host, port });
  await client.flushall();
  for (const check of [manyJobs, events, order, retries, repetition, limits, stalled]) {
    const start = Date.now();
    await check();
    console.log(`Bull ${require("bull/package.json").version}: ${check.name}, ${Date.now() - start} ms`);
  }
  await Promise.all(opened.map((each) => each.close(true)));
  for (const name of new Set(opened.map((each) => each.name))) {
    const cleaner = queue(name);
    await cleaner.obliterate({ force: true });
    await cleaner.close();
  }
  const left = (await client.keys("*")).filter((key) => !key.includes("limiter"));
  assert.deepEqual(left, [], "obliterate leaves nothing");
  await client.quit();
}

setTimeout(() => {
  console.error(`not done after ${PATIENCE_MS} ms`);
  process.exit(1);
}, PATIENCE_MS).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
