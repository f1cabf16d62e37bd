// BullMQ works: a shop's orders go through queues with delays, priorities, retries, schedules, flows and rate limits, and all
// totals are right at the end.
//
// Usage: node bullmq.js HOST PORT, with NODE_PATH set to the folder that contains bullmq and ioredis. Empties the server.
// Exits with status 0 if all results are as computed.
"use strict";

const assert = require("node:assert/strict");
const { once } = require("node:events");
const Redis = require("ioredis");
const { FlowProducer, Queue, QueueEvents, UnrecoverableError, Worker } = require("bullmq");

const PATIENCE_MS = 30_000;
const [host, port] = [process.argv[2], Number(process.argv[3])];
const connection = { host, port, maxRetriesPerRequest: null };
const opened = [];

function open(Kind, ...args) {
  const thing = new Kind(...args);
  thing.on("error", (error) => {
    console.error(error);
    process.exit(1);
  });
  opened.push(thing);
  return thing;
}

const queue = (name, options) => open(Queue, name, { connection, ...options });
const worker = (name, work, options) => open(Worker, name, work, { connection, drainDelay: 1, ...options });

/** Resolves with the jobs once `count` of them have completed at these workers. */
function completed(workers, count) {
  const jobs = [];
  return new Promise((resolve) => {
    for (const each of workers) each.on("completed", (job) => jobs.push(job) === count && resolve(jobs));
  });
}

async function manyJobs() {
  const squares = queue("squares");
  const seen = new Map();
  const square = async (job) => {
    seen.set(job.id, (seen.get(job.id) ?? 0) + 1);
    return job.data.number ** 2;
  };
  const numbers = Array.from({ length: 300 }, (_, number) => number);
  const jobs = await squares.addBulk(numbers.map((number) => ({ name: "square", data: { number, text: "grün 🐝" } })));
  assert.equal(await squares.count(), 300);
  const workers = [0, 1, 2].map(() => worker("squares", square, { concurrency: 10, autorun: false }));
  const done = completed(workers, 300);
  workers.forEach((each) => each.run());
  await done;
  assert.equal(seen.size, 300);
  assert.ok([...seen.values()].every((times) => times === 1), "each job runs once");
  const stored = await Promise.all(jobs.map((job) => squares.getJob(job.id)));
  assert.deepEqual(stored.map((job) => job.returnvalue), numbers.map((number) => number ** 2));
  assert.equal(stored[17].data.text, "grün 🐝");
  assert.deepEqual(await squares.getJobCounts("wait", "active", "completed", "failed"), {
    wait: 0,
    active: 0,
    completed: 300,
    failed: 0,
  });
  assert.equal((await squares.clean(0, 100, "completed")).length, 100);
  assert.equal(await squares.getCompletedCount(), 200);
}

async function delays() {
  const later = queue("later");
  const order = [];
  const runner = worker("later", async (job) => order.push(job.name));
  const done = completed([runner], 3);
  await later.add("third", {}, { delay: 300 });
  await later.add("second", {}, { delay: 150 });
  const far = await later.add("first", {}, { delay: 3_600_000 });
  assert.equal(await later.getDelayedCount(), 3);
  assert.equal(await far.getState(), "delayed");
  await far.promote();
  const jobs = await done;
  assert.deepEqual(order, ["first", "second", "third"]);
  for (const job of jobs.slice(1)) assert.ok(job.processedOn >= job.timestamp + job.opts.delay, job.name);
}

async function priorities() {
  const urgent = queue("urgent");
  await urgent.pause();
  assert.ok(await urgent.isPaused());
  await urgent.add("3", {}, { priority: 3 });
  await urgent.add("1", {}, { priority: 1 });
  const last = await urgent.add("9", {}, { priority: 9 });
  await urgent.add("2", {}, { priority: 2 });
  await urgent.add("0b", {});
  await urgent.add("0a", {}, { lifo: true });
  await last.changePriority({ priority: 1 });
  assert.deepEqual(await urgent.getCountsPerPriority([0, 1, 2, 3]), { 0: 2, 1: 2, 2: 1, 3: 1 });
  const order = [];
  const runner = worker("urgent", async (job) => order.push(job.name));
  const done = completed([runner], 6);
  await urgent.resume();
  await done;
  assert.deepEqual(order, ["0a", "0b", "1", "9", "2", "3"]);
}

