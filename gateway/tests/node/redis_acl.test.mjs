// The minimal rights in Redis, as documented: everything works with them, and the gateway uses no others.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { EVERYTHING, ask, unique } from './support/clients.mjs';
import { LEASE_MS, HOLDBACK_MS, count, internal, ready, startCluster } from './support/cluster.mjs';
import { startGateway } from './support/gateway.mjs';
import { request } from './support/raw.mjs';
import { startRedis } from './support/redis.mjs';
import { eventually, once } from './support/wait.mjs';

const page = readFileSync(fileURLToPath(new URL('../../docs/operate/redis.md', import.meta.url)), 'utf8');
const [, rules] = /^ *user muster (on >PASSWORD .*)$/m.exec(page);

/** A server with that user, and an unrestricted one for the test. */
async function startGuarded({ args = [], without = [] } = {}) {
  const rights = rules.replace('PASSWORD', 'pass-word').split(' ').filter((rule) => !without.includes(rule));
  const redis = await startRedis({ args: [...args, '--user', 'default', 'on', '>for-the-test', '~*', '&*', '+@all', '--user', 'muster', ...rights] });
  redis.nodeUrl = `redis://muster:pass-word@127.0.0.1:${redis.port}`;
  redis.url = `redis://:for-the-test@127.0.0.1:${redis.port}`;
  return redis;
}

/** Commands that Redis refused to the nodes, except those that they can do without. */
async function refusals(redis) {
  const entries = await (await redis.connect()).sendCommand(['ACL', 'LOG', '100']);
  return entries.map((entry) => Object.fromEntries(Array.from({ length: entry.length / 2 }, (_, at) => [entry[2 * at], entry[2 * at + 1]])))
    .filter(({ username }) => username === 'muster')
    .map(({ reason, context, object }) => `${reason} ${context} ${object}`);
}

describe('a user of Redis with the minimal rights', () => {
  let redis;
  let cluster;
  before(async () => {
    redis = await startGuarded();
    cluster = await startCluster(2, { redis, redisUrl: redis.nodeUrl, env: { PRESENCE_GRACE: '500ms' } });
  });
  after(async () => {
    await cluster?.stop();
    await redis?.stop();
  });

  test('is sufficient for every app, for lists and counts, and for the death of a node', { timeout: 120_000 }, async () => {
    const [one, two] = cluster.nodes;
    const at = (node, options) => node.clients.connect({ ...options, claims: { ...EVERYTHING, ...options.claims } });
    const relays = await Promise.all([one, two].map((node, n) => at(node, { namespace: '/relay', claims: { sub: `r${n}` } })));
    const room = unique('room');
    for (const socket of relays) await ask(socket, 'join', { room });
    const heard = once(relays[1], 'hello');
    assert.equal((await ask(relays[0], 'publish', { room, event: 'hello', data: 1 })).success, true);
    await heard;
    assert.equal((await ask(relays[0], 'members', { room })).count, 2);
    assert.deepEqual([(await count(one, room, '/relay')).count, (await internal(two, 'GET', `/internal/rooms/${room}/active?namespace=/relay`)).body.data.members.length], [2, 2]);

    const emit = (node, headers) => internal(node, 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'told', data: 1, receipt: true }, headers);
    const first = await emit(one, { 'Idempotency-Key': 'k' });
    const again = await emit(two, { 'Idempotency-Key': 'k' });
    assert.deepEqual([first.body.repeated, again.body.repeated, first.body.sockets], [false, true, 2]);
    assert.equal(first.body.place.split(':')[0], (await emit(two)).body.place.split(':')[0], 'both nodes have one epoch');

    const chats = await Promise.all([one, two].map((node, n) => at(node, { claims: { sub: `c${n}` } })));
    const chat = unique('chat');
    const joined = once(chats[0], 'user_joined');
    for (const socket of chats) await ask(socket, 'join_room', chat);
    await joined;
    const message = once(chats[1], 'new_message');
    assert.equal((await ask(chats[0], 'send_message', { roomId: chat, content: 'x' })).success, true);
    await message;
    assert.equal((await ask(chats[0], 'presence:subscribe', { userIds: ['c1'] })).success, true);
    const changed = once(chats[0], 'presence:changed', { timeout: 10_000, filter: ({ status }) => status === 'busy' });
    assert.equal((await ask(chats[1], 'presence:setStatus', { status: 'busy' })).success, true);
    await changed;

    const headers = (claims) => ({ Authorization: `Bearer ${one.token(claims)}`, 'Content-Type': 'application/json' });
    const helper = await at(two, { namespace: '/emergencies', claims: { sub: 'helper', role: 'helper', verified: true } });
    await ask(helper, 'location:update', { latitude: 1, longitude: 1 });
    const near = once(helper, 'emergency:nearby', { timeout: 10_000 });
    const raised = await request(one.port, 'POST', '/api/v1/emergencies', { headers: headers({ sub: 'owner' }), body: JSON.stringify({ type: 'medical', location: { latitude: 1, longitude: 1.001 } }) });
    assert.equal(raised.status, 201, raised.body);
    await near;
    const sos = await request(one.port, 'POST', '/api/sos', { headers: headers({ sub: 'c1' }), body: JSON.stringify({ latitude: 1, longitude: 1 }) });
    assert.equal(sos.status, 201, sos.body);

    const left = once(chats[0], 'user_left', { timeout: LEASE_MS * 2 + HOLDBACK_MS + 10_000 });
    await two.kill();
    assert.equal((await left)[0].userId, 'c1');
    assert.equal((await count(one, room, '/relay')).count, 1);
    assert.deepEqual([...new Set(await refusals(redis))], ['command toplevel info']);
  });
});

