#!/usr/bin/env node
// ioredis finds the primary through sentinels and goes on after a failover.
//
// Usage: sentinel.js PORT... with the ports of the sentinels. Writes `js:1`, `js:2` and so on, and prints the number of each write that
// was acknowledged, until its standard input ends. `crates/oracle/tests/sentinel.rs` runs it and kills the primary meanwhile.

const Redis = require("ioredis");

const PAUSE_MS = 20;

async function main() {
  const sentinels = process.argv.slice(2).map((port) => ({ host: "127.0.0.1", port: Number(port) }));
  const primary = new Redis({ sentinels, name: "mymaster", commandTimeout: 1000, maxRetriesPerRequest: 1 });
  primary.on("error", () => {});
  let ended = false;
  process.stdin.resume();
  process.stdin.on("end", () => {
    ended = true;
  });
  for (let number = 1; !ended; number++) {
    try {
      if ((await primary.set(`js:${number}`, "v")) === "OK") console.log(number);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
  primary.disconnect();
}

main();
