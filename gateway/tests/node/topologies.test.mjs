// Redis behind Sentinels, and Redis Cluster: the same gateway, with servers that fail over.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { device, must } from './support/care.mjs';
import { EVERYTHING, ask, bounded, unique } from './support/clients.mjs';
import { count, internal, ready, startCluster } from './support/cluster.mjs';
import { citizen, emergencies, helper } from './support/emergencies.mjs';
import { load } from './support/packages.mjs';
import { startRedisCluster, startSentinels } from './support/redis.mjs';
import { eventually, once } from './support/wait.mjs';

/** From the death of a primary until full recovery: what the servers need, plus a loaded machine. */
const HEALED = 40_000;

/** Members of relay rooms on both nodes, and the sockets that were disconnected. */
async function members(cluster, rooms) {
  const sockets = await bounded(12, 4, (n) => cluster.nodes[n % 2].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `u${n}` } }));
  const lost = [];
  for (const socket of sockets) {
    socket.on('disconnect', (reason) => lost.push(reason));
    for (const room of rooms) await ask(socket, 'join', { room });
  }
  return { sockets, lost };
}

/** All members of `room` receive events published on both nodes. */
async function crosses(sockets, room) {
  for (const from of [0, 1]) {
    const event = unique('crossing');
    const heard = sockets.map((socket) => once(socket, event, { timeout: 10_000 }));
    const answer = await ask(sockets[from], 'publish', { room, event, data: from });
    assert.equal(answer.success, true, JSON.stringify(answer));
    for (const each of heard) assert.equal((await each)[0], from);
  }
}

/** Waits until both nodes can publish to `room` again: a node refuses what it cannot publish during a failover. */
async function publishes(sockets, room) {
  for (const socket of sockets.slice(0, 2)) {
    await eventually(async () => (await ask(socket, 'publish', { room, event: 'healing', data: 0 })).success, { timeout: HEALED, what: `publishing to ${room}` });
  }
}

async function countsAre(cluster, room, expected) {
  for (const node of cluster.nodes) {
    await eventually(async () => {
      const counted = await count(node, room, '/relay');
      return counted.count === expected && !counted.stale;
    }, { timeout: HEALED, what: `${expected} in ${room}` });
  }
}

describe('Redis behind Sentinels', () => {
  let sentinels;
  let cluster;
  before(async () => {
    sentinels = await startSentinels();
    cluster = await startCluster(2, { redis: sentinels.primary, redisUrl: sentinels.url });
  }, { timeout: 90_000 });
  after(async () => {
    await cluster?.stop();
    await sentinels?.stop();
  });

  test('the primary dies: the nodes find the new one, no client is disconnected, and members learn that they may have missed events', { timeout: 120_000 }, async () => {
    const room = unique('room');
    const { sockets, lost } = await members(cluster, [room]);
    await crosses(sockets, room);
    await countsAre(cluster, room, 12);
    const epoch = async () => (await internal(cluster.nodes[0], 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'tracked', data: 1 })).body.place?.split(':')[0];
    const before = await epoch();
    assert.ok(before);

    const resynced = sockets.map((socket) => once(socket, 'muster:resync', { timeout: HEALED, filter: (told) => told.room === room }));
    await sentinels.primary.kill();
    await eventually(async () => (await sentinels.master()) === sentinels.replica.port, { timeout: HEALED, what: 'the failover' });
    for (const node of cluster.nodes) await ready(node, { timeout: HEALED });
    await countsAre(cluster, room, 12);
    await publishes(sockets, room);
    await crosses(sockets, room);
    // Another primary has another epoch, because writes to the old one may be lost.
    const later = await epoch();
    assert.ok(later && later !== before, `${before} and then ${later}`);
    for (const each of resynced) await each;
    assert.deepEqual(lost, []);
  });
});

describe('Redis Cluster', () => {
  let servers;
  let cluster;
  before(async () => {
    servers = await startRedisCluster();
    cluster = await startCluster(2, { redis: servers.servers[0], redisUrl: servers.url, env: { PRESENCE_GRACE: '2s' } });
  }, { timeout: 90_000 });
  after(async () => {
    await cluster?.stop();
    await servers?.stop();
  });

  test('rooms of all slots are counted and receive events, and acks arrive from all servers', { timeout: 60_000 }, async () => {
    const rooms = Array.from({ length: 12 }, (_, n) => unique(`slot${n}`));
    const { sockets } = await members(cluster, rooms);
    for (const room of rooms) {
      await crosses(sockets, room);
      await countsAre(cluster, room, 12);
    }
    const emitted = await internal(cluster.nodes[1], 'POST', '/internal/emit', { namespace: '/relay', to: { room: rooms[0] }, event: 'e', data: 1 }, { 'Idempotency-Key': unique('key') });
    assert.equal(emitted.body.success, true);
    // An emitter of the ecosystem, on any of the servers.
    const { Emitter } = load('@socket.io/redis-emitter');
    const emitter = new Emitter(await servers.servers[2].connect(), undefined, '/relay');
    const heard = sockets.map((socket) => once(socket, 'from-emitter', { timeout: 10_000 }));
    emitter.to(rooms[3]).emit('from-emitter', 1);
    for (const each of heard) await each;
    for (const socket of sockets) socket.disconnect();
    for (const room of rooms) await countsAre(cluster, room, 0);
  });

  test('every node finds the shared state of apps: locations, presence, timers, calls', { timeout: 60_000 }, async () => {
    const app = emergencies(cluster.nodes);
    const [near, far] = [await app.online(1, helper()), await app.online(0, helper())];
    const location = { latitude: 60, longitude: 24 };
    await ask(near.socket, 'location:update', location);
    await ask(far.socket, 'location:update', { latitude: 61, longitude: 24 });
    const raised = await app.raise(0, citizen(), { location });
    assert.equal(raised.nearbyHelperCount, 1);
    assert.equal((await near.events.take('emergency:nearby')).distance, 0);
    await far.events.take('emergency:created', ({ emergency }) => emergency.id === raised.id);

    const [ann, bob] = [await device(cluster.nodes[0]), await device(cluster.nodes[1])];
    await must(ann, 'presence:subscribe', { userIds: [bob.user] });
    const { callId } = await must(ann, 'call:initiate', { recipientId: bob.user });
    await must(bob, 'call:accept', { callId });
    await ann.events.take('presence:changed', ({ status }) => status === 'in_call');
    await must(bob, 'call:end', { callId });
    await ann.events.take('presence:changed', ({ status }) => status === 'online');
    bob.socket.disconnect();
    await ann.events.take('presence:changed', ({ status }) => status === 'offline', { timeout: 30_000 });
  });

  test('a primary dies: its replica takes over, and no client is disconnected', { timeout: 120_000 }, async () => {
    const rooms = Array.from({ length: 6 }, (_, n) => unique(`failing${n}`));
    const { sockets, lost } = await members(cluster, rooms);
    await servers.servers[0].kill();
    const look = await servers.servers[3].connect();
    await eventually(async () => /role:master/.test(await look.info('replication')), { timeout: HEALED, what: 'the replica to take over' });
    for (const node of cluster.nodes) await ready(node, { timeout: HEALED });
    for (const room of rooms) {
      await countsAre(cluster, room, 12);
      await publishes(sockets, room);
      await crosses(sockets, room);
    }
    assert.deepEqual(lost, []);
  });
});
