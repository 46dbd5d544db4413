// Processes of the runner, each pinned to a core and stopped by its pid.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const LISTENS_MS = 20_000;
const ENDS_MS = 15_000;

/** The servers of one measurement; they log into `work`. */
export class Servers {
  #children = [];
  #stopped = false;

  constructor(core, work) {
    this.core = core;
    this.work = work;
  }

  get pids() {
    return this.#children.map(({ pid }) => pid);
  }

  /** Starts a process and waits until it accepts connections on `port`. */
  async start(port, { command, env = {} }) {
    if (this.#stopped) throw new Error('broken off');
    const log = join(this.work, `log-${this.#children.length}`);
    const output = openSync(log, 'w');
    // taskset becomes the command, so the pid is the server's own.
    const child = spawn('taskset', ['-c', this.core, ...command], {
      stdio: ['ignore', output, output],
      cwd: this.work,
      env: { ...process.env, ...env },
    });
    closeSync(output);
    let failure;
    child.on('error', (error) => { failure = error; });
    this.#children.push(child);
    const deadline = Date.now() + LISTENS_MS;
    while (!(await listens(port))) {
      if (failure || ended(child) || Date.now() > deadline) {
        throw new Error(`${command[0]} does not listen: ${failure?.message ?? lastLines(log)}`);
      }
      await sleep(25);
    }
  }

  /** Why a server exited unexpectedly; undefined if all are running. */
  get dead() {
    const at = this.#children.findIndex(ended);
    if (at < 0) return undefined;
    const { exitCode, signalCode } = this.#children[at];
    return `a server ended (${signalCode ?? exitCode}): ${lastLines(join(this.work, `log-${at}`))}`;
  }

  /** Stops them in reverse order. */
  async stop() {
    this.#stopped = true;
    for (const child of this.#children.splice(0).reverse()) await end(child);
  }
}

/** Runs a program on a core until it exits; at the time limit it is killed, and its code is null. */
export async function run(core, command, { env = {}, limitMs }) {
  const child = spawn('taskset', ['-c', core, ...command], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  const texts = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr']) child[stream].setEncoding('utf8').on('data', (text) => { texts[stream] += text; });
  running.add(child);
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs);
  try {
    const [code] = await once(child, 'close');
    return { code, ...texts };
  } finally {
    clearTimeout(timer);
    running.delete(child);
  }
}

const running = new Set();

/** Stops the programs that `run` still runs. */
export function stopRunning() {
  for (const child of running) child.kill('SIGKILL');
}

/** Calls `end` when the runner gets a signal to stop. Returns a function that cancels this. */
export function whenInterrupted(end) {
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'];
  for (const signal of signals) process.once(signal, end);
  return () => { for (const signal of signals) process.off(signal, end); };
}

/** A port below the range from which the tester's connections take theirs. */
export async function freePort() {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 10_000);
    const server = createServer();
    const free = await new Promise((resolve) => {
      server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!free) continue;
    await new Promise((resolve) => { server.close(resolve); });
    return port;
  }
}

async function listens(port) {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

const ended = ({ exitCode, signalCode, pid }) => pid === undefined || exitCode !== null || signalCode !== null;

async function end(child) {
  if (ended(child)) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), ENDS_MS);
  await gone;
  clearTimeout(timer);
}

const lastLines = (file) => readFileSync(file, 'utf8').trim().split('\n').slice(-5).join('\n');
