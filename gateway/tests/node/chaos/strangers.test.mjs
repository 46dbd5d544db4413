// Strangers at full speed against a node with the default settings: handshakes by every way there is, from the address
// of half of the honest clients, and every kind of memory that a stranger can make a node hold. `make chaos`;
// STRANGERS_SECONDS (20) is how long each flood lasts, and STRANGERS_CLIENTS (100) how many honest clients come meanwhile.

import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { EVERYTHING, bounded, keeper } from '../support/clients.mjs';
import { startGateway, sumMetric } from '../support/gateway.mjs';
import { resident } from '../support/hostile.mjs';
import { stopwatch } from '../support/measure.mjs';
import { load } from '../support/packages.mjs';
import { request } from '../support/raw.mjs';
import { delay, eventually, once } from '../support/wait.mjs';

const SECONDS = Number(process.env.STRANGERS_SECONDS ?? 20);
const HONEST = Number(process.env.STRANGERS_CLIENTS ?? 100);
const IN_MS = 2_000;
const MAY_GROW = 64 << 20;
const FLOOD = fileURLToPath(new URL('./stranger_flood.mjs', import.meta.url));
const { Agent } = await import('node:http');

const children = new Set();
after(() => {
  for (const child of children) child.kill('SIGKILL');
});

/** Floods until `stop()`; `rate()` is how many are begun in a second. */
function flood(options) {
  const child = fork(FLOOD, [JSON.stringify(options)]);
  children.add(child);
  const seconds = [];
  child.on('message', (report) => seconds.push(report));
  return {
    seconds,
    rate: () => (seconds.length > 1 ? (seconds.at(-1).begun - seconds[0].begun) / (seconds.length - 1) : 0),
    async stop() {
      const exited = once(child, 'exit', { timeout: 10_000 });
      child.send('end');
      await exited;
      children.delete(child);
    },
  };
}

/** Does once what strangers will do, so that code and pools that stay are not taken for what they made the node hold. */
async function warmUp(gateway) {
  for (let at = 0; at < 3; at += 1) assert.ok((await comes(gateway, at)) < Number.POSITIVE_INFINITY);
  const headers = { 'Content-Type': 'application/json' };
  await request(gateway.port, 'POST', '/api/v1/auth/login', { headers, body: JSON.stringify({ email: 'a@b.c', password: 'x' }) });
  await request(gateway.port, 'GET', '/api/openapi.json');
}

/** An honest client as it comes, and comes again: milliseconds until it is in its namespace and has an answer. */
async function comes(gateway, at) {
  const { io } = load('socket.io-client');
  // Half of them come from addresses of their own.
  const localAddress = at % 2 ? `127.0.3.${(at % 200) + 1}` : '127.0.0.1';
  const transports = [['websocket'], ['polling'], ['polling', 'websocket']][at % 3];
  const elapsed = stopwatch();
  const agent = new Agent({ localAddress, keepAlive: true });
  const socket = io(`${gateway.url}/relay`, {
    transports,
    forceNew: true,
    reconnectionDelay: 100,
    reconnectionDelayMax: 500,
    agent,
    auth: { token: gateway.token({ sub: `honest-${at}`, ...EVERYTHING }) },
  });
  try {
    await once(socket, 'connect', { timeout: 20_000 });
    await socket.timeout(20_000).emitWithAck('echo', at);
    return elapsed();
  } catch {
    return Number.POSITIVE_INFINITY;
  } finally {
    socket.disconnect();
    // An honest page that is closed keeps no connection either.
    agent.destroy();
  }
}

