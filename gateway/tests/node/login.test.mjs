// Users created on the command line, their logins over HTTP, and their tokens on a socket.

import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { startBalancer } from './support/balancer.mjs';
import { TRANSPORTS, ask, keeper, unique } from './support/clients.mjs';
import { ready, startCluster } from './support/cluster.mjs';
import { runGateway, startGateway, temporaryDirectory } from './support/gateway.mjs';
import { requestFrom, upgradeFrom } from './support/hostile.mjs';
import { load } from './support/packages.mjs';
import { startPostgres } from './support/postgres.mjs';
import { request } from './support/raw.mjs';
import { eventually, record } from './support/wait.mjs';

const jwt = load('jsonwebtoken');
const LOGIN = '/api/v1/auth/login';
const JSON_TYPE = { 'Content-Type': 'application/json' };

/** Runs `work` with a separate gateway, because a gateway remembers failed logins. */
async function withGateway(env, work) {
  const gateway = await startGateway({ env });
  const clients = keeper(gateway);
  const addUser = ({ email, name = 'Name', role = 'citizen', password }) => runGateway(
    ['user', 'add', '--email', email, '--name', name, '--role', role],
    { env: { DATABASE_URL: gateway.databaseUrl }, input: `${password}\n` },
  );
  const login = async (body, headers = {}) => {
    const answer = await request(gateway.port, 'POST', LOGIN, {
      headers: { ...JSON_TYPE, ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
    return { ...answer, json: answer.body === '' ? undefined : JSON.parse(answer.body) };
  };
  try {
    await work({ gateway, clients, addUser, login });
    gateway.assertQuiet();
  } finally {
    clients.closeAll();
    await gateway.kill();
  }
}

async function wholeStory(context) {
  const { gateway, clients, addUser, login } = context;
  const email = 'ann@example.com';
  const password = 'correct horse 🐎 battery';
  const added = await addUser({ email, name: 'Ann Ä', role: 'rescuer', password });
  assert.equal(added.code, 0, added.stderr);
  assert.ok(!`${added.stdout}${added.stderr}`.includes(password), 'the password is not printed');

  const answer = await login({ email, password });
  assert.equal(answer.status, 200, answer.body);
  assert.match(answer.headers['content-type'], /^application\/json/);
  assert.deepEqual(Object.keys(answer.json).sort(), ['success', 'token', 'user']);
  assert.equal(answer.json.success, true);
  const { token, user } = answer.json;
  assert.deepEqual({ ...user, id: '' }, { id: '', email, name: 'Ann Ä', role: 'rescuer', avatar: null });
  const claims = jwt.verify(token, gateway.secret, { algorithms: ['HS256'] });
  assert.equal(claims.userId ?? claims.id ?? claims.sub, user.id);
  assert.equal(claims.exp - claims.iat, 3_600, 'the token is valid for an hour');
  assert.ok(Math.abs(claims.iat - Date.now() / 1000) < 60, 'from now on');

  for (const transport of TRANSPORTS) {
    const room = unique('room');
    const socket = await clients.connect({ transport, token });
    const events = record(socket);
    assert.equal((await ask(socket, 'join_room', room)).success, true);
    const { message } = await ask(socket, 'send_message', { roomId: room, content: 'hello' });
    assert.equal(message.userId, user.id);
    assert.deepEqual(message.user, { id: user.id, name: 'Ann Ä', avatar: null });
    await events.take('new_message');
    socket.disconnect();
  }

  for (const line of gateway.logs) {
    const text = JSON.stringify(line);
    assert.ok(!text.includes(password) && !text.includes(token), 'neither password nor token is logged');
  }
}

describe('login', { concurrency: 4 }, () => {
  test('a user created on the command line logs in, and the token works on a socket', () => withGateway({}, wholeStory));

  test('the same on PostgreSQL', async () => {
    const postgres = await startPostgres();
    try {
      await withGateway({ DATABASE_URL: postgres.url }, wholeStory);
    } finally {
      await postgres.kill();
    }
  });

  test('a wrong password and an unknown e-mail get the same answer', () => withGateway({}, async ({ addUser, login }) => {
    await addUser({ email: 'ann@example.com', password: 'right one' });
    const wrong = await login({ email: 'ann@example.com', password: 'wrong one' });
    const unknown = await login({ email: 'nobody@example.com', password: 'right one' });
    for (const answer of [wrong, unknown]) {
      assert.equal(answer.status, 401);
      assert.deepEqual(answer.json, { success: false, error: 'Invalid credentials' });
    }
    assert.equal((await login({ email: 'ann@example.com', password: 'right one' })).status, 200);
  }));

  test('after five failures for one e-mail it is 429 with Retry-After, even for the right password', () => withGateway({ TRUSTED_PROXIES: '127.0.0.0/8' }, async ({ addUser, login }) => {
    await addUser({ email: 'ann@example.com', password: 'right one' });
    await addUser({ email: 'bob@example.com', password: 'right one' });
    for (let attempt = 1; attempt <= 5; attempt += 1) {
      const answer = await login({ email: 'ann@example.com', password: 'wrong' }, { 'X-Forwarded-For': `198.51.100.${attempt}` });
      assert.equal(answer.status, 401, `attempt ${attempt}`);
    }
    const blocked = await login({ email: 'ann@example.com', password: 'right one' }, { 'X-Forwarded-For': '198.51.100.77' });
    assert.equal(blocked.status, 429);
    assert.deepEqual(blocked.json, { success: false, error: 'Too many failed logins' });
    const retry = Number(blocked.headers['retry-after']);
    assert.ok(retry >= 1 && retry <= 60, `Retry-After: ${blocked.headers['retry-after']}`);
    const other = await login({ email: 'bob@example.com', password: 'right one' }, { 'X-Forwarded-For': '198.51.100.78' });
    assert.equal(other.status, 200, 'others are unaffected');
  }));

  test('capitals do not matter for logins, so they do not evade the limit', () => withGateway({ TRUSTED_PROXIES: '127.0.0.0/8' }, async ({ addUser, login }) => {
    await addUser({ email: 'ann@example.com', password: 'right one' });
    const same = (await login({ email: 'ANN@example.com', password: 'right one' })).status === 200;
    const spellings = ['ann@example.com', 'Ann@example.com', 'ANN@EXAMPLE.COM', 'ann@Example.com', 'aNn@example.com'];
    for (const [at, email] of spellings.entries()) await login({ email, password: 'wrong' }, { 'X-Forwarded-For': `198.51.100.${at}` });
    const answer = await login({ email: 'ann@example.com', password: 'right one' }, { 'X-Forwarded-For': '198.51.100.99' });
    assert.equal(answer.status, same ? 429 : 200);
  }));

  test('after five failures from one address it is 429, whatever the e-mail and whatever X-Forwarded-For says', () => withGateway({}, async ({ addUser, login }) => {
    await addUser({ email: 'ann@example.com', password: 'right one' });
    for (let attempt = 1; attempt <= 5; attempt += 1) {
      const answer = await login({ email: `nobody${attempt}@example.com`, password: 'wrong' }, { 'X-Forwarded-For': `203.0.113.${attempt}`, 'X-Real-IP': `203.0.113.${attempt}`, Forwarded: `for=203.0.113.${attempt}` });
      assert.equal(answer.status, 401, `attempt ${attempt}`);
    }
    const blocked = await login({ email: 'ann@example.com', password: 'right one' }, { 'X-Forwarded-For': '203.0.113.99' });
    assert.equal(blocked.status, 429);
    assert.ok(Number(blocked.headers['retry-after']) >= 1);
  }));

  test('an e-mail and a password have 256 bytes at most', () => withGateway({}, async ({ addUser, login }) => {
    const password = 'é'.repeat(128);
    assert.equal((await addUser({ email: 'ann@example.com', password })).code, 0);
    assert.notEqual((await addUser({ email: 'bob@example.com', password: `${password}x` })).code, 0);
    assert.equal((await login({ email: 'ann@example.com', password })).status, 200);
    const tooLong = { success: false, error: 'Email or password too long' };
    for (const body of [{ email: 'ann@example.com', password: `${password}x` }, { email: 'a'.padEnd(257, 'x'), password }]) {
      const answer = await login(body);
      assert.deepEqual([answer.status, answer.json], [400, tooLong]);
    }
    assert.equal((await login({ email: 'a'.padEnd(256, 'x'), password })).status, 401);
  }));

  test('addresses of one IPv6 network count as one', () => withGateway({ TRUSTED_PROXIES: '127.0.0.0/8' }, async ({ addUser, login }) => {
    await addUser({ email: 'ann@example.com', password: 'right one' });
    for (let attempt = 1; attempt <= 5; attempt += 1) {
      const answer = await login({ email: `nobody${attempt}@example.com`, password: 'wrong' }, { 'X-Forwarded-For': `2001:db8:0:7:${attempt}::1` });
      assert.equal(answer.status, 401, `attempt ${attempt}`);
    }
    assert.equal((await login({ email: 'ann@example.com', password: 'right one' }, { 'X-Forwarded-For': '2001:db8:0:7::9' })).status, 429);
    assert.equal((await login({ email: 'ann@example.com', password: 'right one' }, { 'X-Forwarded-For': '2001:db8:0:8::9' })).status, 200);
  }));

  test('behind a trusted proxy the address is the client\'s', () => withGateway({ TRUSTED_PROXIES: '127.0.0.0/8' }, async ({ addUser, login }) => {
    await addUser({ email: 'ann@example.com', password: 'right one' });
    for (let attempt = 1; attempt <= 5; attempt += 1) {
      const answer = await login({ email: `nobody${attempt}@example.com`, password: 'wrong' }, { 'X-Forwarded-For': '203.0.113.7' });
      assert.equal(answer.status, 401, `attempt ${attempt}`);
    }
    assert.equal((await login({ email: 'ann@example.com', password: 'right one' }, { 'X-Forwarded-For': '203.0.113.7' })).status, 429);
    assert.equal((await login({ email: 'ann@example.com', password: 'right one' }, { 'X-Forwarded-For': '203.0.113.8' })).status, 200);
    // Entries before the proxy's own one come from the client, so they are not trusted.
    const forged = await login({ email: 'ann@example.com', password: 'right one' }, { 'X-Forwarded-For': '203.0.113.8, 203.0.113.7' });
    assert.equal(forged.status, 429, 'the last untrusted entry counts');
  }));

  test('successful logins do not count as failures', () => withGateway({}, async ({ addUser, login }) => {
    await addUser({ email: 'ann@example.com', password: 'right one' });
    for (let attempt = 0; attempt < 8; attempt += 1) {
      assert.equal((await login({ email: 'ann@example.com', password: 'right one' })).status, 200);
    }
  }));

  test('invalid requests are answered and not counted as failures', () => withGateway({}, async ({ gateway, addUser, login }) => {
    await addUser({ email: 'ann@example.com', password: 'right one' });
    for (const body of ['', 'no json', '[]', '"text"', 'null', '{}', '{"email":"ann@example.com"}', '{"email":7,"password":"x"}', '{"email":"ann@example.com","password":null}', '{"email":"a","password":"b"} trailing', `${'['.repeat(5_000)}`]) {
      const answer = await login(body);
      assert.equal(answer.status, 400, body.slice(0, 60));
      assert.equal(answer.json.success, false);
      assert.equal(typeof answer.json.error, 'string');
      assert.doesNotMatch(answer.json.error, /serde|line \d+|sql|panick/i);
    }
    const text = await login({ email: 'ann@example.com', password: 'right one' }, { 'Content-Type': 'text/plain' });
    assert.equal(text.status, 415);
    assert.equal(text.json.success, false);
    const get = await request(gateway.port, 'GET', LOGIN);
    assert.equal(get.status, 405);
    assert.match(get.headers.allow ?? '', /POST/);
    const large = await login({ email: 'ann@example.com', password: 'x'.repeat(2_000_000) });
    assert.equal(large.status, 413);
    assert.equal((await login({ email: 'ann@example.com', password: 'right one' })).status, 200);
  }));

  test('an e-mail belongs to one user', () => withGateway({}, async ({ addUser, login }) => {
    assert.equal((await addUser({ email: 'ann@example.com', password: 'first one' })).code, 0);
    const again = await addUser({ email: 'ann@example.com', password: 'second one' });
    assert.notEqual(again.code, 0);
    assert.doesNotMatch(again.stderr, /UNIQUE|constraint|panick/i);
    assert.match(again.stderr, /ann@example\.com/);
    assert.equal((await login({ email: 'ann@example.com', password: 'first one' })).status, 200);
    assert.equal((await login({ email: 'ann@example.com', password: 'second one' })).status, 401);
  }));

  test('a password may be given as --password; none at all is refused', () => withGateway({}, async ({ gateway, login }) => {
    const env = { DATABASE_URL: gateway.databaseUrl };
    const given = await runGateway(['user', 'add', '--email', 'flag@example.com', '--name', 'F', '--role', 'citizen', '--password', 'by the flag'], { env });
    assert.equal(given.code, 0, given.stderr);
    assert.equal((await login({ email: 'flag@example.com', password: 'by the flag' })).status, 200);
    const typed = await runGateway(['user', 'add', '--email', 'typed@example.com', '--name', 'T'], { env, input: 'by the line\n', open: true });
    assert.equal(typed.code, 0, `one line is enough: ${typed.stderr}`);
    const none = await runGateway(['user', 'add', '--email', 'none@example.com', '--name', 'N', '--role', 'citizen'], { env, input: '' });
    assert.notEqual(none.code, 0);
    assert.match(none.stderr, /password/i);
  }));

  test('with a public key there is no login, because the node cannot sign', async () => {
    const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const path = join(temporaryDirectory(), 'key.pem');
    writeFileSync(path, publicKey.export({ type: 'spki', format: 'pem' }));
    await withGateway({ JWT_SECRET: null, JWT_PUBLIC_KEY: path }, async ({ login }) => {
      const answer = await login({ email: 'ann@example.com', password: 'x' });
      assert.equal(answer.status, 404);
      assert.equal(answer.json.success, false);
    });
  });
});

const BEHIND_PROXY = { TRUSTED_PROXIES: '127.0.0.1/32' };
const PASSWORD = 'right one';

/** Adds a user to the database of `node`. */
async function addUser(node, email) {
  const added = await runGateway(['user', 'add', '--email', email, '--name', 'Name'], { env: { DATABASE_URL: node.databaseUrl }, input: `${PASSWORD}\n` });
  assert.equal(added.code, 0, added.stderr);
}

/** A login at `node` from an address that a trusted proxy forwards: the whole answer. */
function loginAs(node, address, email, password) {
  return request(node.port, 'POST', LOGIN, {
    headers: { ...JSON_TYPE, 'X-Forwarded-For': address },
    body: JSON.stringify({ email, password }),
    timeout: 15_000,
  });
}

/** A refusal that says when to retry. */
function mustWait(answer, error = 'Too many failed logins') {
  assert.deepEqual([answer.status, JSON.parse(answer.body)], [429, { success: false, error }]);
  assert.match(answer.headers['retry-after'] ?? 'no Retry-After', /^[1-9]\d*$/);
}

/** Wrong passwords, none of which may be refused before it is checked. */
async function fails(times, attempt) {
  for (let at = 0; at < times; at += 1) assert.equal((await attempt(at)).status, 401, `failure ${at + 1}`);
}

describe('a user who has logged in before', () => {
  test('is not locked out by strangers who fail with their e-mail', () => withGateway(BEHIND_PROXY, async ({ gateway }) => {
    await addUser(gateway, 'ann@example.com');
    assert.equal((await loginAs(gateway, '198.51.100.1', 'ann@example.com', PASSWORD)).status, 200);
    await fails(5, (at) => loginAs(gateway, `203.0.113.${at}`, 'ann@example.com', 'wrong'));
    mustWait(await loginAs(gateway, '203.0.113.77', 'ann@example.com', PASSWORD));
    assert.equal((await loginAs(gateway, '198.51.100.1', 'Ann@example.com ', PASSWORD)).status, 200);
  }));

  test('is not locked out by an attacker behind the same address', () => withGateway(BEHIND_PROXY, async ({ gateway }) => {
    for (const email of ['ann@example.com', 'bob@example.com']) await addUser(gateway, email);
    assert.equal((await loginAs(gateway, '198.51.100.1', 'ann@example.com', PASSWORD)).status, 200);
    await fails(5, (at) => loginAs(gateway, '198.51.100.1', `nobody${at}@example.com`, 'wrong'));
    mustWait(await loginAs(gateway, '198.51.100.1', 'bob@example.com', PASSWORD));
    assert.equal((await loginAs(gateway, '198.51.100.1', 'ann@example.com', PASSWORD)).status, 200);
  }));

  test('must wait after their own failures', () => withGateway(BEHIND_PROXY, async ({ gateway }) => {
    await addUser(gateway, 'ann@example.com');
    assert.equal((await loginAs(gateway, '198.51.100.1', 'ann@example.com', PASSWORD)).status, 200);
    await fails(5, () => loginAs(gateway, '198.51.100.1', 'ann@example.com', 'wrong'));
    mustWait(await loginAs(gateway, '198.51.100.1', 'ann@example.com', PASSWORD));
  }));

  test('cannot guess endlessly by logging in to their own account in between', () => withGateway(BEHIND_PROXY, async ({ gateway }) => {
    await addUser(gateway, 'eve@example.com');
    await fails(4, (at) => loginAs(gateway, '198.51.100.1', `nobody${at}@example.com`, 'wrong'));
    assert.equal((await loginAs(gateway, '198.51.100.1', 'eve@example.com', PASSWORD)).status, 200);
    await fails(1, () => loginAs(gateway, '198.51.100.1', 'nobody@example.com', 'wrong'));
    mustWait(await loginAs(gateway, '198.51.100.1', 'nobody5@example.com', 'wrong'));
  }));
});

describe('failed logins on many nodes', () => {
  const withCluster = async (work) => {
    const cluster = await startCluster(2, { env: BEHIND_PROXY });
    try {
      for (const name of ['ann', 'bob']) await addUser(cluster.nodes[0], `${name}@example.com`);
      await work(cluster, ...cluster.nodes);
    } finally {
      await cluster.stop();
    }
  };

  test('count across nodes, by e-mail and by address, and so do successful ones', () => withCluster(async (cluster, one, two) => {
    await fails(5, (at) => loginAs([one, two][at % 2], `203.0.113.${at}`, 'ann@example.com', 'wrong'));
    for (const node of [one, two]) mustWait(await loginAs(node, '203.0.113.77', 'ann@example.com', PASSWORD));
    await fails(5, (at) => loginAs([one, two][at % 2], '203.0.113.99', `nobody${at}@example.com`, 'wrong'));
    for (const node of [one, two]) mustWait(await loginAs(node, '203.0.113.99', 'bob@example.com', PASSWORD));
    // The other node knows of a login on this one.
    assert.equal((await loginAs(one, '198.51.100.1', 'bob@example.com', PASSWORD)).status, 200);
    await fails(5, (at) => loginAs(one, '198.51.100.1', `other${at}@example.com`, 'wrong'));
    assert.equal((await loginAs(two, '198.51.100.1', 'bob@example.com', PASSWORD)).status, 200);
    // Redis contains no e-mail and no address, and keeps nothing about strangers for long.
    const client = await cluster.redis.connect();
    const keys = await client.keys('muster:live:login:*');
    assert.ok(keys.length > 0);
    for (const key of keys) {
      assert.doesNotMatch(`${key} ${await client.get(key)}`, /example|203\.0|198\.51/);
      const ms = await client.pTTL(key);
      assert.ok(ms > 0 && (key.includes(':from:') || ms <= 60_000), `${key} is kept for ${ms} ms`);
    }
  }));

  test('count on each node while Redis is unavailable, and successful logins continue', { timeout: 60_000 }, () => withCluster(async (cluster, one, two) => {
    await cluster.redis.kill();
    for (const node of [one, two]) {
      await fails(5, (at) => loginAs(node, `203.0.113.${at}`, 'ann@example.com', 'wrong'));
      mustWait(await loginAs(node, '203.0.113.77', 'ann@example.com', PASSWORD));
      assert.equal((await loginAs(node, '198.51.100.1', 'bob@example.com', PASSWORD)).status, 200);
    }
    await cluster.redis.restart();
    for (const node of [one, two]) await ready(node);
    mustWait(await loginAs(one, '203.0.113.77', 'ann@example.com', PASSWORD));
  }));
});

describe('through HAProxy as it is shipped', () => {
  const through = (balancer, address, email, password, headers = {}) => requestFrom(address, balancer.port, LOGIN, {
    method: 'POST', headers: { ...JSON_TYPE, ...headers }, body: JSON.stringify({ email, password }), timeout: 15_000,
  });

  test('two clients have two addresses, whatever headers they send', { timeout: 60_000 }, () => withGateway({ ...BEHIND_PROXY, CONNECTIONS_PER_ADDRESS: '1' }, async ({ gateway }) => {
    await addUser(gateway, 'ann@example.com');
    const balancer = await startBalancer([gateway.port]);
    const opened = [];
    const open = { after: (close) => opened.push(close) };
    try {
      await fails(5, (at) => through(balancer, '127.0.0.2', `nobody${at}@example.com`, 'wrong', { 'X-Forwarded-For': `203.0.113.${at}` }));
      mustWait(await through(balancer, '127.0.0.2', 'ann@example.com', PASSWORD));
      mustWait(await through(balancer, '127.0.0.2', 'ann@example.com', PASSWORD, { Forwarded: 'for=203.0.113.9', 'X-Forwarded-For': '203.0.113.9' }));
      assert.equal((await through(balancer, '127.0.0.3', 'ann@example.com', PASSWORD, { Forwarded: 'for=127.0.0.2' })).status, 200);
      // WebSockets, too.
      assert.equal((await upgradeFrom(open, '127.0.0.2', balancer.port)).status, 101);
      assert.equal((await upgradeFrom(open, '127.0.0.3', balancer.port)).status, 101);
      assert.equal((await upgradeFrom(open, '127.0.0.2', balancer.port)).status, 429);
      assert.deepEqual((await (await fetch(`${gateway.url}/health`)).json()).warnings, []);
    } finally {
      for (const close of opened) close();
      await balancer.stop();
    }
  }));

  test('a node that does not trust it reports that in /health and, once, in its log', { timeout: 60_000 }, () => withGateway({}, async ({ gateway }) => {
    const warnings = async () => (await (await fetch(`${gateway.internalUrl}/health`)).json()).warnings;
    const lines = () => gateway.logs.filter(({ level, message }) => level === 'WARN' && /TRUSTED_PROXIES/.test(message ?? '')).length;
    const balancer = await startBalancer([gateway.port]);
    try {
      const handshake = (port) => request(port, 'GET', '/socket.io/?EIO=4&transport=polling');
      for (let at = 0; at < 19; at += 1) assert.equal((await handshake(balancer.port)).status, 200);
      assert.deepEqual(await warnings(), []);
      // Logins count like handshakes.
      assert.equal((await through(balancer, '127.0.0.2', 'nobody@example.com', 'wrong')).status, 401);
      assert.deepEqual(await warnings(), ['proxyNotTrusted']);
      assert.equal((await request(gateway.port, 'GET', '/ready')).status, 200, 'the node still accepts clients');
      // A direct client shows that not all clients come through it.
      assert.equal((await handshake(gateway.port)).status, 200);
      assert.deepEqual(await warnings(), []);
      for (let at = 0; at < 20; at += 1) assert.equal((await handshake(balancer.port)).status, 200);
      assert.deepEqual(await warnings(), ['proxyNotTrusted']);
      await eventually(() => lines() === 1, { what: 'one line in the log' });
    } finally {
      await balancer.stop();
    }
  }));
});
