// ioredis works unchanged: strings, expiry, pipelines, SCAN, large values, errors, reconnecting,
// publishing and subscribing.
//
// Usage: node ioredis.js PORT [CERTIFICATE KEY], with NODE_PATH set to the folder that contains ioredis. With a certificate, which
// signs itself, the connections use TLS, and the server has the same one.
// Exits with status 0 if everything works.
"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const { once } = require("node:events");
const Redis = require("ioredis");

const BIG_BYTES = 10 * 1024 * 1024;

async function strings(client) {
  assert.equal(await client.set("greeting", "grün 🐝"), "OK");
  assert.equal(await client.get("greeting"), "grün 🐝");
  assert.equal(await client.get("missing"), null);
  const everything = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  await client.set(everything, everything);
  assert.deepEqual(await client.getBuffer(everything), everything);
  assert.equal(await client.incrby("counter", 41), 41);
  assert.equal(await client.incrbyfloat("counter", 0.5), "41.5");
  await client.mset({ a: "1", b: "2" });
  assert.deepEqual(await client.mget("a", "missing", "b"), ["1", null, "2"]);
}

async function expiry(client) {
  await client.set("k", "v", "EX", 100);
  const ttl = await client.ttl("k");
  assert.ok(ttl >= 99 && ttl <= 100);
  assert.equal(await client.persist("k"), 1);
  await client.pexpireat("k", 1);
  assert.equal(await client.ttl("k"), -2);
}

async function pipelines(client) {
  const pipeline = client.pipeline();
  for (let number = 0; number < 1000; number++) pipeline.set(`key:${number}`, number);
  pipeline.incr("key:0").get("key:999");
  const replies = await pipeline.exec();
  assert.deepEqual(replies.slice(1000), [[null, 1], [null, "999"]]);
  const found = new Set();
  for await (const keys of client.scanStream({ match: "key:*", count: 37 })) keys.forEach((key) => found.add(key));
  assert.equal(found.size, 1000);
}

async function errors(client) {
  await client.set("text", "abc");
  await assert.rejects(client.incr("text"), /ERR value is not an integer or out of range/);
  await assert.rejects(client.call("NOSUCHCOMMAND", "x"), /ERR unknown command 'NOSUCHCOMMAND'/);
  assert.equal(await client.get("text"), "abc");
}

async function bigValues(client) {
  const big = Buffer.alloc(BIG_BYTES, "0123456789");
  await client.set("big", big);
  assert.ok(big.equals(await client.getBuffer("big")));
}

async function reconnect(client, killer) {
  const own = await client.client("ID");
  const again = once(client, "ready");
  assert.equal(await killer.client("KILL", "ID", own), 1);
  await again;
  assert.notEqual(await client.client("ID"), own);
  assert.equal(await client.client("GETNAME"), "proof");
}

async function pubsub(client, publisher) {
  const subscriber = client.duplicate();
  const received = [];
  const all = new Promise((resolve) => {
    const note = (...message) => received.push(message) === 4 && resolve();
    subscriber.on("message", (channel, text) => note("message", channel, text));
    subscriber.on("pmessage", (pattern, channel, text) => note("pmessage", pattern, channel, text));
    subscriber.on("smessage", (channel, text) => note("smessage", channel, text));
  });
  assert.equal(await subscriber.subscribe("news", "sport"), 2);
  assert.equal(await subscriber.psubscribe("n*"), 3);
  assert.equal(await subscriber.ssubscribe("shard"), 1);
  assert.equal(await publisher.publish("news", "grün 🐝"), 2);
  assert.equal(await publisher.publish("sport", "second"), 1);
  assert.equal(await publisher.spublish("shard", "third"), 1);
  await all;
  assert.deepEqual(received, [
    ["message", "news", "grün 🐝"],
    ["pmessage", "n*", "news", "grün 🐝"],
    ["message", "sport", "second"],
    ["smessage", "shard", "third"],
  ]);
  // ioredis resubscribes after it has lost its connection.
  const [line] = (await publisher.client("LIST", "TYPE", "pubsub")).split("\n");
  const again = once(subscriber, "ready");
  assert.equal(await publisher.client("KILL", "ID", line.match(/id=(\d+)/)[1]), 1);
  await again;
  while ((await publisher.publish("sport", "again")) === 0);
  assert.equal(await subscriber.unsubscribe("news"), 2);
  await subscriber.quit();
}

async function main() {
  const port = Number(process.argv[2]);
  const options = { port, host: "127.0.0.1" };
  if (process.argv.length > 3) {
    const [cert, key] = process.argv.slice(3).map((path) => fs.readFileSync(path));
    options.tls = { ca: cert, cert, key };
  }
  const client = new Redis({ ...options, connectionName: "proof", db: 2 });
  const killer = new Redis(options);
  await client.flushall();
  for (const check of [strings, expiry, pipelines, errors, bigValues, reconnect, pubsub]) {
    await check(client, killer);
    console.log(`ioredis ${require("ioredis/package.json").version}: ${check.name}`);
  }
  assert.equal(await killer.get("greeting"), null, "database 0 is separate");
  await Promise.all([client.quit(), killer.quit()]);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