describe('20,000 handshakes a second', () => {
  for (const [mode, connections] of [['pipelined', 8], ['pipelined', 1], ['connections', 0], ['websockets', 0]]) {
    test(`${mode}${connections ? ` on ${connections}` : ''}: 99 of 100 honest clients are in within 2 s`, { timeout: 240_000 }, async (t) => {
      const gateway = await startGateway();
      t.after(() => gateway.kill());
      await warmUp(gateway);
      const before = resident(gateway.pid);
      const clients = keeper(gateway);
      t.after(() => clients.closeAll());
      const member = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
      const lost = once(member, 'disconnect', { timeout: 10 * 60_000 }).catch(() => {});
      let isLost = false;
      lost.then(() => { isLost = true; });
      const attack = flood({ port: gateway.port, mode, connections });
      await eventually(() => attack.seconds.length > 2, { timeout: 20_000, what: 'the flood to be under way' });
      const elapsed = stopwatch();
      const times = [];
      let most = 0;
      while (elapsed() < SECONDS * 1_000 || times.length < HONEST) {
        times.push(...(await bounded(10, 5, (at) => comes(gateway, times.length + at))));
        most = Math.max(most, resident(gateway.pid));
      }
      const rate = attack.rate();
      const shares = await gateway.metrics();
      await attack.stop();
      times.sort((a, b) => a - b);
      const inTime = times.filter((time) => time <= IN_MS).length;
      const grown = (most - before) / (1 << 20);
      const [median, p99] = [0.5, 0.99].map((part) => Math.round(times[Math.floor(part * (times.length - 1))]));
      t.diagnostic(
        `${Math.round(rate)}/s begun, ${sumMetric(shares, 'muster_sessions_opened_total')} opened, ` +
          `${sumMetric(shares, 'muster_evicted_total')} evicted; ${inTime} of ${times.length} in within 2 s, median ${median} ms, p99 ${p99} ms; ` +
          `grew by ${grown.toFixed(1)} MiB`,
      );
      assert.ok(inTime >= 0.99 * times.length, `${inTime} of ${times.length} were in within 2 s: ${times.slice(-5).map(Math.round)}`);
      assert.ok(most - before <= MAY_GROW, `the node grew by ${grown.toFixed(1)} MiB`);
      assert.ok(!isLost && member.connected, 'a client in a namespace was pushed out');
      assert.equal((await request(gateway.internalPort, 'GET', '/ready')).status, 200);
    });
  }
});

describe('memory of strangers', () => {
  const KINDS = ['silent', 'half head', 'small half head', 'half body', 'half frame', 'fragments', 'attachments', 'token', 'unread answers', 'unread page'];
  for (const kinds of [...KINDS.map((kind) => [kind]), KINDS]) {
    const name = kinds.length === 1 ? kinds[0] : 'all of them at once';
    test(`${name}: 64 MiB at most, given back within a minute`, { timeout: 240_000 }, async (t) => {
      const gateway = await startGateway();
      t.after(() => gateway.kill());
      await warmUp(gateway);
      const before = resident(gateway.pid);
      // What nobody reads also fills the receive buffers of the attacker's machine, and that is this one.
      const held = (mode) => Math.floor((mode === 'unread page' ? 2_000 : 15_000) / kinds.length);
      const attacks = kinds.map((mode) => flood({ port: gateway.port, mode, rate: 4_000, connections: held(mode) }));
      const elapsed = stopwatch();
      let most = 0;
      const times = [];
      while (elapsed() < SECONDS * 1_000) {
        times.push(await comes(gateway, times.length));
        most = Math.max(most, resident(gateway.pid));
        await delay(100);
      }
      const rate = attacks.reduce((sum, attack) => sum + attack.rate(), 0);
      await Promise.all(attacks.map((attack) => attack.stop()));
      const ended = stopwatch();
      const mebibytes = (bytes) => (bytes / (1 << 20)).toFixed(1);
      // A tenth of what it may grow by is the allocator's and the runtime's own.
      const isBack = () => resident(gateway.pid) - before <= MAY_GROW / 10;
      const back = await eventually(isBack, { timeout: 60_000, interval: 250, what: 'the memory to be given back' }).then(
        () => `back within ${Math.round(ended() / 1_000)} s`,
        () => 'not back within a minute',
      );
      const inTime = times.filter((time) => time <= IN_MS).length;
      t.diagnostic(
        `${Math.round(rate)}/s begun; grew from ${mebibytes(before)} MiB by ${mebibytes(most - before)} MiB, ${back} ` +
          `(${mebibytes(resident(gateway.pid) - before)} MiB above); ${inTime} of ${times.length} honest clients in within 2 s`,
      );
      assert.ok(most - before <= MAY_GROW, `the node grew by ${mebibytes(most - before)} MiB`);
      assert.ok(isBack(), back);
      assert.ok(inTime >= 0.99 * times.length, `${inTime} of ${times.length} honest clients were in within 2 s`);
    });
  }
});
