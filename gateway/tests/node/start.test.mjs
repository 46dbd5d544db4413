// The start of a node and its signals: what it logs, when it logs that it is ready, how many files it may open.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';

import { EVERYTHING, ask, keeper } from './support/clients.mjs';
import { LEASE_MS } from './support/cluster.mjs';
import { gatewayBinary, startGateway, temporaryDirectory } from './support/gateway.mjs';
import { freePort } from './support/ports.mjs';
import { startPostgres } from './support/postgres.mjs';
import { request } from './support/raw.mjs';
import { startRedis } from './support/redis.mjs';
import { once, until } from './support/wait.mjs';

describe('the start', { concurrency: 4 }, () => {
  test('describes the node in one log line', async () => {
    const node = await startGateway({ env: { MOUNTS: 'relay=/relay,chat=/', CORS_ORIGINS: 'https://app.example.org', MAX_CONNECTIONS: '5000' } });
    try {
      const started = node.logs.find((entry) => entry.message === 'started');
      assert.equal(started.apps, 'chat=/,relay=/relay');
      assert.equal(started.records, node.databaseUrl);
      assert.match(started.redis, /none/);
      assert.match(started.origins, /https:\/\/app\.example\.org/);
      assert.equal(started.max_connections, '5000');
      assert.equal(started.pid, node.pid);
      assert.ok(started.version && started.commit && started.files > 0);
      assert.equal((await fetch(started.docs)).status, 200);
      await node.waitLog((entry) => entry.message === 'ready');
      assert.equal(node.output.stdout, '', 'no banner without a terminal');
    } finally {
      await node.kill();
    }
  });

  test('"ready" is logged when /ready is 200, and an unavailable Redis is named', { timeout: 60_000 }, async () => {
    const port = await freePort();
    const node = await startGateway({ env: { REDIS_HOST: '127.0.0.1', REDIS_PORT: port, LEASE: `${LEASE_MS}ms` } });
    let redis;
    try {
      const away = await node.waitLog((entry) => /cannot connect to Redis/.test(entry.message ?? ''));
      assert.equal(away.server, `redis://127.0.0.1:${port}`);
      const waits = await node.waitLog((entry) => /not ready yet/.test(entry.message ?? ''));
      assert.match(waits.failed, /redis/);
      assert.equal((await request(node.port, 'GET', '/ready')).status, 503);
      redis = await startRedis({ port });
      await node.waitLog((entry) => entry.message === 'ready', { timeout: 20_000 });
      assert.equal((await request(node.port, 'GET', '/ready')).status, 200);
    } finally {
      await node.kill();
      await redis?.stop();
    }
  });

  test('LOG=debug is about clients, not about statements', { timeout: 60_000 }, async () => {
    const postgres = await startPostgres();
    const node = await startGateway({ env: { LOG: 'debug', DATABASE_URL: postgres.url } });
    const clients = keeper(node);
    try {
      const socket = await clients.connect({ claims: { userId: 'ann' } });
      assert.equal((await ask(socket, 'join_room', 'r')).success, true);
      await node.waitLog((entry) => entry.level === 'DEBUG' && /^(gateway|fanout)/.test(entry.target), { what: 'of a client' });
      const others = node.logs.filter((entry) => ['DEBUG', 'TRACE'].includes(entry.level) && !/^(gateway|fanout|shared)/.test(entry.target));
      assert.deepEqual(others, []);
    } finally {
      clients.closeAll();
      await node.kill();
      await postgres.kill();
    }
  });

  test('the soft limit of open files is raised to the hard one, and a small hard one causes a warning', async () => {
    for (const [hard, isSmall] of [[20_000, false], [2_048, true]]) {
      const env = { PATH: process.env.PATH, LISTEN: '127.0.0.1:0', INTERNAL_LISTEN: '127.0.0.1:0', DATABASE_URL: 'sqlite::memory:', LOG_FORMAT: 'json', FIRST_TOKEN: 'stdout' };
      const limits = `ulimit -Sn 1024 && ulimit -Hn ${hard} && exec "$0"`;
      const child = spawn('bash', ['-c', limits, gatewayBinary()], { cwd: temporaryDirectory(), env, stdio: ['ignore', 'pipe', 'pipe'] });
      let log = '';
      child.stderr.setEncoding('utf8').on('data', (text) => { log += text; });
      try {
        await until(child.stderr, 'data', () => /"message":"ready"/.test(log), { what: 'the node to be ready' });
        const entries = log.trim().split('\n').map((line) => JSON.parse(line));
        const started = entries.find((entry) => entry.message === 'started');
        assert.deepEqual([started.files, started.max_connections], [hard, String(hard - 1_000)]);
        assert.equal(entries.some((entry) => /limit of open files is small/.test(entry.message)), isSmall);
        assert.match(readFileSync(`/proc/${child.pid}/limits`, 'utf8'), new RegExp(`Max open files +${hard} +${hard} `));
        const metrics = await (await fetch(`http://${started.internal}/metrics`)).text();
        assert.match(metrics, new RegExp(`^process_max_fds ${hard}$`, 'm'));
        const [, open] = /^process_open_fds (\d+)$/m.exec(metrics);
        assert.ok(Number(open) > 5 && Number(open) < 200, open);
      } finally {
        child.kill('SIGKILL');
      }
    }
  });
});

describe('signals', { concurrency: 3 }, () => {
  test('SIGHUP, SIGUSR1 and SIGUSR2 disconnect no client, and are logged', async () => {
    const node = await startGateway();
    const clients = keeper(node);
    try {
      const socket = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
      for (const signal of ['SIGHUP', 'SIGUSR1', 'SIGUSR2']) {
        node.signal(signal);
        await node.waitLog((entry) => entry.signal === signal);
      }
      assert.equal(await ask(socket, 'echo', 1), 1);
      assert.equal(node.child.exitCode, null);
    } finally {
      clients.closeAll();
      await node.kill();
    }
  });

  test('SIGQUIT drains like SIGTERM', async () => {
    const node = await startGateway();
    const clients = keeper(node);
    try {
      const socket = await clients.connect({ namespace: '/relay' });
      socket.io.reconnection(false);
      const closed = once(socket, 'disconnect');
      node.signal('SIGQUIT');
      assert.deepEqual(await node.exited, { code: 0, signal: null });
      assert.equal((await closed)[0], 'transport close');
      assert.ok(node.logs.some((entry) => entry.message === 'draining') && node.logs.some((entry) => entry.message === 'stopped'));
    } finally {
      clients.closeAll();
      await node.kill();
    }
  });
});
