// No output contains a secret: not print-config, no error, no log line, not `/ready`. And no web page reaches the
// internal listener of a node without a token.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { ask, keeper } from './support/clients.mjs';
import { gatewayBinary, runGateway, startGateway, temporaryDirectory } from './support/gateway.mjs';
import { freePort } from './support/ports.mjs';
import { startPostgres } from './support/postgres.mjs';
import { request } from './support/raw.mjs';
import { startRedis } from './support/redis.mjs';
import { eventually, until, within } from './support/wait.mjs';

/** Part of every secret in every setting below. */
const HUSH = 'hushhush7';
const NAME = 'name-of-a-user';

function assertSilent(text, about) {
  for (const secret of [HUSH, NAME]) assert.ok(!text.includes(secret), `${about} holds ${secret}:\n${text}`);
}

function configFile(text) {
  const path = join(temporaryDirectory(), 'gateway.toml');
  writeFileSync(path, text);
  return path;
}

const FREE = { LISTEN: '127.0.0.1:0', INTERNAL_LISTEN: '127.0.0.1:0' };
const URLS = {
  JWKS_URL: `https://${NAME}:${HUSH}@127.0.0.1:1/jwks?key=${HUSH}#${HUSH}`,
  PUSH_WEBHOOK_URL: `https://${NAME}:${HUSH}@127.0.0.1:1/push?key=${HUSH}`,
  DATABASE_URL: `postgres://${NAME}:${HUSH}@127.0.0.1:1/records?password=${HUSH}`,
  REDIS_URL: `redis://${NAME}:${HUSH}@127.0.0.1:1`,
  PUSH_WEBHOOK_SECRET: HUSH,
  INTERNAL_TOKEN: HUSH,
};

/** The descendants of a process. */
function descendants(pid) {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  return children.flatMap((child) => [child, ...descendants(child)]);
}

