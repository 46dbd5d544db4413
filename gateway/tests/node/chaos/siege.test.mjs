// Two minutes (SIEGE_SECONDS) of everything at once on two nodes: 64 connections that flood, 20,000 handshakes a second from
// one address, one user who uses every limit to the full, and 2,000 honest clients who come at once. Every honest message
// is acknowledged and arrives, the counts are true, and no node loses its lease. `make chaos`.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EVERYTHING, unique } from '../support/clients.mjs';
import { count, startCluster } from '../support/cluster.mjs';
import { startFloods } from '../support/floods.mjs';
import { signToken, sumMetric } from '../support/gateway.mjs';
import { processorTime, resident } from '../support/hostile.mjs';
import { stopwatch } from '../support/measure.mjs';
import { startPostgres } from '../support/postgres.mjs';
import { percentile, startPart } from '../support/siege.mjs';
import { delay, eventually } from '../support/wait.mjs';

const SECONDS = Number(process.env.SIEGE_SECONDS ?? 120);
const CLIENTS = Number(process.env.SIEGE_CLIENTS ?? 2_000);
const FLOODS = Number(process.env.SIEGE_FLOODS ?? 64);
const HANDSHAKES_A_SECOND = Number(process.env.SIEGE_HANDSHAKES ?? 20_000);
const ROOM = 10;
const HONEST_PROCESSES = 2;
/** How often an honest client says something. */
const SAYS_EVERY_MS = 10_000;
/** How often `/live` is asked. How long it takes is printed: everything else runs on the same two cores. */
const LIVE_EVERY_MS = 200;

const ms = (value) => `${value.toFixed(value < 10 ? 1 : 0)} ms`;

/** Asks `/live` of each node again and again; `stop()` gives the times. */
function watchLive(nodes) {
  const times = [];
  let isOn = true;
  const loops = nodes.map(async (node) => {
    while (isOn) {
      const took = stopwatch();
      const good = await fetch(`${node.internalUrl}/live`, { signal: AbortSignal.timeout(10_000) }).then(({ ok }) => ok, () => false);
      times.push(good ? took() : 10_000);
      await delay(LIVE_EVERY_MS);
    }
  });
  return async () => {
    isOn = false;
    await Promise.all(loops);
    return times;
  };
}

