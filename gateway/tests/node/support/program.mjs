// Server programs that tests start, wait for and end.

import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';

import { eventually, within } from './wait.mjs';

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Runs `command` and waits until `isUp()` answers something truthy: returns `stop()`. `name` is the program's name, and
 * `install` the message if it is missing.
 */
export async function startProgram({ name, install, command, args, options, isUp, timeout = 20_000 }) {
  const child = spawn(command, args, { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
  running.add(child);
  let failure;
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text) => { log += text; });
  child.on('error', (error) => { failure = error.code === 'ENOENT' ? new Error(install) : error; });
  const exited = onceEvent(child, 'close').catch(() => {}).finally(() => running.delete(child));
  await eventually(async () => failure ?? (child.exitCode !== null || isUp()), { timeout, what: `${name} to answer` });
  if (failure) throw failure;
  if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}: ${log}`);
  return async () => {
    child.kill('SIGKILL');
    await within(exited, 10_000, `the end of ${name}`);
  };
}

/** Whether an address answers with success. */
export const answers = (url) => fetch(url).then((answer) => answer.ok, () => false);
