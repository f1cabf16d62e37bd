// The Node client `memcached` works unchanged.
//
// Usage: memcached_node.js HOST PORT. Exits with status 0 if everything works.

const assert = require("assert");
const { promisify } = require("util");
const Memcached = require("memcached");

async function main(host, port) {
  const client = new Memcached(`${host}:${port}`, { retries: 0, timeout: 20000 });
  const call = (name, ...args) => promisify(client[name]).apply(client, args);
  await call("flush");
  assert.strictEqual(await call("get", "nosuch"), undefined);
  for (const value of ["text", "käse", 12, true, { list: [1, null] }, Buffer.from([0, 255])]) {
    assert.ok(await call("set", "key", value, 100));
    assert.deepStrictEqual(await call("get", "key"), value);
  }
  await assert.rejects(call("add", "key", "x", 0));
  assert.ok(await call("add", "other", "x", 0));
  assert.ok(await call("replace", "other", "b", 0));
  assert.ok(await call("append", "other", "c"));
  assert.ok(await call("prepend", "other", "a"));
  assert.deepStrictEqual(await call("getMulti", ["key", "other", "nosuch"]), {
    key: Buffer.from([0, 255]),
    other: "abc",
  });
  const { other, cas } = await call("gets", "other");
  assert.strictEqual(other, "abc");
  assert.ok(await call("cas", "other", "new", cas, 0));
  assert.ok(!(await call("cas", "other", "old", cas, 0)));
  assert.strictEqual(await call("get", "other"), "new");
  await call("set", "number", 5, 0);
  assert.strictEqual(await call("incr", "number", 37), 42);
  assert.strictEqual(await call("decr", "number", 50), 0);
  assert.strictEqual(await call("incr", "nosuch", 1), false);
  assert.ok(await call("touch", "number", 100));
  assert.ok(await call("del", "number"));
  assert.ok(!(await call("del", "number")));
  await Promise.all(Array.from({ length: 500 }, (_, index) => call("set", `many:${index}`, index, 0)));
  const keys = Array.from({ length: 500 }, (_, index) => `many:${index}`);
  assert.strictEqual(Object.keys(await call("getMulti", keys)).length, 500);
  const large = "x".repeat(900000);
  assert.ok(await call("set", "large", large, 0));
  assert.strictEqual(await call("get", "large"), large);
  const [version] = await call("version");
  assert.ok(version.major >= 1, JSON.stringify(version));
  const [stats] = await call("stats");
  assert.ok(stats.curr_items > 500);
  const [settings] = await call("settings");
  assert.ok(settings.item_size_max);
  assert.ok((await call("items")).length > 0);
  assert.ok((await call("slabs")).length > 0);
  client.end();
  console.log("memcached for Node: ok");
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exit(1);
});
