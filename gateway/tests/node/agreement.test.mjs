// Nodes that cannot serve together find each other: one of them is not ready, and says why. And settings of one node that
// cannot work together.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { keeper } from './support/clients.mjs';
import { LEASE_MS, ready } from './support/cluster.mjs';
import { runGateway, startGateway, temporaryDirectory } from './support/gateway.mjs';
import { startPostgres } from './support/postgres.mjs';
import { request } from './support/raw.mjs';
import { startRedis } from './support/redis.mjs';
import { eventually, once } from './support/wait.mjs';

const SECRET = '0f6c2a9be1d84c7aa35b9e6210d7f48c';

async function readiness(node) {
  const { status, body } = await request(node.port, 'GET', '/ready');
  return { ...JSON.parse(body), status };
}

/** Waits until the node is not ready for the reason `why`, and has logged it. */
async function refuses(node, why) {
  await eventually(async () => why.test((await readiness(node)).details?.cluster ?? ''), { timeout: 20_000, what: `/ready to say ${why}` });
  const { status, failed } = await readiness(node);
  assert.deepEqual([status, failed], [503, ['cluster']]);
  assert.ok(node.logs.some((entry) => entry.level === 'ERROR' && /not ready/.test(entry.message)), 'the log says so');
  assert.ok(!node.logs.some((entry) => entry.message === 'ready'));
}

describe('nodes of one Redis', { concurrency: 3 }, () => {
  let redis;
  before(async () => { redis = await startRedis(); });
  after(() => redis.stop());

  /** A node of the cluster that `prefix` names. */
  const start = (prefix, env = {}) => startGateway({
    env: { JWT_SECRET: SECRET, REDIS_URL: redis.url, LEASE: `${LEASE_MS}ms`, REDIS_PREFIX: prefix, REDIS_CHANNEL_PREFIX: prefix, ...env },
  });

  test('with an SQLite file each: the second is not ready, the first goes on, and when it has gone the second is', { timeout: 90_000 }, async () => {
    const one = await start('records');
    await ready(one);
    const two = await start('records');
    try {
      await refuses(two, new RegExp(`node ${one.node} was here before and has other records.*DATABASE_URL`));
      await ready(one);
      await one.stop();
      await ready(two);
      await two.waitLog((entry) => entry.message === 'ready');
    } finally {
      await Promise.all([one.kill(), two.kill()]);
    }
  });

  test('with different MOUNTS: the second is not ready, and names both', { timeout: 60_000 }, async () => {
    const shared = { DATABASE_URL: `sqlite:${temporaryDirectory()}/shared.db` };
    const one = await start('mounts', { ...shared, MOUNTS: 'relay=/relay,chat=/' });
    await ready(one);
    // The order is no difference.
    const like = await start('mounts', { ...shared, MOUNTS: 'chat=/,relay=/relay' });
    const other = await start('mounts', { ...shared, MOUNTS: 'relay=/relay' });
    try {
      await ready(like);
      await refuses(other, /MOUNTS=chat=\/,relay=\/relay, this one has MOUNTS=relay=\/relay/);
      await ready(one);
    } finally {
      await Promise.all([one.kill(), like.kill(), other.kill()]);
    }
  });

  test('with different channel prefixes: the second is not ready', { timeout: 60_000 }, async () => {
    const shared = { DATABASE_URL: `sqlite:${temporaryDirectory()}/shared.db` };
    const one = await start('channels', shared);
    await ready(one);
    const two = await start('channels', { ...shared, REDIS_CHANNEL_PREFIX: 'mine' });
    try {
      await refuses(two, /REDIS_CHANNEL_PREFIX=channels, this one has mine/);
    } finally {
      await Promise.all([one.kill(), two.kill()]);
    }
  });

  test('in two databases: each that hears the other warns of it', { timeout: 60_000 }, async () => {
    const env = { MOUNTS: 'relay=/relay', REDIS_CHANNEL_PREFIX: 'databases' };
    const one = await start('databases', env);
    const two = await start('databases', { ...env, REDIS_URL: `${redis.url}/1` });
    const clients = [keeper(one), keeper(two)];
    try {
      await Promise.all([ready(one), ready(two)]);
      const claims = { rooms: ['*'], publish: ['*'] };
      const [mine, theirs] = await Promise.all(clients.map((some) => some.connect({ namespace: '/relay', claims })));
      for (const socket of [mine, theirs]) await socket.emitWithAck('join', { room: 'r' });
      const heard = once(theirs, 'event');
      const publish = () => fetch(`${one.internalUrl}/internal/emit`, {
        method: 'POST',
        headers: { 'X-Internal-Request': 'true', 'Content-Type': 'application/json' },
        body: JSON.stringify({ namespace: '/relay', to: { room: 'r' }, event: 'event', data: 1 }),
      });
      assert.equal((await publish()).status, 200);
      await heard;
      const { node } = await two.waitLog((entry) => /has no lease here/.test(entry.message ?? ''), { timeout: 4 * LEASE_MS });
      assert.equal(node, one.node);
    } finally {
      clients.forEach((some) => some.closeAll());
      await Promise.all([one.kill(), two.kill()]);
    }
  });
});

