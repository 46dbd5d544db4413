// A rolling restart as an operator sees it: three nodes behind a balancer, thousands of clients, steady publishing, and a
// Prometheus whose figures decide. `make chaos`; the dashboard's picture of it is kept in DASHBOARD_OUT.

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { EVERYTHING, unique } from '../support/clients.mjs';
import { startBalancer } from '../support/balancer.mjs';
import { count, ready, startCluster } from '../support/cluster.mjs';
import { drawDashboard } from '../support/dashboard_picture.mjs';
import { sumMetric } from '../support/gateway.mjs';
import { stopwatch } from '../support/measure.mjs';
import { load } from '../support/packages.mjs';
import { startPrometheus } from '../support/prometheus.mjs';
import { startSwarm } from '../support/swarm.mjs';
import { delay, eventually } from '../support/wait.mjs';

const { Emitter } = load('@socket.io/redis-emitter');

const JOB = 'muster';
const NODES = 3;
const CLIENTS = 3_000;
const ROOMS = 30;
const BROADCASTS_A_SECOND = 20;
const WINDOW_MS = Number(process.env.CHAOS_DRAIN_SECONDS ?? 15) * 1_000;
const DEFAULTS = { LEASE: '6s', LEAVE_HOLDBACK: '3s', SOCKETS_PER_USER: '0', EVENTS_PER_SECOND: '0', DRAIN: `${WINDOW_MS}ms` };
/** What the survivors may take in, in even shares of the window. */
const PEAK_MAX = 1.5;
/**
 * Handshakes are counted over every two seconds: the shortest time that holds two whole scrapes of each node, so that a
 * second's share is never a guess. At N/window = 70 a second, chance alone moves such a count by 8 %.
 */
const SHORT_MS = 2_000;
/** How long a client may be away: the backoff of its first try (0.5–1.5 s) and, had that failed, of its second (1–3 s). */
const AWAY_MAX_MS = 6_000;
/** What was published so long before a connection's end has been heard on it. */
const ON_ITS_WAY_MS = 1_000;

const now = () => performance.timeOrigin + performance.now();
const percentile = (values, share) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? 0;
const seconds = (ms) => (ms / 1_000).toFixed(1);

/** Publishes numbers to each room in turn, as a backend does; `published` holds, for each room, when each number was. */
async function startPublishing(redis, rooms) {
  const emitter = new Emitter(await redis.connect()).of('/relay');
  const published = new Map(rooms.map((room) => [room, []]));
  const running = stopwatch();
  let isOn = true;
  let sent = 0;
  const loop = (async () => {
    for (; isOn; sent += 1) {
      const room = rooms[sent % rooms.length];
      const times = published.get(room);
      times.push(now());
      emitter.to(room).emit('n', times.length - 1);
      await delay(Math.max(0, ((sent + 1) * 1_000) / BROADCASTS_A_SECOND - running()));
    }
  })();
  return {
    published,
    async stop() {
      isOn = false;
      await loop;
      return { sent, rate: sent / (running() / 1_000) };
    },
  };
}

/** How many sessions had been opened at any time on each of `instances`, as Prometheus saw it: samples in between are on the line. */
async function opened(prometheus, instances, from, to) {
  const at = (ms) => (ms / 1_000).toFixed(3);
  const width = Math.ceil((to - from) / 1_000);
  const series = await prometheus.get(`query?${new URLSearchParams({ query: `muster_sessions_opened_total{instance=~"${instances.join('|')}"}[${width}s]`, time: at(to) })}`);
  const curves = series.result.map(({ values }) => {
    let before = 0;
    let start = 0;
    return values.map(([time, text]) => {
      // A node that was started again counts from 0.
      if (Number(text) < before) start += before;
      before = Number(text);
      return [time * 1_000, start + before];
    });
  });
  const value = (curve, time) => {
    const after = curve.findIndex(([sampled]) => sampled >= time);
    if (after === 0) return curve[0][1];
    if (after === -1) return curve.at(-1)[1];
    const [[t0, v0], [t1, v1]] = [curve[after - 1], curve[after]];
    return v0 + ((v1 - v0) * (time - t0)) / (t1 - t0);
  };
  return (time) => curves.reduce((sum, curve) => sum + value(curve, time), 0);
}

