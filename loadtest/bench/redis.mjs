// Measures what a publish costs Redis by the number of nodes that subscribe to its room: `node loadtest/bench/redis.mjs`.
// Redis runs on SERVER_CORE (0), redis-benchmark on TEST_CORE (1), with messages of the scenarios' length. One publish at a
// time, as on a quiet day, takes a write for each node; 32 in flight share reads and writes. The capacity page uses these
// figures.

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Servers, freePort, run, stopRunning, whenInterrupted } from './processes.mjs';

const NODES = [0, 1, 2, 5, 10, 20, 40];
const IN_FLIGHT = [1, 32];
const PUBLISHES = 50_000;
const BYTES = 300;
const LIMIT_MS = 120_000;

/** Microseconds of CPU that Redis has used. */
function cpu(port) {
  const info = execFileSync('redis-cli', ['-p', String(port), 'info', 'cpu'], { encoding: 'utf8' });
  const seconds = ['used_cpu_sys', 'used_cpu_user'].map((name) => Number(info.match(new RegExp(`^${name}:([\\d.]+)`, 'm'))[1]));
  return 1e6 * (seconds[0] + seconds[1]);
}

/** A subscriber that discards messages. */
async function listener(port) {
  const socket = connect(port, '127.0.0.1');
  socket.write('SUBSCRIBE channel\r\n');
  await once(socket, 'data');
  return socket.resume();
}

async function measure(nodes, inFlight) {
  const work = mkdtempSync(join(tmpdir(), 'muster-redis-'));
  const servers = new Servers(process.env.SERVER_CORE ?? '0', work);
  const listeners = [];
  // Leaves no process running, however this ends.
  const calledOff = whenInterrupted(async () => {
    stopRunning();
    await servers.stop();
    process.exit(130);
  });
  try {
    const port = await freePort();
    await servers.start(port, { command: ['redis-server', '--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dir', work] });
    for (let at = 0; at < nodes; at += 1) listeners.push(await listener(port));
    const before = cpu(port);
    const command = ['redis-benchmark', '-p', String(port), '-c', '1', '-P', String(inFlight), '-n', String(PUBLISHES), '-q', 'PUBLISH', 'channel', 'x'.repeat(BYTES)];
    const { code, stderr } = await run(process.env.TEST_CORE ?? '1', command, { limitMs: LIMIT_MS });
    if (code !== 0) throw new Error(`redis-benchmark: ${stderr}`);
    const each = (cpu(port) - before) / PUBLISHES;
    if (listeners.some(({ destroyed }) => destroyed)) throw new Error('Redis gave a listener up');
    return each;
  } finally {
    for (const socket of listeners) socket.destroy();
    await servers.stop();
    calledOff();
    rmSync(work, { recursive: true, force: true });
  }
}

process.stdout.write('nodes that listen  in flight  CPU per publish, µs  publishes/s of one Redis  messages out/s\n');
for (const inFlight of IN_FLIGHT) {
  for (const nodes of NODES) {
    const each = await measure(nodes, inFlight);
    const rate = 1e6 / each;
    const cells = [[nodes, 17], [inFlight, 9], [each.toFixed(2), 19], [Math.round(rate), 24], [Math.round(rate * nodes), 14]];
    process.stdout.write(`${cells.map(([value, width]) => String(value).padStart(width)).join('  ')}\n`);
  }
}