async function retries() {
  const shaky = queue("shaky");
  const work = async (job) => {
    if (job.name === "hopeless") throw new UnrecoverableError("no hope");
    if (job.name === "broken" && !job.data.mended) throw new Error("broken");
    if (job.name === "third time" && job.attemptsMade < 2) throw new Error(`attempt ${job.attemptsMade}`);
    await job.updateProgress(job.attemptsMade * 10);
    await job.log(`done by attempt ${job.attemptsMade}`);
    return job.attemptsMade;
  };
  const runner = worker("shaky", work, { concurrency: 3 });
  const failures = [];
  const failed = new Promise((resolve) => {
    runner.on("failed", (job, error) => failures.push(`${job.name}: ${error.message}`) === 5 && resolve());
  });
  const third = completed([runner], 1);
  const backoff = { type: "exponential", delay: 20 };
  await shaky.add("third time", {}, { attempts: 5, backoff });
  await shaky.add("hopeless", {}, { attempts: 5, backoff });
  const broken = await shaky.add("broken", {}, { attempts: 2, backoff: { type: "fixed", delay: 10 } });
  const [job] = await third;
  await failed;
  assert.equal(job.returnvalue, 2);
  assert.equal((await shaky.getJob(job.id)).progress, 20);
  assert.deepEqual(await shaky.getJobLogs(job.id), { logs: ["done by attempt 2"], count: 1 });
  assert.deepEqual(failures.sort(), [
    "broken: broken",
    "broken: broken",
    "hopeless: no hope",
    "third time: attempt 0",
    "third time: attempt 1",
  ]);
  assert.equal(await shaky.getFailedCount(), 2);
  const mended = await shaky.getJob(broken.id);
  assert.equal(mended.failedReason, "broken");
  assert.equal(mended.attemptsMade, 2);
  await mended.updateData({ mended: true });
  const again = completed([runner], 1);
  await mended.retry();
  await again;
  assert.equal(await mended.getState(), "completed");
  assert.equal(await shaky.getFailedCount(), 1);
}

async function schedules() {
  const clock = queue("clock");
  const runner = worker("clock", async (job) => job.data.tick);
  const done = completed([runner], 3);
  await clock.upsertJobScheduler("tick", { every: 60, limit: 3 }, { name: "tick", data: { tick: 7 } });
  await clock.upsertJobScheduler("yearly", { pattern: "0 0 1 1 *" }, { name: "yearly" });
  assert.equal(await clock.getJobSchedulersCount(), 2);
  const jobs = await done;
  assert.deepEqual(jobs.map((job) => job.returnvalue), [7, 7, 7]);
  assert.equal(new Set(jobs.map((job) => job.id)).size, 3);
  const yearly = await clock.getJobScheduler("yearly");
  assert.equal(new Date(yearly.next).getMonth(), 0);
  assert.ok(await clock.removeJobScheduler("yearly"));
  assert.equal(await clock.getJobScheduler("yearly"), undefined);
}

async function flows() {
  const producer = open(FlowProducer, { connection });
  const [total, parts] = [queue("total"), queue("parts")];
  const sum = worker("total", async (job) =>
    Object.values(await job.getChildrenValues()).reduce((left, right) => left + right, job.data.start ?? 0),
  );
  worker("parts", async (job) => {
    if (job.data.fails) throw new Error("a part is missing");
    return job.data.price;
  }, { concurrency: 4 });
  const part = (price) => ({ name: "part", queueName: "parts", data: { price } });
  const done = completed([sum], 2);
  const tree = await producer.add({
    name: "order",
    queueName: "total",
    data: { start: 1000 },
    children: [
      part(5),
      { name: "bundle", queueName: "total", children: [part(70), part(800), part(2)] },
    ],
  });
  assert.equal(tree.children.length, 2);
  const jobs = await done;
  assert.deepEqual(jobs.map((job) => [job.name, job.returnvalue]), [["bundle", 872], ["order", 1877]]);
  assert.deepEqual(await tree.job.getDependenciesCount(), { processed: 2, unprocessed: 0, ignored: 0, failed: 0 });
  const again = await producer.getFlow({ id: tree.job.id, queueName: "total" });
  assert.equal(again.children.find((child) => child.job.name === "bundle").children.length, 3);
  const broken = new Promise((resolve) => sum.on("failed", (job, error) => resolve([job.name, error.message])));
  await producer.add({
    name: "doomed",
    queueName: "total",
    children: [{ ...part(1), data: { fails: true }, opts: { failParentOnFailure: true } }],
  });
  const [name, reason] = await broken;
  assert.equal(name, "doomed");
  assert.match(reason, /^child bull:parts:[-0-9a-f]+ failed$/);
  assert.equal(await total.getFailedCount(), 1);
  assert.equal(await parts.getFailedCount(), 1);
}