/** The most handshakes a second, over any SHORT_MS between two times. */
function peak(opened, from, to) {
  let most = 0;
  for (let time = from; time + SHORT_MS <= to; time += 100) most = Math.max(most, (opened(time + SHORT_MS) - opened(time)) / (SHORT_MS / 1_000));
  return most;
}

/** What the clients heard, held against what was published. */
function judge(clients, published) {
  const seen = { stays: 0, broken: 0, repeated: 0, missedAtStart: 0, missedAtEnd: 0, heard: 0, away: [], missedAway: [], reasons: {}, refusals: 0 };
  for (const { room, stays, refusals } of clients) {
    const times = published.get(room);
    seen.refusals += refusals;
    let before;
    for (const stay of stays) {
      seen.stays += 1;
      seen.heard += stay.heard;
      seen.broken += stay.breaks;
      if (stay.joined !== undefined) {
        // Everything after the ack of the join is heard, up to the end of the connection.
        const due = times.findIndex((time) => time > stay.joined);
        const end = stay.ended ?? Infinity;
        const last = times.findLastIndex((time) => time < end - (stay.ended === undefined ? 0 : ON_ITS_WAY_MS));
        if (due !== -1 && last >= due) {
          if (stay.first === undefined || stay.first > due) seen.missedAtStart += 1;
          if (stay.last === undefined || stay.last < last) seen.missedAtEnd += 1;
        }
      }
      if (before) {
        if (stay.first !== undefined && before.last !== undefined) {
          if (stay.first <= before.last) seen.repeated += 1;
          else seen.missedAway.push(stay.first - before.last - 1);
        }
        if (stay.joined !== undefined) seen.away.push(stay.joined - before.ended);
      }
      if (stay.reason) seen.reasons[stay.reason] = (seen.reasons[stay.reason] ?? 0) + 1;
      before = stay;
    }
  }
  return seen;
}

