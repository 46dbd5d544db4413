// One user with every limit used to the full, and what a bystander notices: the products of limits, measured. The short
// forms are in `../products.test.mjs`. `make chaos`.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { bounded, unique } from '../support/clients.mjs';
import { count, startCluster } from '../support/cluster.mjs';
import { sumMetric } from '../support/gateway.mjs';
import { ask, joined, resident } from '../support/hostile.mjs';
import { delay, eventually } from '../support/wait.mjs';

/** What no bystander may wait for, however loaded the machine is. */
const PATIENCE_MS = 4_000;
/** What is usual for them under one user's load; it was 270 ms before a user's sockets shared a budget. */
const USUAL_MS = 100;

const SOCKETS = 100;

/** Echoes of a bystander, one after the other, until `stop()`: the times they took, sorted. */
function watch(ws) {
  const took = [];
  let ends = false;
  const running = (async () => {
    while (!ends) {
      const before = performance.now();
      await ask(ws, 'echo', 'x', { timeout: 60_000 });
      took.push(performance.now() - before);
      await delay(5);
    }
  })();
  return {
    async stop() {
      ends = true;
      await running;
      return took.sort((a, b) => a - b);
    },
  };
}

const at = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))].toFixed(1);
const told = (took) => `a bystander's ack: median ${at(took, 0.5)} ms, p99 ${at(took, 0.99)} ms, worst ${at(took, 1)} ms of ${took.length}`;
const counter = async (node, name, label = '') => sumMetric(await node.metrics(), name, label);

/** `many` raw sockets of one user. */
const socketsOf = (t, node, sub, many = SOCKETS, options = {}) => bounded(many, 20, () => joined(t, node, { ...options, claims: { sub } }));

/** Reads and forgets what comes. */
const drain = (ws) => (async () => { for (;;) if ((await ws.next({ timeout: 120_000 })).closed) return; })().catch(() => {});

