// An application that finds its Redis by Sentinel with ioredis, and appends until it is told to stop.
//
// Each value is tried until it is acknowledged: what ioredis makes of a failover is all that is between. A report of one line of JSON is
// the end; e2e/clients/go/main.go and e2e/clients/python/client.py are its twins, with the same arguments and the same report.
"use strict";

const fs = require("node:fs");
const { setTimeout: sleep } = require("node:timers/promises");
const { parseArgs } = require("node:util");
const { Redis } = require("ioredis");
const { version } = require("ioredis/package.json");

// An address that nobody serves any more may never answer.
const PATIENCE = 2000;
// Between two attempts, and between two values.
const PAUSE = 5;
// Between two connections, and between two rounds of the sentinels: ioredis by itself waits ever longer.
const RETRY = 100;
// How long a replica may take to acknowledge one write.
const WAIT = 500;
// Errors that the report quotes.
const QUOTED = 5;

function settings() {
  const text = { type: "string" };
  const names = ["sentinels", "master", "user", "password-file", "ca", "key", "acks", "seconds", "acknowledged"];
  const { values } = parseArgs({ options: Object.fromEntries(names.map((name) => [name, text])) });
  if (!values.sentinels || !values.master || !values.acknowledged) throw new Error("needs --sentinels, --master and --acknowledged");
  return {
    // HOST:PORT,...
    sentinels: values.sentinels.split(",").map((address) => {
      const colon = address.lastIndexOf(":");
      return { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
    }),
    master: values.master,
    // Account in Redis and at the sentinels; no file, no login.
    login: values["password-file"] ? { username: values.user, password: fs.readFileSync(values["password-file"], "utf8") } : {},
    // The name to check is that of the address: ioredis leaves it to Node. No CA, no TLS.
    tls: values.ca && { ca: fs.readFileSync(values.ca) },
    key: values.key ?? "ledger",
    acks: Number(values.acks ?? 0),
    seconds: Number(values.seconds ?? 0),
    acknowledged: values.acknowledged,
  };
}

function connect({ sentinels, master, login: { username, password }, tls }) {
  return new Redis({
    sentinels,
    name: master,
    username,
    password,
    sentinelUsername: username,
    sentinelPassword: password,
    tls,
    sentinelTLS: tls,
    enableTLSForSentinelMode: Boolean(tls),
    connectTimeout: PATIENCE,
    socketTimeout: PATIENCE,
    sentinelCommandTimeout: PATIENCE,
    retryStrategy: () => RETRY,
    sentinelRetryStrategy: () => RETRY,
    // Who follows now sends nobody away by itself.
    reconnectOnError: (error) => /^(READONLY|UNBLOCKED)/.test(error.message),
    // Each value is tried again below, where it is counted.
    maxRetriesPerRequest: 0,
  });
}

// One connection carries all three: WAIT speaks of the writes of its own connection.
async function write(client, { key, acks }, value) {
  const pipe = client.pipeline().rpush(key, value).incr(`${key}:count`);
  if (acks) pipe.wait(acks, WAIT);
  const answers = await pipe.exec();
  const failed = answers.find(([error]) => error);
  if (failed) throw failed[0];
  const [, count] = answers.at(-1);
  if (acks && count < acks) throw new Error(`acknowledged by ${count} of ${acks} replicas`);
}

// Hears what each sentinel publishes, for as long as it lives; ioredis subscribes again by itself.
function listen({ sentinels, login, tls }) {
  const heard = [];
  for (const address of sentinels) {
    const client = new Redis({
      ...address, ...login, tls, connectTimeout: PATIENCE, retryStrategy: () => RETRY,
      // It is to be subscribed whenever the sentinel comes.
      maxRetriesPerRequest: null,
    });
    client.on("error", () => {});
    client.on("message", (_, payload) => {
      // Every sentinel tells the same.
      if (heard.at(-1) !== payload) heard.push(payload);
    });
    client.subscribe("+switch-master").catch(() => {});
  }
  return heard;
}

async function main() {
  const chosen = settings();
  const file = fs.openSync(chosen.acknowledged, "w");
  const switches = listen(chosen);
  const client = connect(chosen);
  const errors = [];
  const note = (error) => {
    const text = `${error.name}: ${error.message}`;
    if (errors.length < QUOTED && !errors.includes(text)) errors.push(text);
  };
  // Why there is no connection; who waits for one is not told.
  client.on("error", note);
  let connections = 0;
  client.on("ready", () => (connections += 1));

  let stopped = false;
  const stop = () => {
    stopped = true;
    // What was sent when the end came is worth its answer; what waits for a primary is not.
    setTimeout(() => client.disconnect(), PATIENCE);
  };
  for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, stop);
  if (chosen.seconds) setTimeout(stop, chosen.seconds * 1000);

  let [acknowledged, attempts, longest, last] = [0, 0, 0, performance.now()];
  for (let number = 0; !stopped; number += 1) {
    const value = `node-${process.pid}-${number}`;
    for (let done = false; !done && !stopped; await sleep(PAUSE)) {
      attempts += 1;
      try {
        await write(client, chosen, value);
      } catch (error) {
        note(error);
        continue;
      }
      const now = performance.now();
      [longest, last] = [Math.max(longest, now - last), now];
      acknowledged += 1;
      fs.writeSync(file, `${value}\n`);
      done = true;
    }
  }
  // A client that was shut out at the end has a gap as well.
  longest = Math.max(longest, performance.now() - last);
  console.log(
    JSON.stringify({
      client: `ioredis ${version}`,
      acknowledged,
      attempts,
      longest_gap_ms: Math.trunc(longest),
      reconnects: Math.max(0, connections - 1),
      switches,
      errors,
    }),
  );
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error("client:", error);
    process.exit(1);
  },
);
