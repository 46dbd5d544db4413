// The cluster of `make cluster`: it leaves nothing behind, however it ends, and prints how to create tokens for more
// users.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { afterEach, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { gatewayBinary, runGateway } from './support/gateway.mjs';
import { freePort } from './support/ports.mjs';
import { until, within } from './support/wait.mjs';

const SCRIPT = fileURLToPath(new URL('../../deploy/cluster.sh', import.meta.url));

/** Every process: its id, its parent's and its command line. */
function processes() {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
      return [{ pid: Number(pid), parent, command: readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ') }];
    } catch {
      // The process has ended since the directory was read.
      return [];
    }
  });
}

async function start() {
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, GATEWAY: gatewayBinary(), FRONT_PORT: String(await freePort()) };
  const child = spawn('bash', [SCRIPT], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text) => { output += text; });
  child.stderr.setEncoding('utf8').on('data', (text) => { output += text; });
  const ended = onceEvent(child, 'close');
  await until(child.stdout, 'data', () => /Ctrl-C ends/.test(output), { timeout: 60_000, what: 'the cluster to be up' });
  const [, secret] = /^JWT_SECRET +(\S+)$/m.exec(output);
  const work = secret.replace(/\/jwt_secret$/, '');
  // Each part is a child of the script; PostgreSQL has children itself.
  const parts = processes().filter(({ parent, command }) => parent === child.pid || command.includes(work));
  return { child, ended, secret, parts, output: () => output };
}

/** The parts of the cluster that still run. */
function left({ parts }) {
  const ids = new Set(parts.map(({ pid }) => pid));
  return processes().filter(({ pid, command }) => ids.has(pid) && parts.some((part) => part.pid === pid && part.command === command));
}

describe('cluster.sh', () => {
  let cluster;
  afterEach(async () => {
    cluster?.child.kill('SIGTERM');
    await cluster?.ended;
  });

  test('prints the path of its secret, and leaves no process behind after SIGTERM', { timeout: 120_000 }, async () => {
    cluster = await start();
    assert.equal(statSync(cluster.secret).mode & 0o777, 0o600);
    const token = await runGateway(['token', '--user', 'bob'], { env: { JWT_SECRET: readFileSync(cluster.secret, 'utf8') } });
    assert.equal(token.code, 0, token.stderr);
    const [, front] = /^console +(http:\/\/[^/]+)\//m.exec(cluster.output());
    const ask = (authorization) => fetch(`${front}/api/sos/nearby?latitude=1&longitude=1`, { headers: { Authorization: authorization } });
    assert.equal((await ask('Bearer x')).status, 401);
    assert.equal((await ask(`Bearer ${token.stdout.trim()}`)).status, 200, 'the token of another user is accepted');
    for (const part of ['redis-server', '/postgres ', 'haproxy', 'prometheus', gatewayBinary()]) {
      assert.ok(cluster.parts.some(({ command }) => command.includes(part)), `${part} runs`);
    }
    cluster.child.kill('SIGTERM');
    assert.deepEqual(await within(cluster.ended, 60_000, 'the end of the cluster'), [143, null]);
    assert.deepEqual(left(cluster), []);
  });

  test('ends completely when a part ends', { timeout: 120_000 }, async () => {
    cluster = await start();
    const redis = cluster.parts.find(({ command }) => command.includes('redis-server'));
    process.kill(redis.pid, 'SIGKILL');
    const [code] = await within(cluster.ended, 60_000, 'the end of the cluster');
    assert.equal(code, 1);
    assert.deepEqual(left(cluster), []);
  });
});