describe('the epoch of a room if the run id of the server may not be read', () => {
  test('is the same on all nodes and connections, and another after a restart with all data', { timeout: 120_000 }, async () => {
    const redis = await startGuarded({ args: ['--appendonly', 'yes', '--appendfsync', 'always'] });
    const cluster = await startCluster(2, { redis, redisUrl: redis.nodeUrl });
    try {
      const room = unique('room');
      const epoch = async (node) => {
        const { body } = await internal(node, 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'e', data: 1 });
        return body.place?.split(':')[0];
      };
      const [one, two] = cluster.nodes;
      const first = await epoch(one);
      assert.ok(first);
      assert.equal(await epoch(two), first);
      const reconnects = async () => (await one.metrics()).get('muster_redis_reconnects_total');
      const before = await reconnects();
      await (await redis.connect()).sendCommand(['CLIENT', 'KILL', 'USER', 'muster']);
      await eventually(async () => (await reconnects()) > before, { timeout: 10_000, what: 'the loss to be noticed' });
      for (const node of cluster.nodes) await ready(node);
      for (const node of cluster.nodes) assert.equal(await eventually(() => epoch(node), { what: 'an emit' }), first, 'another connection to the same process');

      await redis.kill();
      await redis.restart();
      const kept = await (await redis.connect()).get('muster:process');
      assert.ok(kept, 'the data are there');
      for (const node of cluster.nodes) await ready(node, { timeout: 20_000 });
      const second = await eventually(() => epoch(one), { what: 'an emit' });
      assert.ok(second && second !== first, `${first} and after a restart ${second}`);
      assert.equal(await eventually(() => epoch(two), { what: 'an emit' }), second);
    } finally {
      await cluster.stop();
      await redis.stop();
    }
  });
});

describe('a user of Redis without a required right', () => {
  test('the log names the right but not the user; the node runs but is not ready', { timeout: 60_000 }, async () => {
    const redis = await startGuarded({ without: ['+psubscribe', '+zadd'] });
    const node = await startGateway({ env: { REDIS_URL: redis.nodeUrl, LOG: 'info' } });
    try {
      const refused = await node.waitLog((entry) => /has no permissions/.test(entry.error ?? ''), { timeout: 15_000 });
      assert.match(JSON.stringify(refused), /psubscribe|zadd|script/i);
      assert.doesNotMatch(JSON.stringify(node.logs), /User muster|pass-word/);
      assert.equal((await request(node.port, 'GET', '/ready')).status, 503);
      assert.equal((await request(node.port, 'GET', '/live')).status, 200);
    } finally {
      await node.kill();
      await redis.stop();
    }
  });
});
