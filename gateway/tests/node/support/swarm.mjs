// Thousands of official clients in a few processes, because one process could not handle all of their events. The
// processes run `swarm_process.mjs`.

import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import { bounded } from './clients.mjs';
import { within } from './wait.mjs';

const PROGRAM = fileURLToPath(new URL('./swarm_process.mjs', import.meta.url));

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Connects a client for each of `plans` (`{url, token, room, transports}`), distributed over `processes`, `width` at a
 * time: `{settled(), report(), stop()}`. `settled` is how many are connected and in their rooms, and `report` the stays
 * of each.
 */
export async function startSwarm(plans, { processes = 3, width = 60 } = {}) {
  const parts = Array.from({ length: processes }, part);
  const swarm = {
    settled: async () => (await Promise.all(parts.map((each) => each.ask('settled')))).reduce((sum, count) => sum + count, 0),
    report: async () => (await Promise.all(parts.map((each) => each.ask('report')))).flat(),
    async stop() {
      await Promise.all(parts.map((each) => each.stop()));
    },
  };
  try {
    await bounded(plans.length, width, (at) => parts[at % processes].ask('start', plans[at]));
  } catch (error) {
    await swarm.stop();
    throw error;
  }
  return swarm;
}

function part() {
  const child = fork(PROGRAM, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], serialization: 'advanced' });
  running.add(child);
  const waiting = new Map();
  let next = 0;
  child.on('message', ({ id, answer }) => {
    waiting.get(id)(answer);
    waiting.delete(id);
  });
  const exited = new Promise((resolve) => { child.once('exit', resolve); }).finally(() => running.delete(child));
  const ask = (command, options) => {
    next += 1;
    const id = next;
    const answer = new Promise((resolve) => { waiting.set(id, resolve); });
    child.send({ id, command, options });
    return within(answer, 60_000, `the swarm's answer to '${command}'`);
  };
  const stop = async () => {
    await Promise.race([ask('end').catch(() => {}), exited]);
    await within(exited, 10_000, 'the end of a part of the swarm').catch(() => child.kill('SIGKILL'));
  };
  return { ask, stop };
}