describe('one user with many sockets', () => {
  let cluster;
  let node;
  before(async () => {
    // Sockets that wait for their turn here answer no pings.
    cluster = await startCluster(1, { env: { PING_INTERVAL: '10m' } });
    [node] = cluster.nodes;
  });
  after(() => cluster?.stop());

  test('a hundred sockets that watch 500 users each are closed at once', { timeout: 240_000 }, async (t) => {
    const bystander = await joined(t, node);
    const sub = unique('watcher');
    const userIds = Array.from({ length: 500 }, (_, n) => `${sub}-${n}`);
    const sockets = await socketsOf(t, node, sub, SOCKETS, { namespace: '/' });
    await bounded(SOCKETS, 10, (n) => eventually(async () => (await ask(sockets[n], 'presence:subscribe', { userIds }, { timeout: 60_000 })).subscribed === 500, { timeout: 180_000, interval: 500, what: 'the subscription' }));
    const losses = await counter(node, 'muster_lease_losses_total');
    const watched = watch(bystander);
    await delay(200);
    for (const ws of sockets) ws.destroy();
    await eventually(async () => (await counter(node, 'muster_connections')) <= 1, { timeout: 60_000, what: 'the sockets to be forgotten' });
    // As long as a lease: what stood still must have lost it by then.
    await delay(3_000);
    const took = await watched.stop();
    const lost = (await counter(node, 'muster_lease_losses_total')) - losses;
    t.diagnostic(`${told(took)}; ${lost} leases lost`);
    assert.equal(lost, 0, 'the node has lost its lease');
    assert.ok(took.at(-1) < PATIENCE_MS, told(took));
  });

  test('the questions of four users keep nobody who raises an SOS out of its room', { timeout: 120_000 }, async (t) => {
    const room = unique('silent');
    const silent = await joined(t, node);
    assert.equal((await ask(silent, 'join', { room })).success, true);
    void drain(silent);
    const askers = (await Promise.all(Array.from({ length: 4 }, () => socketsOf(t, node, unique('asker'))))).flat();
    for (const ws of askers) {
      for (let n = 0; n < 32; n += 1) ws.send(`42/relay,${n}${JSON.stringify(['publish', { room, event: 'e', ack: 30_000, self: false }])}`);
      void drain(ws);
    }
    // An event of the last of them that is answered comes after all that they asked.
    const [last] = await socketsOf(t, node, unique('last'), 1);
    await ask(last, 'echo', 'x');
    await delay(1_000);
    const sub = unique('citizen');
    await joined(t, node, { namespace: '/', claims: { sub } });
    const raised = await fetch(`${node.url}/api/sos`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${node.token({ sub })}`, 'Content-Type': 'application/json' },
      body: JSON.stringify({ latitude: 1, longitude: 2 }),
    });
    assert.equal(raised.status, 201);
    const { data } = await raised.json();
    assert.equal((await count(node, `sos:${data.id}`)).count, 1, 'the socket of who raised it is in the room');
    for (const ws of askers) ws.destroy();
  });

  test('a hundred sockets that ask for all they may, for ten seconds', { timeout: 180_000 }, async (t) => {
    const bystander = await joined(t, node);
    const sub = unique('greedy');
    const userIds = Array.from({ length: 500 }, (_, n) => `${sub}-${n}`);
    const before = { losses: await counter(node, 'muster_lease_losses_total'), bytes: resident(node.pid) };
    const [quiet, relays, cares] = [watch(bystander), await socketsOf(t, node, sub), await socketsOf(t, node, sub, SOCKETS, { namespace: '/' })];
    const unloaded = await quiet.stop();
    const room = unique('greedy');
    for (const ws of relays) {
      ws.send(`42/relay,${JSON.stringify(['join', { room }])}`);
      void drain(ws);
    }
    for (const ws of cares) void drain(ws);
    const large = 'x'.repeat(100_000);
    const watched = watch(bystander);
    let sent = 0;
    for (let second = 0; second < 10; second += 1) {
      for (let n = 0; n < SOCKETS; n += 1) {
        for (let part = 0; part < 10; part += 1) {
          relays[n].send(`42/relay,${JSON.stringify(['publish', { room, event: 'e', data: 'x' }])}`);
          relays[n].send(`42/relay,${second}${JSON.stringify(['members', { room }])}`);
          cares[n].send(`42${second}${JSON.stringify(['presence:get', { userIds }])}`);
          cares[n].send(`42${second}${JSON.stringify(['message:history', { recipientId: 'somebody', limit: 100 }])}`);
        }
        relays[n].send(`42/relay,${second}${JSON.stringify(['echo', large])}`);
        sent += 41;
        // Others of this process get their turn.
        if (n % 10 === 0) await delay(50);
      }
    }
    const took = await watched.stop();
    const lost = (await counter(node, 'muster_lease_losses_total')) - before.losses;
    const grown = (resident(node.pid) - before.bytes) / 2 ** 20;
    t.diagnostic(`${sent} events; ${told(took)} (unloaded median ${at(unloaded, 0.5)} ms); ${lost} leases lost; ${grown.toFixed(0)} MiB more`);
    assert.equal(lost, 0, 'the node has lost its lease');
    assert.ok(took[Math.floor(took.length / 2)] < USUAL_MS, told(took));
    assert.ok(took.at(-1) < PATIENCE_MS, told(took));
    assert.ok(grown < 128, `${grown} MiB more`);
    for (const ws of [...relays, ...cares]) ws.destroy();
  });

  test('a thousand who enter a room at once are answered a page each', { timeout: 240_000 }, async (t) => {
    const roomId = `topic:${unique('hall')}`;
    let bytes = 0;
    let whole = 0;
    await bounded(1_000, 50, async (n) => {
      const ws = await joined(t, node, { namespace: '/', claims: { sub: `guest-${n}`, name: `Guest ${n}` } });
      const answer = await ask(ws, 'room:join', { roomId }, { timeout: 60_000 });
      bytes += JSON.stringify(answer).length;
      whole += answer.participants.length;
      void drain(ws);
    });
    const late = await joined(t, node, { namespace: '/' });
    const answer = await ask(late, 'room:join', { roomId });
    t.diagnostic(`${(bytes / 2 ** 20).toFixed(1)} MiB of answers that list ${whole} participants; the last one is ${JSON.stringify(answer).length} bytes`);
    assert.equal(answer.count, 1_001);
    assert.equal(answer.participants.length, 100);
    assert.ok(whole <= 1_000 * 100);
  });
});
