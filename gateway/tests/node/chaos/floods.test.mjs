// Sixty-four connections that send whatever costs a node the most, and come back as soon as they are closed, against a node
// that has one core: its honest clients, its probes and its lease. `make chaos`. It says what it measured.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { availableParallelism, setPriority } from 'node:os';
import { test } from 'node:test';

import { EVERYTHING, bounded } from '../support/clients.mjs';
import { startCluster } from '../support/cluster.mjs';
import { FLOODS, startFloods } from '../support/floods.mjs';
import { sumMetric } from '../support/gateway.mjs';
import { stopwatch } from '../support/measure.mjs';
import { request } from '../support/raw.mjs';
import { delay } from '../support/wait.mjs';

const CONNECTIONS = 64;
const CLIENTS = 20;
const SECONDS = Number(process.env.CHAOS_FLOOD_SECONDS ?? 20);
/** Floods to be run one by one, too: all of them with `CHAOS_FLOOD_EACH=1`. */
const EACH = process.env.CHAOS_FLOOD_EACH === '1' ? FLOODS.map(({ name }) => name) : [];

const percentile = (values, share) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN;
const told = (values) => `median ${percentile(values, 0.5).toFixed(1)}, p99 ${percentile(values, 0.99).toFixed(1)}, worst ${Math.max(...values).toFixed(1)} ms`;

/** Pins a process, all its threads, to a core. */
function pin(pid, core) {
  execFileSync('taskset', ['-apc', String(core), String(pid)], { stdio: 'ignore' });
}

/** Honest clients who ask without pause for an answer every 20 ms, and a probe that asks for `/live` every 50 ms. */
function measure(node, clients, seconds) {
  const [acks, lives, late] = [[], [], []];
  const whole = stopwatch();
  const asking = clients.map(async (socket, n) => {
    await delay(n);
    while (whole() < seconds * 1_000) {
      const one = stopwatch();
      const answer = await socket.timeout(10_000).emitWithAck('echo', n).catch(() => undefined);
      if (answer === n) acks.push(one());
      else late.push(one());
      await delay(20);
    }
  });
  const probing = (async () => {
    while (whole() < seconds * 1_000) {
      const one = stopwatch();
      const answer = await request(node.port, 'GET', '/live', { timeout: 10_000 }).catch((error) => error);
      if (answer.status === 200) lives.push(one());
      else late.push(one());
      await delay(50);
    }
  })();
  return Promise.all([...asking, probing]).then(() => ({ acks, lives, late }));
}

async function run(t, cluster, clients, only) {
  const [node] = cluster.nodes;
  const quiet = await measure(node, clients, 5);
  const before = await node.metrics();
  const token = node.token({ ...EVERYTHING, sub: 'flood' });
  const floods = await Promise.all(
    [0, 1].map(() => startFloods({ port: node.port, token, connections: CONNECTIONS / 2, core: availableParallelism() > 1 ? 1 : 0, only })),
  );
  const flooded = await measure(node, clients, SECONDS);
  const reports = await Promise.all(floods.map((flood) => flood.stop()));
  const after = await node.metrics();
  const grown = (...what) => sumMetric(after, ...what) - sumMetric(before, ...what);
  const losses = async (each) => sumMetric(await each.metrics(), 'muster_lease_losses_total');
  const lost = (await Promise.all(cluster.nodes.map(losses))).reduce((sum, one) => sum + one, 0);
  const [opened, closed] = ['opened', 'closed'].map((what) => reports.reduce((sum, report) => sum + report[what], 0));
  const longest = Math.max(...reports.map((report) => report.longest));
  t.diagnostic(`${only ?? 'all floods'}: acks without floods ${told(quiet.acks)}; under them ${told(flooded.acks)}; /live ${told(flooded.lives)} (without ${told(quiet.lives)}); ` +
    `${flooded.late.length} late, ${lost} leases lost; ${opened} connections opened, ${closed} closed, the longest after ${longest.toFixed(0)} ms; ` +
    `${grown('muster_rate_limited_total')} over a limit, ${grown('muster_bad_input_total')} bad`);
  for (const report of reports) if (process.env.CHAOS_FLOOD_VERBOSE) t.diagnostic(JSON.stringify(report.byFlood));
  return { quiet, flooded, lost, opened, closed, longest, counted: grown('muster_rate_limited_total') + grown('muster_bad_input_total') };
}

test('a node with one core under floods from 64 connections', { timeout: 600_000 }, async (t) => {
  const cluster = await startCluster(2, { env: { LEASE: '6s', WORKERS: '1' } });
  try {
    const [node, other] = cluster.nodes;
    if (availableParallelism() > 1) {
      pin(node.pid, 0);
      pin(other.pid, 1);
      pin(process.pid, 1);
    }
    if (process.getuid() === 0) for (const pid of [node.pid, other.pid, process.pid]) setPriority(pid, Number(process.env.CHAOS_PRIORITY ?? -5));
    const clients = await bounded(CLIENTS, 5, (n) => node.clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `honest${n}` } }));
    for (const only of EACH) await run(t, cluster, clients, only);
    const { quiet, flooded, lost, opened, closed, longest, counted } = await run(t, cluster, clients);
    assert.equal(flooded.late.length, 0, 'answers that did not come');
    assert.equal(clients.filter((socket) => socket.connected).length, CLIENTS);
    assert.equal(lost, 0, 'leases lost');
    assert.ok(closed >= CONNECTIONS && opened - closed <= 2 * CONNECTIONS, `${opened} opened, ${closed} closed`);
    assert.ok(counted >= closed - CONNECTIONS, `${counted} counted`);
    assert.ok(longest <= 1_000, `a flood went on for ${longest} ms`);
    const [p99, calm] = [percentile(flooded.acks, 0.99), percentile(quiet.acks, 0.99)];
    assert.ok(p99 <= 100 && p99 <= 10 * Math.max(calm, 1), `acks: ${p99} ms instead of ${calm} ms`);
    assert.ok(percentile(flooded.lives, 0.99) <= 100, '/live');
  } finally {
    await cluster.stop();
  }
});
