// A private Redis server on a free port, for tests that need one, or that take it away.

import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { createServer } from 'node:net';

import { temporaryDirectory } from './gateway.mjs';
import { load } from './packages.mjs';
import { within } from './wait.mjs';

const INSTALL = 'Redis is not installed: run `apt-get install redis-server`';

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Starts a server: `{url, port, connect(), kill(), restart(), freeze(), thaw()}`. `kill` ends it at once; what it kept is
 * gone unless it was started with `appendonly`.
 */
export async function startRedis({ args = [], port } = {}) {
  const chosen = port ?? (await freePort());
  const directory = temporaryDirectory();
  const server = { port: chosen, url: `redis://127.0.0.1:${chosen}` };
  const clients = new Set();
  let child;
  let exited;

  server.restart = async () => {
    child = spawn(
      'redis-server',
      ['--port', String(chosen), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', directory, '--loglevel', 'notice', ...args],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    const started = child;
    running.add(started);
    let log = '';
    const ready = new Promise((resolve, reject) => {
      started.on('error', (error) => reject(error.code === 'ENOENT' ? new Error(INSTALL) : error));
      const read = (text) => {
        log += text;
        if (/Ready to accept connections/.test(log)) resolve();
      };
      started.stdout.setEncoding('utf8').on('data', read);
      started.stderr.setEncoding('utf8').on('data', read);
      exited = onceEvent(started, 'close').then(() => {
        running.delete(started);
        reject(new Error(`Redis ended: ${log}`));
      });
    });
    ready.catch(() => {});
    exited.catch(() => {});
    await within(ready, 10_000, 'Redis to be ready');
  };
  server.freeze = () => child.kill('SIGSTOP');
  server.thaw = () => child.kill('SIGCONT');
  server.kill = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGCONT');
    child.kill('SIGKILL');
    await within(exited, 10_000, 'the end of Redis');
  };
  /** A client of the npm package `redis`, closed with the server. */
  server.connect = async () => {
    const client = load('redis').createClient({ url: server.url });
    client.on('error', () => {});
    await client.connect();
    clients.add(client);
    return client;
  };
  /** Ends the server and every client of it. */
  server.stop = async () => {
    for (const client of clients) await within(client.quit(), 2_000, 'a client to quit').catch(() => {});
    clients.clear();
    await server.kill();
  };
  await server.restart();
  return server;
}

/** A port that nobody listens on now. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.on('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}
