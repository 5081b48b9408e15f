// Drives a server with ioredis as an application would, without special settings. Usage: node ioredis.js PORT
"use strict";
const assert = require("node:assert/strict");
const Redis = require("ioredis");

async function basics(r) {
  assert.equal(await r.ping(), "PONG");
  assert.equal(await r.set("js:a", "1"), "OK");
  assert.equal(await r.get("js:a"), "1");
  assert.equal(await r.get("js:none"), null);
  const bytes = Buffer.from([0, 13, 10, 255]);
  await r.set("js:bin", bytes);
  assert.deepEqual(await r.getBuffer("js:bin"), bytes);
  assert.deepEqual([await r.incr("js:n"), await r.incrby("js:n", 41)], [1, 42]);
  assert.equal(await r.set("js:a", "2", "NX"), null);
  assert.equal(await r.mset({ "js:x": 1, "js:y": 2 }), "OK");
  assert.deepEqual(await r.mget("js:x", "js:none", "js:y"), ["1", null, "2"]);
  assert.equal(await r.del("js:x", "js:y", "js:none"), 2);
  await assert.rejects(r.incr("js:bin"), /not an integer/);
}

async function expiry(r) {
  await r.set("js:t", "v");
  assert.equal(await r.ttl("js:t"), -1);
  assert.equal(await r.expire("js:t", 100), 1);
  const ttl = await r.ttl("js:t");
  assert.ok(ttl > 0 && ttl <= 100, `ttl ${ttl}`);
  await r.set("js:t", "v", "PX", 60);
  await new Promise((done) => setTimeout(done, 200));
  assert.equal(await r.get("js:t"), null);
}

async function transactions(r, other) {
  const all = await r.multi().set("js:m", 1).incr("js:m").get("js:m").exec();
  assert.deepEqual(all, [[null, "OK"], [null, 2], [null, "2"]]);
  await r.watch("js:m");
  await other.set("js:m", "by another");
  assert.equal(await r.multi().set("js:m", "by the first").exec(), null);
  assert.equal(await r.get("js:m"), "by another");
}

async function pipelinesAndScans(r) {
  const pipe = r.pipeline();
  for (let i = 0; i < 500; i++) pipe.set(`js:scan:${i}`, i);
  const answers = await pipe.exec();
  assert.ok(answers.length === 500 && answers.every(([error, ok]) => error === null && ok === "OK"));
  const found = new Set();
  for await (const keys of r.scanStream({ match: "js:scan:*", count: 50 })) keys.forEach((key) => found.add(key));
  assert.equal(found.size, 500);
  // Many requests at once on one connection, answered in order.
  const numbers = await Promise.all(Array.from({ length: 200 }, () => r.incr("js:order")));
  assert.deepEqual(numbers, Array.from({ length: 200 }, (_, i) => i + 1));
}

async function main() {
  const port = Number(process.argv[2]);
  const r = new Redis(port);
  const other = new Redis(port);
  await r.flushall();
  await basics(r);
  await expiry(r);
  await transactions(r, other);
  await pipelinesAndScans(r);
  await Promise.all([r.quit(), other.quit()]);
  console.log("ioredis: all well");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