async function limits() {
  const slow = queue("slow");
  await slow.addBulk(Array.from({ length: 6 }, (_, number) => ({ name: "send", data: { number: number + 1 } })));
  const runner = worker("slow", async (job) => job.data.number, { concurrency: 6, limiter: { max: 2, duration: 120 } });
  const jobs = await completed([runner], 6);
  const starts = jobs.map((job) => job.processedOn).sort((left, right) => left - right);
  // Six jobs, two at a time: the last pair starts two full windows after the first.
  assert.ok(starts[5] - starts[0] >= 200, `six jobs within ${starts[5] - starts[0]} ms`);
  assert.deepEqual(jobs.map((job) => job.returnvalue).sort(), [1, 2, 3, 4, 5, 6]);
}

async function duplicates() {
  const once = queue("once");
  const options = { deduplication: { id: "only", ttl: 60_000 } };
  const first = await once.add("job", { number: 1 }, options);
  const second = await once.add("job", { number: 2 }, options);
  assert.equal(second.id, first.id);
  await once.add("named", {}, { jobId: "name" });
  await once.add("named", {}, { jobId: "name" });
  assert.equal(await once.count(), 2);
  await once.removeDeduplicationKey("only");
  assert.notEqual((await once.add("job", { number: 3 }, options)).id, first.id);
  assert.equal(await once.remove("name"), 1);
  await once.drain();
  assert.equal(await once.count(), 0);
}

async function stalled() {
  const fragile = queue("fragile");
  // A worker takes a job and dies, so its lock expires.
  const dead = worker("fragile", null, { autorun: false, lockDuration: 50, skipStalledCheck: true });
  await fragile.add("job", { number: 5 });
  const job = await dead.getNextJob("a token");
  assert.equal(await job.getState(), "active");
  const options = { autorun: false, stalledInterval: 40, lockDuration: 1000 };
  const heir = worker("fragile", async (job) => job.data.number, options);
  const [found, done] = [once(heir, "stalled"), completed([heir], 1)];
  heir.run();
  assert.equal((await found)[0], job.id);
  const [finished] = await done;
  assert.equal(finished.returnvalue, 5);
  await assert.rejects(job.moveToCompleted(6, "a token"), /Missing lock|not in the active state|Lock mismatch/);
}

async function events() {
  const heard = queue("heard");
  const listener = open(QueueEvents, "heard", { connection, lastEventId: "0" });
  await listener.waitUntilReady();
  const log = [];
  for (const event of ["waiting", "active", "completed", "failed"]) listener.on(event, ({ jobId }) => log.push(`${event} ${jobId}`));
  worker("heard", async (job) => {
    if (job.name === "bad") throw new Error("no");
    return job.data.number + 1;
  });
  const good = await heard.add("good", { number: 41 });
  assert.equal(await good.waitUntilFinished(listener, PATIENCE_MS), 42);
  const bad = await heard.add("bad", {});
  await assert.rejects(bad.waitUntilFinished(listener, PATIENCE_MS), /^Error: no$/);
  assert.deepEqual(log, ["waiting 1", "active 1", "completed 1", "waiting 2", "active 2", "failed 2"]);
  await heard.trimEvents(0);
}

async function main() {
  const client = new Redis({ host, port });
  await client.flushall();
  const checks = [manyJobs, delays, priorities, retries, schedules, flows, limits, duplicates, stalled, events];
  for (const check of checks) {
    const start = Date.now();
    await check();
    console.log(`BullMQ ${require("bullmq/package.json").version}: ${check.name}, ${Date.now() - start} ms`);
  }
  const queues = opened.filter((thing) => thing instanceof Queue);
  await Promise.all(opened.filter((thing) => !queues.includes(thing)).map((thing) => thing.close()));
  await Promise.all(queues.map((each) => each.obliterate({ force: true })));
  // The window of the rate limit may still be open.
  const left = (await client.keys("*")).filter((key) => key !== "bull:slow:limiter");
  assert.deepEqual(left, [], "obliterate leaves nothing");
  await Promise.all(queues.map((each) => each.close()));
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