describe('a rolling restart', () => {
  test(`of ${NODES} nodes under ${CLIENTS} clients: all come back, evenly, and miss nothing while they are connected`, { timeout: 600_000 }, async (t) => {
    const cluster = await startCluster(NODES, { env: DEFAULTS });
    let balancer;
    let prometheus;
    let swarm;
    try {
      const instance = (node) => `127.0.0.1:${node.internalPort}`;
      const instances = cluster.nodes.map(instance);
      balancer = await startBalancer(cluster.nodes.map(({ port }) => port));
      prometheus = await startPrometheus({ targets: instances, job: JOB });
      const began = now();
      const rooms = Array.from({ length: ROOMS }, () => unique('room'));
      const token = cluster.nodes[0].token;
      swarm = await startSwarm(Array.from({ length: CLIENTS }, (_, at) => ({
        url: balancer.url,
        room: rooms[at % ROOMS],
        token: token({ ...EVERYTHING, sub: `u${at}` }),
        // Half begin by polling, as clients do that are told nothing: behind this balancer most of their WebSockets
        // come in at another node than their session's.
        transports: at % 2 === 0 ? undefined : ['websocket'],
      })));
      const publishing = await startPublishing(cluster.redis, rooms);
      const everyone = () => eventually(async () => (await swarm.settled()) === CLIENTS, { timeout: 60_000, interval: 100, what: 'every client to be in its room' });
      await everyone();
      // A calm stretch for the graphs.
      await delay(8_000);

      const drains = [];
      for (let at = 0; at < NODES; at += 1) {
        const node = cluster.nodes[at];
        const metrics = await node.metrics();
        const held = sumMetric(metrics, 'muster_connections') + sumMetric(metrics, 'muster_tunnels');
        const drain = { instance: instance(node), held, from: now() };
        const each = stopwatch();
        const { code, signal } = await node.stop({ timeout: WINDOW_MS + 30_000 });
        drain.took = each();
        assert.deepEqual({ code, signal }, { code: 0, signal: null });
        node.assertQuiet();
        await everyone();
        drain.back = each() - drain.took;
        cluster.nodes[at] = Object.assign(await node.restart(), { clients: node.clients });
        await ready(cluster.nodes[at]);
        await eventually(async () => (await balancer.states()).every((state) => state === 'UP'), { timeout: 20_000, interval: 100, what: 'the node to be up in the balancer' });
        // Whatever its return might set off is this drain's.
        await delay(6_000);
        drain.to = now();
        drains.push(drain);
      }
      const { sent, rate } = await publishing.stop();
      await everyone();
      await eventually(async () => {
        const counts = await Promise.all(cluster.nodes.flatMap((node) => rooms.map((room) => count(node, room, '/relay'))));
        return counts.every((each) => each.count === CLIENTS / ROOMS && each.users === CLIENTS / ROOMS && !each.stale);
      }, { timeout: 20_000, interval: 250, what: 'the count of every room on every node to be the truth' });
      const ended = now();

      // Kept when the test is over, to be looked at.
      const kept = process.env.DASHBOARD_OUT ?? mkdtempSync(join(tmpdir(), 'muster-dashboard-'));
      mkdirSync(kept, { recursive: true });
      const picture = await drawDashboard({ prometheus, job: JOB, from: began, to: ended, directory: kept });
      t.diagnostic(`the dashboard: ${picture.html}, ${picture.png}`);
      assert.deepEqual([picture.empty, picture.crowded], [[], []]);

      for (const drain of drains) {
        drain.even = (drain.held * 1_000) / WINDOW_MS;
        const survivors = instances.filter((each) => each !== drain.instance);
        drain.peak = peak(await opened(prometheus, survivors, began, ended), drain.from, drain.to);
        drain.peakOfAll = peak(await opened(prometheus, instances, began, ended), drain.from, drain.to);
        t.diagnostic(`${drain.held} connections drained in ${seconds(drain.took)} s, the last client back ${seconds(drain.back)} s later; the survivors' handshakes: N/window ${drain.even.toFixed(0)}/s, peak ${drain.peak.toFixed(0)}/s (${(drain.peak / drain.even).toFixed(2)}), with the started node ${drain.peakOfAll.toFixed(0)}/s`);
      }
      const seen = judge(await swarm.report(), publishing.published);
      t.diagnostic(`${sent} broadcasts at ${rate.toFixed(1)}/s, heard ${seen.heard} times over ${seen.stays} connections: ${seen.broken} lost, repeated or out of order within one, ${seen.missedAtStart} times something after the join's ack, ${seen.missedAtEnd} times at the end, ${seen.repeated} heard on two`);
      t.diagnostic(`${seen.away.length} times away for ${percentile(seen.away, 0.5).toFixed(0)} ms (p50), ${percentile(seen.away, 0.99).toFixed(0)} ms (p99), ${Math.max(...seen.away).toFixed(0)} ms at most, missing ${percentile(seen.missedAway, 0.5)} (p50) and ${Math.max(...seen.missedAway)} broadcasts at most; ${seen.refusals} tries refused; ${JSON.stringify(seen.reasons)}`);
      assert.deepEqual([seen.broken, seen.repeated, seen.missedAtStart, seen.missedAtEnd], [0, 0, 0, 0]);
      assert.ok(rate > BROADCASTS_A_SECOND * 0.9, `${rate} broadcasts a second`);
      for (const drain of drains) {
        assert.ok(drain.held > 0 && drain.took < WINDOW_MS + 4_000, `${drain.took} ms for ${drain.held}`);
        // With the node that is started again, so that its return sets nothing off either.
        assert.ok(drain.peakOfAll <= PEAK_MAX * drain.even, `${drain.peakOfAll} handshakes a second, ${drain.even} were even`);
      }
      assert.ok(seen.away.length > 0, 'nobody was seen to go away');
      assert.ok(Math.max(...seen.away) <= AWAY_MAX_MS, `${Math.max(...seen.away)} ms away`);
    } finally {
      await swarm?.stop();
      await prometheus?.stop();
      await balancer?.stop();
      await cluster.stop();
    }
  });
});
