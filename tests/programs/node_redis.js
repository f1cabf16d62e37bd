// node-redis works: a small shop keeps accounts, a queue of orders, ranks, stock and news in the server, and the results are
// compared with those of plain JavaScript.
//
// Usage: node node_redis.js HOST PORT, with NODE_PATH set to the folder that contains redis. Empties the server.
// Exits with status 0 if all results are as computed.
"use strict";

const assert = require("node:assert/strict");
const { WatchError, createClient, createClientPool, defineScript } = require("redis");

const PATIENCE_MS = 30_000;
const [host, port] = [process.argv[2], Number(process.argv[3])];
// Takes up to the requested amount from the stock, and records the customer. Its second key is not declared.
const TAKE = `
  local left = tonumber(redis.call("HGET", KEYS[1], ARGV[1]) or "0")
  local taken = math.min(left, tonumber(ARGV[2]))
  if taken == 0 then return redis.error_reply("EMPTY nothing left") end
  redis.call("HINCRBY", KEYS[1], ARGV[1], -taken)
  redis.call("RPUSH", "taken:" .. ARGV[1], ARGV[3])
  return taken`;

const options = {
  socket: { host, port },
  scripts: {
    take: defineScript({
      SCRIPT: TAKE,
      NUMBER_OF_KEYS: 1,
      parseCommand(parser, key, ...rest) {
        parser.pushKey(key);
        parser.push(...rest.map(String));
      },
      transformReply: (reply) => reply,
    }),
  },
};

/** Returns a generator of random numbers, which are the same in every run. */
function numbers(seed) {
  let state = seed;
  return (below) => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return state % below;
  };
}

async function transfers(client, pool) {
  const random = numbers(7);
  const expected = Array(10).fill(1000);
  await client.mSet(expected.map((amount, index) => [`account:${index}`, String(amount)]));
  const orders = Array.from({ length: 100 }, () => [random(10), random(10), random(50)]);
  for (const [from, to, amount] of orders) {
    expected[from] -= amount;
    expected[to] += amount;
  }
  const transfer = async ([from, to, amount]) => {
    for (;;) {
      try {
        return await pool.execute(async (one) => {
          await one.watch([`account:${from}`, `account:${to}`]);
          const [left, right] = (await one.mGet([`account:${from}`, `account:${to}`])).map(Number);
          if (from === to) return one.unwatch();
          const moved = one.multi().set(`account:${from}`, left - amount).set(`account:${to}`, right + amount);
          return moved.exec();
        });
      } catch (error) {
        if (!(error instanceof WatchError)) throw error;
      }
    }
  };
  await Promise.all(orders.map(transfer));
  const seen = await client.mGet(expected.map((_, index) => `account:${index}`));
  assert.deepEqual(seen.map(Number), expected);
}

async function queue(client, pool) {
  const done = [];
  const consumer = () =>
    pool.execute(async (one) => {
      for (;;) {
        const order = await one.blMove("orders", "working", "LEFT", "RIGHT", 0);
        await one.lRem("working", 1, order);
        if (order === "end") return;
        done.push(Number(order));
      }
    });
  const consumers = [consumer(), consumer(), consumer()];
  const orders = Array.from({ length: 300 }, (_, number) => number);
  await Promise.all(orders.map((number) => client.rPush("orders", String(number))));
  await client.rPush("orders", ["end", "end", "end"]);
  await Promise.all(consumers);
  assert.deepEqual(done.sort((left, right) => left - right), orders);
  assert.deepEqual(await client.exists(["orders", "working"]), 0);
}

async function ranks(client) {
  const random = numbers(11);
  const players = Array.from({ length: 200 }, (_, number) => ({ value: `player:${number}`, score: random(1_000_000) / 8 }));
  await client.zAdd("ranks", players);
  for (const player of players.slice(0, 50)) {
    player.score += 1000.25;
    assert.equal(await client.zIncrBy("ranks", 1000.25, player.value), player.score);
  }
  players.sort((left, right) => right.score - left.score || (left.value < right.value ? 1 : -1));
  assert.deepEqual(await client.zRangeWithScores("ranks", 0, 9, { REV: true }), players.slice(0, 10));
  assert.equal(await client.zRevRank("ranks", players[120].value), 120);
  const middle = players.filter((player) => player.score >= 30_000 && player.score < 60_000);
  assert.equal(await client.zCount("ranks", 30_000, "(60000"), middle.length);
  assert.deepEqual(
    await client.zRange("ranks", "(60000", 30_000, { BY: "SCORE", REV: true }),
    middle.map((player) => player.value),
  );
  assert.deepEqual(await client.zPopMax("ranks"), players[0]);
  const found = new Map();
  for await (const batch of client.zScanIterator("ranks", { COUNT: 30 })) {
    for (const { value, score } of [batch].flat()) found.set(value, score);
  }
  assert.deepEqual(found, new Map(players.slice(1).map(({ value, score }) => [value, score])));
}