describe('print-config and check-config', { concurrency: 4 }, () => {
  test('show URLs without user info and query; the output is valid TOML and sets no wrong value', async () => {
    const printed = await runGateway(['print-config'], { env: URLS });
    assert.equal(printed.code, 0, printed.stderr);
    assertSilent(printed.stdout + printed.stderr, 'print-config');
    assert.match(printed.stdout, /^# jwks_url is set: "https:\/\/…@127\.0\.0\.1:1\/jwks\?…"$/m);
    assert.match(printed.stdout, /^# push_webhook_url is set: "https:\/\/…@127\.0\.0\.1:1\/push\?…"$/m);
    assert.match(printed.stdout, /^# database_url is set$/m);
    const again = await runGateway(['check-config', '--config', configFile(printed.stdout)]);
    assert.equal(again.code, 0, again.stderr);
  });

  test('credentials in a wrong place, and values of a wrong type, are not repeated', async () => {
    const wrong = {
      REDIS_URL: `http://${NAME}:${HUSH}@h`, DATABASE_URL: `mysql://${NAME}:${HUSH}@h/x`, JWKS_URL: `ftp://${NAME}:${HUSH}@h/?${HUSH}`,
      PUSH_WEBHOOK_URL: `ftp://${NAME}:${HUSH}@h/?${HUSH}`, ADVERTISE_URL: `http://${NAME}:${HUSH}@h`, LISTEN: `${NAME}:${HUSH}@h`,
      CORS_ORIGINS: `https://${NAME}:${HUSH}@h/x`, REDIS_PREFIX: `redis://${NAME}:${HUSH}@h`, LOG: `=${NAME}:${HUSH}@=`, JWT_SECRET: HUSH,
    };
    for (const command of ['check-config', 'print-config', 'serve']) {
      const { code, stdout, stderr } = await runGateway([command], { env: wrong });
      assert.notEqual(code, 0, command);
      assertSilent(stdout + stderr, command);
      for (const key of ['REDIS_URL', 'DATABASE_URL', 'JWKS_URL', 'PUSH_WEBHOOK_URL', 'ADVERTISE_URL', 'LISTEN']) assert.ok(stderr.includes(key), `${key} in ${stderr}`);
    }
    for (const value of ['12345.25', 'true', '{ a = "hushhush7" }', '["hushhush7", 12345]', 'hushhush7', '"hushhush7', "'hushhush7\n"]) {
      for (const key of ['jwt_secret', 'internal_token', 'redis_url', 'database_url', 'push_webhook_secret']) {
        const { code, stderr } = await runGateway(['check-config', '--config', configFile(`${key} = ${value}\n`)]);
        assert.notEqual(code, 0, `${key} = ${value}`);
        assert.ok(!/12345|true|hushhush7/.test(stderr), stderr);
      }
    }
  });

  test('guessable secrets cause warnings, but no failure', async () => {
    const { code, stdout, stderr } = await runGateway(['check-config'], { env: { MOUNTS: 'emergencies=/', JWT_SECRET: 'short', INTERNAL_TOKEN: 'change-me-too', PUSH_WEBHOOK_URL: 'http://push.example/', PUSH_WEBHOOK_SECRET: 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' } });
    assert.equal(code, 0, stderr);
    assert.match(stdout, /valid/);
    for (const said of [/warning: JWT_SECRET is shorter than 32 bytes/, /warning: INTERNAL_TOKEN is shorter than 16 bytes/, /warning: PUSH_WEBHOOK_SECRET looks like/, /warning: PUSH_WEBHOOK_URL is not https/]) assert.match(stderr, said);
    assert.ok(!/change-me|aaaa/.test(stderr), stderr);
    const good = await runGateway(['check-config'], { env: { MOUNTS: 'chat=/', JWT_SECRET: '0f6c2a9be1d84c7aa35b9e6210d7f48c', INTERNAL_TOKEN: 'b9e6210d7f48c0f6' } });
    assert.deepEqual([good.code, good.stderr], [0, '']);
  });
});

describe('the log of a running node', () => {
  test('errors of Redis, PostgreSQL, the key set and the webhook are logged without credentials', { timeout: 90_000 }, async () => {
    const redis = await startRedis({ args: ['--user', 'default', 'off', '--user', NAME, 'on', '>right', '~*', '&*', '+@all'] });
    const postgres = await startPostgres();
    const hook = createServer((_, response) => { response.statusCode = 302; response.setHeader('Location', `http://127.0.0.1:1/?key=${HUSH}`); response.end(); });
    await new Promise((resolve) => { hook.listen(0, '127.0.0.1', resolve); });
    const port = hook.address().port;
    const node = await startGateway({
      env: {
        JWT_SECRET: null,
        LOG: 'trace',
        JWKS_URL: `http://${NAME}:${HUSH}@127.0.0.1:${port}/jwks?key=${HUSH}`,
        PUSH_WEBHOOK_URL: `http://${NAME}:${HUSH}@127.0.0.1:${port}/push?key=${HUSH}`,
        PUSH_WEBHOOK_SECRET: HUSH,
        INTERNAL_TOKEN: HUSH,
        REDIS_URL: `redis://${NAME}:${HUSH}@127.0.0.1:${redis.port}`,
        // This role does not exist.
        DATABASE_URL: `postgres://${NAME}:${HUSH}@127.0.0.1:${postgres.port}/postgres`,
      },
    });
    try {
      await node.waitLog((entry) => /cannot connect to Redis/.test(entry.message ?? ''), { timeout: 15_000 });
      await node.waitLog((entry) => /cannot fetch the key set/.test(entry.message ?? ''), { timeout: 15_000 });
      const refused = await node.waitLog((entry) => /the database is not available/.test(entry.message ?? ''), { timeout: 15_000 });
      assert.match(refused.error, /refuses the user or the password \(SQLSTATE 28/);
      for (const [at, path] of [[node.port, '/ready'], [node.port, '/health'], [node.internalPort, '/health'], [node.internalPort, '/metrics']]) {
        assertSilent((await request(at, 'GET', path)).body, path);
      }
      await eventually(() => node.logs.length > 20, { what: 'a few lines' });
      const own = node.logs.filter((entry) => !/^(hyper|reqwest|rustls|mio|tokio|want|h2|sqlx)/.test(entry.target ?? ''));
      assert.ok(!JSON.stringify(node.logs).includes(HUSH), 'a password or a query in the log');
      assertSilent(JSON.stringify(own), 'the log');
    } finally {
      await node.kill();
      hook.closeAllConnections();
      hook.close();
      await redis.stop();
      await postgres.kill();
    }
  });

  test('the error of a database that cannot be opened contains no credentials', async () => {
    const { code, stdout, stderr } = await runGateway([], { env: { ...FREE, DATABASE_URL: `postgres://${NAME}:${HUSH}@127.0.0.1:port/x?password=${HUSH}` } });
    assert.notEqual(code, 0);
    assertSilent(stdout + stderr, 'the error');
  });
});

describe('the token of a node without a key', { concurrency: 3 }, () => {
  test('goes to a file of its user if there is no terminal, and ends with the run', async () => {
    const node = await startGateway({ env: { JWT_SECRET: null } });
    const clients = keeper(node);
    try {
      const { file } = await node.waitLog((entry) => entry.file?.endsWith('.token'), { what: 'with the name of the file' });
      assert.equal(node.output.stdout, '', 'nothing is printed without a terminal');
      assert.equal(statSync(file).mode & 0o777, 0o600);
      const token = readFileSync(file, 'utf8').trim();
      assert.ok(!`${node.output.stdout}${node.output.stderr}`.includes(token), 'no output contains it');
      const socket = await clients.connect({ namespace: '/relay', token });
      assert.equal(await ask(socket, 'echo', 1), 1);
      clients.closeAll();
      await node.stop();
      assert.ok(!existsSync(file));
    } finally {
      clients.closeAll();
      await node.kill();
    }
  });

  test('is printed on a terminal, and on request', async () => {
    const directory = temporaryDirectory();
    const printed = /#token=[\w-]+\.[\w-]+\.[\w-]+/;
    const env = { ...FREE, PATH: process.env.PATH, DATABASE_URL: 'sqlite::memory:' };
    // `script` provides a terminal.
    const child = spawn('script', ['-qec', gatewayBinary(), '/dev/null'], { cwd: directory, env, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text) => { output += text; });
    try {
      await until(child.stdout, 'data', () => printed.test(output), { timeout: 20_000, what: 'the token on the terminal' });
    } finally {
      // Not `script`, which would leave the node behind, because it ignores the end of its terminal.
      const ended = new Promise((resolve) => { child.once('exit', resolve); });
      for (const pid of descendants(child.pid)) process.kill(pid, 'SIGTERM');
      await within(ended, 10_000, 'the end of the node');
    }
    const asked = await startGateway({ env: { JWT_SECRET: null, FIRST_TOKEN: 'stdout' } });
    try {
      await until(asked.child.stdout, 'data', () => printed.test(asked.output.stdout), { what: 'the token' });
    } finally {
      await asked.kill();
    }
  });

  test('is in no output if no file can be written, and the node runs', async () => {
    for (const url of ['sqlite::memory:', 'sqlite:file:x?mode=memory']) {
      const node = await startGateway({ env: { JWT_SECRET: null, DATABASE_URL: url } });
      try {
        await node.waitLog((entry) => /--first-token stdout/.test(entry.message ?? ''), { what: 'that says how to get one' });
        assert.doesNotMatch(node.output.stdout + node.output.stderr, /[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}/);
      } finally {
        await node.kill();
      }
    }
  });
});

describe('the internal listener', () => {
  test('without a token, refuses web pages, whatever host they name', async () => {
    const node = await startGateway();
    try {
      const port = node.internalPort;
      const internal = { 'X-Internal-Request': 'true' };
      const paths = [['GET', '/metrics'], ['GET', '/health'], ['GET', '/internal/rooms/x/count'], ['POST', '/internal/emit'], ['GET', '/internal/engine?sid=x']];
      const page = [
        { Origin: 'https://evil.example' }, { Origin: 'null' }, { Origin: `http://127.0.0.1:${port}` }, { 'Sec-Fetch-Site': 'cross-site' }, { 'Sec-Fetch-Site': 'same-origin' },
        { Host: 'evil.example' }, { Host: `evil.example:${port}` }, { Host: `127.0.0.1.evil.example:${port}` }, { Host: '10.1.2.3' }, { Host: `localhost.evil.example` },
      ];
      let refused = 0;
      for (const [method, path] of paths) {
        for (const headers of page) {
          // Nodes forward the headers of clients' browsers.
          if (path.startsWith('/internal/engine') && 'Sec-Fetch-Site' in headers) continue;
          const answer = await request(port, method, path, { headers: { ...internal, ...headers }, body: method === 'POST' ? '{}' : undefined });
          assert.deepEqual([answer.status, JSON.parse(answer.body)], [403, { success: false, error: 'Not for web pages' }], `${path} ${JSON.stringify(headers)}`);
          refused += 1;
        }
      }
      assert.equal((await node.metrics()).get('muster_bad_input_total{kind="page_on_internal"}'), refused);
      for (const headers of [{}, { Host: 'localhost' }, { Host: `localhost:${port}` }, { Host: '[::1]:9090' }, { 'Sec-Fetch-Site': 'none' }]) {
        assert.equal((await request(port, 'GET', '/metrics', { headers })).status, 200, JSON.stringify(headers));
        assert.equal((await request(port, 'GET', '/internal/rooms/x/count', { headers: { ...internal, ...headers } })).status, 200);
      }
      // Pages of the public listener are allowed.
      assert.equal((await request(node.port, 'GET', '/health', { headers: { Host: 'anything.example', 'Sec-Fetch-Site': 'cross-site' } })).status, 200);
    } finally {
      await node.kill();
    }
  });

  test('with a token, accepts any host, as probes and services need, but no page', async () => {
    const token = '0f6c2a9be1d84c7aa35b9e6210d7f48c';
    const node = await startGateway({ env: { INTERNAL_LISTEN: '0.0.0.0:0', INTERNAL_TOKEN: token } });
    try {
      const port = node.internalPort;
      for (const host of ['10.1.2.3:9090', 'muster-internal.default.svc:9090', 'one:9090']) {
        for (const path of ['/live', '/ready', '/metrics']) assert.equal((await request(port, 'GET', path, { headers: { Host: host } })).status, 200, `${path} by ${host}`);
      }
      const headers = { 'X-Internal-Request': 'true', Authorization: `Bearer ${token}` };
      assert.equal((await request(port, 'GET', '/internal/rooms/x/count', { headers })).status, 200);
      for (const page of [{ Origin: 'https://evil.example' }, { 'Sec-Fetch-Site': 'cross-site' }]) {
        assert.equal((await request(port, 'GET', '/metrics', { headers: page })).status, 403);
        assert.equal((await request(port, 'GET', '/internal/rooms/x/count', { headers: { ...headers, ...page } })).status, 403);
      }
    } finally {
      await node.kill();
    }
  });

  test('a cluster\'s nodes reach each other at the host of ADVERTISE_URL', { timeout: 60_000 }, async () => {
    const redis = await startRedis();
    const internal = await freePort();
    const shared = { REDIS_URL: redis.url, LEASE: '2s' };
    const one = await startGateway({ env: { ...shared, INTERNAL_LISTEN: `127.0.0.1:${internal}`, ADVERTISE_URL: `http://localhost.localdomain:${internal}` } });
    try {
      const known = (host) => request(internal, 'GET', '/metrics', { headers: { Host: host } });
      assert.equal((await known(`localhost.localdomain:${internal}`)).status, 200);
      assert.equal((await known(`other.localdomain:${internal}`)).status, 403);
    } finally {
      await one.kill();
      await redis.stop();
    }
  });
});
