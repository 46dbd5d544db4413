// One measurement: fresh servers, one run of the tester, and its report.

import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';

import { seconds } from './options.mjs';
import { Servers, freePort, run } from './processes.mjs';
import { DISTURBED_PERCENT, disturbance } from './statistics.mjs';

/** A measurement that takes longer hangs. */
const LIMIT_MS = 300_000;
const LOST_OR_WRONG = 1;

/**
 * Measures, and repeats once if other processes disturbed it; the less disturbed measurement counts.
 * A measurement has `figures` by path, or the reason in `failure` why it has none.
 */
export async function measure(scenario, server, place) {
  const first = await measureOnce(scenario, server, place);
  if (first.failure || disturbance(first) <= DISTURBED_PERCENT) return first;
  const second = await measureOnce(scenario, server, place);
  if (second.failure) return { ...first, repeated: true, failure: second.failure };
  const [kept, dropped] = disturbance(second) < disturbance(first) ? [second, first] : [first, second];
  // A fault counts, however disturbed the machine was.
  return { ...kept, faults: kept.faults ?? dropped.faults, repeated: true, dropped: { figures: dropped.figures, load: dropped.load } };
}

async function measureOnce(scenario, server, { options, work: place, track }) {
  const work = mkdtempSync(join(place, 'one-'));
  const servers = new Servers(options.serverCore, work);
  track(servers);
  const secret = randomBytes(32).toString('hex');
  try {
    const { urls, redisPort } = await start(servers, scenario, server, { options, work, secret });
    const found = server.nodes
      ? await runTester(scenario, server, urls, { options, secret, pids: servers.pids, redisPort })
      : await benchmarkRedis(urls[0], options);
    return { ...found, failure: found.failure ?? servers.dead };
  } catch (error) {
    return { figures: {}, failure: error.message };
  } finally {
    await servers.stop();
    rmSync(work, { recursive: true, force: true });
  }
}

/** Starts the nodes, and a Redis first if there is not just one of them; returns where they listen (their internal listeners, for
 * a scenario of a backend), and the Redis. */
async function start(servers, scenario, server, { options, work, secret }) {
  const redisPort = server.nodes === 1 ? undefined : await freePort();
  if (redisPort) {
    await servers.start(redisPort, {
      command: ['redis-server', '--port', String(redisPort), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', work],
    });
  }
  if (!server.nodes) return { urls: [redisPort], redisPort };
  const urls = [];
  for (let at = 0; at < server.nodes; at += 1) {
    const [port, internalPort] = [await freePort(), await freePort()];
    await servers.start(port, server.node({ port, internalPort, redisPort, work, options, scenario, secret }));
    urls.push(scenario.ofBackend ? `http://127.0.0.1:${internalPort}` : `ws://127.0.0.1:${port}`);
  }
  return { urls, redisPort };
}

async function runTester(scenario, server, urls, { options, secret, pids, redisPort }) {
  const [subcommand, ...flags] = scenario.flags;
  const command = [
    options.loadtest, server.nodes === 1 ? scenario.alone ?? subcommand : subcommand, ...flags,
    ...(scenario.duration ? ['--duration', options.duration ?? scenario.duration] : []),
    ...urls.flatMap((url) => ['--url', url]), ...pids.flatMap((pid) => ['--server-pid', String(pid)]),
    ...(scenario.ofBackend && redisPort ? ['--redis', `127.0.0.1:${redisPort}`] : []), '--json',
  ];
  const limitMs = LIMIT_MS + 1000 * seconds(options.duration ?? '0s');
  const { code, stdout, stderr } = await run(options.testCore, command, { env: { JWT_SECRET: secret }, limitMs });
  if (code !== 0 && code !== LOST_OR_WRONG) {
    const reason = code === null ? `not done after ${limitMs / 1000} s` : stderr.trim().split('\n')[0];
    return { figures: {}, failure: reason };
  }
  return { ...readReport(scenario, JSON.parse(stdout), code === LOST_OR_WRONG), warnings: stderr.trim().split('\n').filter(Boolean) };
}

/** Extracts a scenario's figures from a report of the tester. */
export function readReport(scenario, report, faulty) {
  const { own_core_percent, others_core_percent, steal_percent, server_core_percent } = report;
  const at = (path) => path.split('.').reduce((value, key) => value?.[key], report);
  return {
    figures: Object.fromEntries(scenario.figures.map(({ path }) => [path, at(path)]).filter(([, value]) => typeof value === 'number')),
    load: { own_core_percent, others_core_percent, steal_percent, server_core_percent },
    faults: faulty ? Object.fromEntries(Object.entries(report.faults ?? {}).filter(([, count]) => count)) : undefined,
  };
}

/** Measures Redis with one client, 32 commands in flight and messages of the scenarios' length. */
async function benchmarkRedis(port, options) {
  const command = ['redis-benchmark', '-p', String(port), '-c', '1', '-P', '32', '-n', '300000', '--csv', 'PUBLISH', 'channel', 'x'.repeat(300)];
  const { code, stdout, stderr } = await run(options.testCore, command, { limitMs: LIMIT_MS });
  const rate = Number(stdout.trim().split('\n').at(-1).split(',')[1]?.replaceAll('"', ''));
  if (code !== 0 || !(rate > 0)) return { figures: {}, failure: `redis-benchmark: ${stderr || stdout}` };
  return { figures: { broadcasts_per_s: rate } };
}
