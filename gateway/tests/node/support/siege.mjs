// The parts of a siege beside its floods: handshakes, a user who exhausts every limit, and honest clients. Each part
// runs in a separate process (`siege_process.mjs`), so that no part delays another by sharing its event loop.

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import { within } from './wait.mjs';

const PROGRAM = fileURLToPath(new URL('./siege_process.mjs', import.meta.url));

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Starts a part: `role` is `handshakes`, `user` or `honest`. `nice` lowers the priority of the process, because a real
 * attacker does not take processor time from the server's machine. Returns `{ask(command), stop()}`.
 */
export function startPart(role, options, { nice = 0 } = {}) {
  const [command, ...args] = ['nice', '-n', String(nice), process.execPath, PROGRAM, role];
  const child = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], serialization: 'advanced' });
  running.add(child);
  const exited = new Promise((resolve) => { child.once('exit', resolve); }).finally(() => running.delete(child));
  const waiting = new Map();
  let next = 0;
  child.on('message', ({ id, answer }) => {
    waiting.get(id)?.resolve(answer);
    waiting.delete(id);
  });
  // Gives up on answers that can no longer arrive; otherwise their deadline would keep this process alive.
  exited.then(() => {
    for (const { reject } of waiting.values()) reject(new Error(`the part '${role}' has ended`));
  });
  const ask = (question, payload, { timeout = 60_000 } = {}) => {
    next += 1;
    const id = next;
    const answer = new Promise((resolve, reject) => { waiting.set(id, { resolve, reject }); });
    child.send({ id, command: question, payload });
    return within(answer, timeout, `the answer of the part '${role}' to '${question}'`);
  };
  // On the loaded machine it may take minutes until all its connections exist.
  const started = ask('start', options, { timeout: 300_000 });
  // Not every part is awaited; callers that await it still see the error.
  started.catch(() => {});
  return {
    started,
    ask,
    async stop() {
      await Promise.race([ask('end', undefined, { timeout: 5_000 }).catch(() => {}), exited]);
      await within(exited, 10_000, `the end of the part '${role}'`).catch(() => child.kill('SIGKILL'));
    },
  };
}

/** The value below which `share` of `values` lie; 0 if there are none. */
export function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}