async function sets(client) {
  const random = numbers(13);
  const [left, right] = [0, 1].map(() => new Set(Array.from({ length: 100 }, () => String(random(200)))));
  await client.sAdd("left", [...left]);
  await client.sAdd("right", [...right]);
  const both = [...left].filter((member) => right.has(member)).sort();
  assert.deepEqual([...(await client.sInter(["left", "right"]))].sort(), both);
  assert.equal(await client.sUnionStore("all", ["left", "right"]), new Set([...left, ...right]).size);
  assert.equal(await client.sDiffStore("rest", ["left", "right"]), left.size - both.length);
  assert.deepEqual(await client.smIsMember("right", both), both.map(() => 1));
  const found = new Set();
  for await (const keys of client.scanIterator({ MATCH: "*", TYPE: "set", COUNT: 7 })) [keys].flat().forEach((key) => found.add(key));
  assert.deepEqual([...found].sort(), ["all", "left", "rest", "right"]);
}

async function stock(client, pool) {
  await client.hSet("stock", { apples: 100, pears: 3 });
  const asked = Array.from({ length: 60 }, (_, number) => 1 + (number % 3));
  const taken = await Promise.all(
    asked.map((wanted, number) => pool.take("stock", "apples", wanted, number).catch((error) => error)),
  );
  const refused = taken.filter((each) => each instanceof Error);
  assert.ok(refused.every((error) => error.message === "EMPTY nothing left"));
  assert.equal(taken.filter((each) => !(each instanceof Error)).reduce((sum, each) => sum + each, 0), 100);
  assert.deepEqual({ ...(await client.hGetAll("stock")) }, { apples: "0", pears: "3" });
  assert.equal(await client.lLen("taken:apples"), 60 - refused.length);
  const replies = await client.multi().take("stock", "pears", 2, "a").take("stock", "pears", 2, "b").hGet("stock", "pears").exec();
  assert.deepEqual(replies, [2, 1, "0"]);
  assert.equal(await client.eval("return {KEYS[1], ARGV[2], #ARGV}", { keys: ["k"], arguments: ["a", "b"] }).then(String), "k,b,2");
  assert.deepEqual(await client.scriptExists([options.scripts.take.SHA1, "0".repeat(40)]), [1, 0]);
}

async function news(client) {
  const reader = client.duplicate();
  await reader.connect();
  const seen = [];
  const all = new Promise((resolve) => {
    const note = (kind) => (message, channel) => seen.push(`${kind} ${channel} ${message}`) === 302 && resolve();
    reader.subscribe("news", note("channel"));
    reader.pSubscribe("ne?s", note("pattern"));
    reader.sSubscribe("shard", note("shard"));
  });
  // Once this has a reply, the subscriptions are active.
  await reader.ping();
  const receivers = await Promise.all(Array.from({ length: 150 }, (_, number) => client.publish("news", String(number))));
  assert.ok(receivers.every((count) => count === 2));
  assert.equal(await client.sPublish("shard", "a"), 1);
  assert.equal(await client.sPublish("shard", "b"), 1);
  await all;
  const order = (kind) => seen.filter((line) => line.startsWith(kind));
  for (const kind of ["channel", "pattern"]) {
    assert.deepEqual(order(kind), Array.from({ length: 150 }, (_, number) => `${kind} news ${number}`));
  }
  assert.deepEqual(order("shard"), ["shard shard a", "shard shard b"]);
  await reader.unsubscribe();
  await reader.close();
}

async function main() {
  for (const RESP of [2, 3]) {
    const client = await createClient({ ...options, RESP }).connect();
    const pool = await createClientPool({ ...options, RESP }, { minimum: 4, maximum: 8 }).connect();
    await client.flushAll();
    for (const check of [transfers, queue, ranks, sets, stock, news]) {
      const start = Date.now();
      await check(client, pool);
      console.log(`node-redis ${require("redis/package.json").version}, RESP${RESP}: ${check.name}, ${Date.now() - start} ms`);
    }
    await pool.close();
    await client.close();
  }
}

setTimeout(() => {
  console.error(`not done after ${PATIENCE_MS} ms`);
  process.exit(1);
}, PATIENCE_MS).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