test(`two nodes under siege for ${SECONDS} s: honest clients notice nothing that matters`, { timeout: (SECONDS + 300) * 1_000 }, async (t) => {
  const postgres = await startPostgres();
  const cluster = await startCluster(2, { env: { DATABASE_URL: postgres.url, LEASE: '6s', LEAVE_HOLDBACK: '3s' } });
  const parts = [];
  const floods = [];
  let stopLive = () => {};
  const begin = (role, options, more) => {
    const part = startPart(role, options, more);
    parts.push(part);
    return part;
  };
  try {
    const ports = cluster.nodes.map(({ port }) => port);
    const sign = (claims) => signToken({ ...EVERYTHING, ...claims }, cluster.secret);
    const memory = () => cluster.nodes.map(({ pid }) => resident(pid) / 2 ** 20);
    const before = memory();
    const cpu = cluster.nodes.map(({ pid }) => processorTime(pid));
    stopLive = watchLive(cluster.nodes);
    const took = stopwatch();

    for (const port of ports) floods.push(await startFloods({ port, token: sign({ sub: 'flooder' }), connections: FLOODS / ports.length, priority: 10 }));
    const handshakes = begin('handshakes', { ports, perSecond: HANDSHAKES_A_SECOND }, { nice: 10 });
    const user = begin('user', { ports, token: sign({ sub: 'limits' }), perNamespace: 100, rooms: 90, watched: 500, perSecond: 80 }, { nice: 10 });

    // The honest come while all of this is under way.
    const rooms = Array.from({ length: CLIENTS / ROOM }, () => unique('siege'));
    const plans = Array.from({ length: CLIENTS }, (_, at) => {
      const room = rooms[Math.floor(at / ROOM)];
      return { url: cluster.nodes[at % 2].url, token: sign({ sub: `honest-${at}` }), room, polling: at % 4 === 0 };
    });
    const share = Math.ceil(CLIENTS / HONEST_PROCESSES / ROOM) * ROOM;
    const honest = Array.from({ length: HONEST_PROCESSES }, (_, at) => begin('honest', { plans: plans.slice(at * share, (at + 1) * share), everyMs: SAYS_EVERY_MS }));
    await Promise.all(honest.map(({ started }) => started));
    const settled = async () => (await Promise.all(honest.map(({ ask }) => ask('settled')))).reduce((sum, each) => sum + each, 0);
    await eventually(async () => (await settled()) === CLIENTS, { timeout: 60_000, interval: 250, what: `${CLIENTS} honest clients to be in their rooms` });
    t.diagnostic(`all ${CLIENTS} honest clients are in after ${(took() / 1_000).toFixed(1)} s`);

    await delay(Math.max(0, SECONDS * 500 - took()));
    // A second storm: half of them lose their connection at once, and the user at the limits closes everything.
    const cut = (await Promise.all(honest.map(({ ask }) => ask('cut', 2)))).reduce((sum, each) => sum + each, 0);
    await user.ask('closeAll');
    await eventually(async () => (await settled()) === CLIENTS, { timeout: 60_000, interval: 250, what: `${cut} honest clients to come back` });
    t.diagnostic(`${cut} honest clients lost their connection and are back after ${(took() / 1_000 - SECONDS / 2).toFixed(1)} s`);
    await delay(Math.max(0, SECONDS * 1_000 - took()));

    await Promise.all(honest.map(({ ask }) => ask('hush')));
    // Every room, asked of both nodes while the siege goes on.
    const wrong = async () => {
      const found = [];
      for (const room of rooms) {
        for (const node of cluster.nodes) {
          const { count: sockets, users } = await count(node, room, '/relay');
          if (sockets !== ROOM || users !== ROOM) found.push([room, node.node, sockets, users]);
        }
      }
      return found;
    };
    await eventually(async () => (await wrong()).length === 0, { timeout: 20_000, interval: 500, what: 'every count to be true on both nodes' });

    const live = await stopLive();
    const [shaken, used, ...told] = await Promise.all([handshakes, user, ...honest].map(({ ask }) => ask('report')));
    const flooded = await Promise.all(floods.splice(0).map((flood) => flood.stop()));
    const metrics = await Promise.all(cluster.nodes.map((node) => node.metrics()));
    const lost = metrics.map((each) => sumMetric(each, 'muster_lease_losses_total'));
    const all = { sent: 0, acked: 0, deliveries: 0, missing: 0, repeated: 0, refusals: 0, unanswered: 0, reasons: {}, connectMs: [], ackMs: [] };
    for (const each of told) {
      for (const name of ['sent', 'acked', 'deliveries', 'repeated', 'refusals']) all[name] += each[name];
      all.missing += each.missing.count;
      all.unanswered += each.unansweredCount;
      for (const [reason, number] of Object.entries(each.reasons)) all.reasons[reason] = (all.reasons[reason] ?? 0) + number;
      all.connectMs.push(...each.connectMs);
      all.ackMs.push(...each.ackMs);
    }
    const after = memory();
    const elapsed = took() / 1_000;
    t.diagnostic(`honest: ${all.sent} sent, ${all.acked} acknowledged, ${all.deliveries} deliveries judged, ${all.missing} missing, ${all.repeated} repeated, ${all.unanswered} unanswered or refused, breaks ${JSON.stringify(all.reasons)}`);
    t.diagnostic(`honest: in after p50 ${ms(percentile(all.connectMs, 0.5))}, p99 ${ms(percentile(all.connectMs, 0.99))}, max ${ms(percentile(all.connectMs, 1))}; ack p50 ${ms(percentile(all.ackMs, 0.5))}, p99 ${ms(percentile(all.ackMs, 0.99))}, max ${ms(percentile(all.ackMs, 1))}`);
    t.diagnostic(`/live: p50 ${ms(percentile(live, 0.5))}, p99 ${ms(percentile(live, 0.99))}, max ${ms(percentile(live, 1))} of ${live.length}`);
    const closed = flooded.reduce((sum, each) => sum + each.closed, 0);
    for (const [node, each] of metrics.entries()) {
      const ends = [...each].filter(([name, value]) => value > 0 && /^muster_(sessions_closed|evicted|limited|bad_input)_total/.test(name));
      t.diagnostic(`node ${node}: ${ends.map(([name, value]) => `${name.slice('muster_'.length)} ${value}`).join(', ')}`);
    }
    t.diagnostic(`floods: ${closed} connections closed, the longest after ${ms(Math.max(...flooded.map(({ longest }) => longest)))} as the starved attacker saw it`);
    t.diagnostic(`handshakes: ${(shaken.sent / elapsed).toFixed(0)}/s sent, answers ${JSON.stringify(shaken.answers)}, ${shaken.closed} connections closed`);
    t.diagnostic(`user at the limits: ${JSON.stringify(used)}`);
    t.diagnostic(`nodes: ${before.map((at, node) => `${at.toFixed(0)} → ${after[node].toFixed(0)} MiB, ${((processorTime(cluster.nodes[node].pid) - cpu[node]) / elapsed).toFixed(2)} cores`).join('; ')}; leases lost ${lost.join(', ')}`);

    assert.deepEqual(lost, [0, 0], 'a node lost its lease');
    assert.deepEqual(all.reasons, {}, 'an honest client lost its connection');
    assert.equal(all.unanswered, 0, `honest messages were refused or not answered: ${JSON.stringify(told.map(({ unanswered }) => unanswered))}`);
    assert.equal(all.missing, 0, 'acknowledged messages did not arrive');
    assert.equal(all.repeated, 0, 'messages arrived twice');
    assert.ok(all.acked > 0 && all.deliveries > all.acked, 'nothing was judged');
    assert.ok(closed > FLOODS, `the floods were not closed: ${closed}`);
  } finally {
    await stopLive();
    await Promise.all([...parts, ...floods].map((each) => each.stop()));
    await cluster.stop();
    await postgres.kill();
  }
});