describe('nodes of one database without a common Redis', { concurrency: 2 }, () => {
  let postgres;
  let redis;
  before(async () => { [postgres, redis] = await Promise.all([startPostgres(), startRedis()]); });
  after(() => Promise.all([postgres.kill(), redis.stop()]));

  for (const database of ['PostgreSQL', 'SQLite']) {
    test(`in ${database}: the second is not ready until the first has ended, also when it crashes`, { timeout: 90_000 }, async () => {
      const env = { DATABASE_URL: database === 'SQLite' ? `sqlite:${temporaryDirectory()}/one.db` : postgres.url };
      const one = await startGateway({ env });
      await one.waitLog((entry) => entry.message === 'ready');
      const two = await startGateway({ env });
      let three;
      try {
        await refuses(two, new RegExp(`${one.node}.*REDIS_URL`));
        assert.equal((await readiness(one)).status, 200);
        await one.stop();
        await ready(two);
        await two.kill();
        three = await startGateway({ env });
        await ready(three);
      } finally {
        await Promise.all([one, two, three].map((node) => node?.kill()));
      }
    });
  }

  test('a node of another Redis is not ready, either, and nodes of one Redis are', { timeout: 90_000 }, async () => {
    const env = (prefix) => ({
      JWT_SECRET: SECRET, DATABASE_URL: `sqlite:${directory}/two.db`, REDIS_URL: redis.url, LEASE: `${LEASE_MS}ms`, REDIS_PREFIX: prefix,
    });
    const directory = temporaryDirectory();
    const one = await startGateway({ env: env('one') });
    await ready(one);
    const [same, other] = await Promise.all([startGateway({ env: env('one') }), startGateway({ env: env('two') })]);
    try {
      await ready(same);
      await refuses(other, /another node or cluster/);
    } finally {
      await Promise.all([one.kill(), same.kill(), other.kill()]);
    }
  });
});

describe('settings of one node', { concurrency: 4 }, () => {
  const refused = async (env, told) => {
    for (const command of ['check-config', 'serve']) {
      const { code, stderr } = await runGateway([command], { env: { LISTEN: '127.0.0.1:0', INTERNAL_LISTEN: '127.0.0.1:0', ...env } });
      assert.equal(code, 2, `${command}: ${stderr}`);
      assert.match(stderr, told, command);
    }
  };

  test('Redis with records in SQLite is refused, with what would do', async () => {
    const env = { JWT_SECRET: SECRET, REDIS_URL: 'redis://127.0.0.1:1' };
    await refused({ ...env, MOUNTS: 'chat=/,relay=/relay' }, /DATABASE_URL: expected postgres:\/\/.*chat.*SQLITE_WITH_REDIS=true/);
    for (const good of [{ MOUNTS: 'relay=/relay' }, { MOUNTS: 'chat=/', SQLITE_WITH_REDIS: 'true' }, { MOUNTS: 'chat=/', DATABASE_URL: 'postgres://db.example/x' }]) {
      const { code, stderr } = await runGateway(['check-config'], { env: { ...env, ...good } });
      assert.equal(code, 0, stderr);
    }
  });

  test('a key for tokens without MOUNTS mounts all apps, and the check says so', async () => {
    const { code, stdout, stderr } = await runGateway(['check-config'], { env: { JWT_SECRET: SECRET, MOUNTS: null } });
    assert.equal(code, 0, stderr);
    assert.match(`${stdout}${stderr}`, /MOUNTS is not set: all apps are mounted/);
  });

  test('a misspelt variable, a bare duration and a word that is no level are refused by name', async () => {
    await refused({ PING_TIMEUOT: '20s' }, /PING_TIMEUOT: no such setting; did you mean PING_TIMEOUT\?/);
    await refused({ PING_INTERVAL: '25' }, /PING_INTERVAL = "25": expected a duration .*unit \(ms, s, m or h\)/);
    await refused({ LOG: 'verbose' }, /LOG = "verbose": expected a level/);
    await refused({ REDIS_HOST: 'redis://h' }, /REDIS_HOST = "redis:\/\/h": expected a host name/);
  });

  test('check-config finds a key that is no file, and a folder that is not there', async () => {
    const env = { MOUNTS: 'chat=/' };
    const pem = '-----BEGIN PRIVATE KEY-----\nMFkw\n-----END PRIVATE KEY-----';
    for (const [extra, told] of [
      [{ JWT_PUBLIC_KEY: '/nope.pem' }, /JWT_PUBLIC_KEY: expected a file with a public key.*nope\.pem/],
      [{ JWT_PUBLIC_KEY: pem }, /JWT_PUBLIC_KEY = "…": expected the path of a PEM file/],
      [{ DATABASE_URL: 'sqlite:/no/such/folder/x.db' }, /DATABASE_URL: expected a file in a folder that exists.*\/no\/such\/folder/],
    ]) {
      const { code, stderr } = await runGateway(['check-config'], { env: { ...env, ...extra } });
      assert.equal(code, 2, stderr);
      assert.match(stderr, told);
    }
  });

  test('a service that is named redis does not stop a node alone', async () => {
    const { code, stderr } = await runGateway(['check-config'], { env: { REDIS_PORT: 'tcp://10.0.0.1:6379', REDIS_SERVICE_HOST: '10.0.0.1', REDIS_PORT_6379_TCP_PROTO: 'tcp' } });
    assert.equal(code, 0, stderr);
  });

  test('an INTERNAL_TOKEN with a line break at its end lets its bearer in', async () => {
    const node = await startGateway({ env: { INTERNAL_TOKEN: 'b9e6210d7f48c0f6\n' } });
    try {
      const headers = { 'X-Internal-Request': 'true', Authorization: 'Bearer b9e6210d7f48c0f6' };
      assert.equal((await fetch(`${node.internalUrl}/internal/rooms/x/count`, { headers })).status, 200);
    } finally {
      await node.kill();
    }
  });
});
