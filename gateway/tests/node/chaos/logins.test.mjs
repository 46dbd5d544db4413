// Logins of strangers for some time, on one core: how much memory they take, whether it is given back, and how long an
// honest client waits for its acks meanwhile. `make chaos`.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { test } from 'node:test';

import { EVERYTHING, ask, bounded, keeper } from '../support/clients.mjs';
import { startGateway } from '../support/gateway.mjs';
import { resident } from '../support/hostile.mjs';
import { stopwatch } from '../support/measure.mjs';
import { request } from '../support/raw.mjs';
import { delay } from '../support/wait.mjs';

const SECONDS = Number(process.env.CHAOS_LOGIN_SECONDS ?? 20);
const AT_ONCE = 64;
const MIB = 2 ** 20;

/** Has all threads of a process run on one core. */
const pin = (pid, core) => execFileSync('taskset', ['-a', '-p', '-c', String(core), String(pid)]);

/** Milliseconds of acks, in order, until `isOver`; one every few milliseconds. */
async function acks(socket, isOver) {
  const times = [];
  while (!isOver()) {
    const watch = stopwatch();
    await ask(socket, 'echo', 1);
    times.push(watch());
    await delay(5);
  }
  return times.sort((a, b) => a - b);
}

const at = (times, share) => times[Math.min(times.length - 1, Math.floor(times.length * share))];
const shown = (times) => `p50 ${at(times, 0.5).toFixed(1)} ms, p99 ${at(times, 0.99).toFixed(1)} ms of ${times.length}`;

test(`${AT_ONCE} logins at once from as many addresses, for ${SECONDS} s`, { timeout: SECONDS * 1_000 + 180_000 }, async (t) => {
  const gateway = await startGateway({ env: { TRUSTED_PROXIES: '127.0.0.1/32', EVENTS_PER_SECOND: '0', WORKERS: '1' } });
  const clients = keeper(gateway);
  try {
    pin(gateway.pid, 0);
    if (availableParallelism() > 1) pin(process.pid, 1);
    const socket = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
    const quiet = stopwatch();
    const unloaded = await acks(socket, () => quiet() > 3_000);
    const before = resident(gateway.pid);
    let most = before;
    const watch = setInterval(() => { most = Math.max(most, resident(gateway.pid)); }, 20);
    const flood = stopwatch();
    const statuses = {};
    const isOver = () => flood() > SECONDS * 1_000;
    let sent = 0;
    const flooding = bounded(AT_ONCE, AT_ONCE, async () => {
      while (!isOver()) {
        sent += 1;
        const n = sent;
        const { status } = await request(gateway.port, 'POST', '/api/v1/auth/login', {
          headers: { 'Content-Type': 'application/json', 'X-Forwarded-For': `198.${18 + (n >> 16)}.${(n >> 8) % 256}.${n % 256}` },
          body: JSON.stringify({ email: `nobody${n}@example.com`, password: 'wrong' }),
          timeout: 60_000,
        });
        statuses[status] = (statuses[status] ?? 0) + 1;
        // Sooner than `Retry-After` says.
        if (status === 429) await delay(100);
      }
    });
    const [loaded] = await Promise.all([acks(socket, isOver), flooding]);
    clearInterval(watch);
    const end = resident(gateway.pid);
    const after = [];
    for (const pause of [5_000, 55_000]) {
      // No event says that memory was given back.
      await delay(pause);
      after.push(resident(gateway.pid));
    }
    const mib = (bytes) => `${(bytes / MIB).toFixed(0)} MiB`;
    t.diagnostic(`acks without a flood: ${shown(unloaded)}; within it: ${shown(loaded)}`);
    t.diagnostic(`logins: ${JSON.stringify(statuses)}`);
    t.diagnostic(`resident: ${mib(before)} before, ${mib(most)} at most, ${mib(end)} at its end, ${mib(after[0])} 5 s and ${mib(after[1])} 60 s later`);
    assert.ok(most - before <= 64 * MIB, `it grew by ${mib(most - before)}`);
    assert.ok(after[1] - before <= 16 * MIB, `${mib(after[1] - before)} did not come back within a minute`);
    // On a machine that is busy with other things, acks take their time without a flood, too.
    assert.ok(at(loaded, 0.99) <= Math.max(100, 10 * at(unloaded, 0.99)), `acks took ${shown(loaded)}`);
    gateway.assertQuiet();
  } finally {
    clients.closeAll();
    await gateway.kill();
  }
});
