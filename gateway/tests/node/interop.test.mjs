// The Socket.IO ecosystem in one cluster with the gateway: the npm emitter, and a Node.js server on the npm Redis
// adapter, in both directions.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, keeper, unique } from './support/clients.mjs';
import { count, internal, startCluster } from './support/cluster.mjs';
import { load } from './support/packages.mjs';
import { eventually, once, record, within } from './support/wait.mjs';

const { Server } = load('socket.io');
const { createAdapter } = load('@socket.io/redis-adapter');
const { Emitter } = load('@socket.io/redis-emitter');
const jwt = load('jsonwebtoken');

describe('with Node.js in the cluster', () => {
  let cluster;
  let io;
  let http;
  let node;
  let emitter;

  before(async () => {
    cluster = await startCluster(2);
    const [pub, sub, out] = await Promise.all([cluster.redis.connect(), cluster.redis.connect(), cluster.redis.connect()]);
    http = createServer();
    io = new Server(http, { adapter: createAdapter(pub, sub, { requestsTimeout: 5_000 }) });
    io.of('/relay').on('connection', (socket) => {
      socket.join(`user:${jwt.decode(socket.handshake.auth.token).sub}`);
      socket.on('join', ({ room }, ack) => {
        socket.join(room);
        ack({ success: true });
      });
    });
    await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${http.address().port}`;
    node = { url, token: cluster.nodes[0].token };
    node.clients = keeper(node);
    emitter = new Emitter(out).of('/relay');
    // The adapter does not report when its subscriptions are complete.
    await eventually(async () => Number(Object.values(await pub.pubSubNumSub('socket.io-request#/relay#'))[0]) === 3, { what: 'all to be subscribed' });
  });
  after(async () => {
    node?.clients.closeAll();
    await new Promise((resolve) => (io ? io.close(resolve) : resolve()));
    await cluster?.stop();
  });

  const relay = (at, sub = unique('u'), options = {}) => {
    const clients = at === 'node' ? node.clients : cluster.nodes[at].clients;
    return clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub }, ...options });
  };

  /** One client on each gateway node and on the Node.js server, all in one room. */
  const everywhere = async () => {
    const room = unique('room');
    const sockets = await Promise.all([relay(0), relay(1), relay('node')]);
    for (const socket of sockets) assert.equal((await ask(socket, 'join', { room })).success, true);
    return { room, sockets };
  };

  test('events of the emitter to rooms arrive, except at excluded sockets', async () => {
    const { room, sockets } = await everywhere();
    const heard = sockets.map((socket) => once(socket, 'alert'));
    emitter.to(room).emit('alert', { n: 1.5, list: [true, null], text: 'ü' }, 'second');
    for (const event of heard) assert.deepEqual(await event, [{ n: 1.5, list: [true, null], text: 'ü' }, 'second']);

    const recorded = sockets.map(record);
    emitter.to(room).except(sockets[0].id).emit('some', Buffer.from([9, 8]));
    emitter.to([room, unique('other')]).emit('last', 1);
    for (const [at, events] of recorded.entries()) {
      await events.take('last');
      const some = events.seen('some');
      assert.equal(some.length, at === 0 ? 0 : 1);
      if (at > 0) assert.deepEqual(Buffer.from(some[0][0]), Buffer.from([9, 8]));
      assert.equal(events.seen('last').length, 0, 'received once');
    }
  });

  test('events of the emitter to a user, to one socket and to all sockets arrive', async () => {
    const user = unique('someone');
    const [one, two, other] = await Promise.all([relay(0, user), relay(1, user), relay(0)]);
    const heard = [one, two].map((socket) => once(socket, 'for-user'));
    const quiet = record(other);
    emitter.to(`user:${user}`).emit('for-user', 1);
    for (const event of heard) assert.deepEqual(await event, [1]);
    const direct = once(two, 'for-socket');
    emitter.to(two.id).emit('for-socket', 2);
    assert.deepEqual(await direct, [2]);
    const all = [one, two, other].map((socket) => once(socket, 'for-all'));
    emitter.emit('for-all', 3);
    for (const event of all) assert.deepEqual(await event, [3]);
    assert.deepEqual([quiet.seen('for-user'), quiet.seen('for-socket')], [[], []]);
  });

  test('the emitter makes sockets join, leave and disconnect', async () => {
    const [room, team] = [unique('room'), unique('team')];
    const sockets = await Promise.all([relay(0), relay(1)]);
    for (const socket of sockets) await ask(socket, 'join', { room });
    emitter.in(room).socketsJoin(team);
    await eventually(async () => (await count(cluster.nodes[0], team, '/relay')).count === 2, { what: 'the sockets to join' });
    emitter.in(sockets[0].id).socketsLeave(team);
    await eventually(async () => (await count(cluster.nodes[1], team, '/relay')).count === 1, { what: 'one to leave' });
    const gone = sockets.map((socket) => once(socket, 'disconnect'));
    emitter.in(room).disconnectSockets(true);
    for (const event of gone) assert.equal((await event)[0], 'io server disconnect');
    await eventually(async () => (await count(cluster.nodes[1], room, '/relay')).count === 0, { what: 'nobody to be there' });
  });

  test('broadcasts cross in both directions', async () => {
    const { room, sockets } = await everywhere();
    const fromUs = sockets.map((socket) => once(socket, 'ours'));
    await ask(sockets[0], 'publish', { room, event: 'ours', data: { b: Buffer.from('x') } });
    for (const event of fromUs) assert.deepEqual(Buffer.from((await event)[0].b), Buffer.from('x'));
    const fromNode = sockets.map((socket) => once(socket, 'theirs'));
    io.of('/relay').to(room).emit('theirs', { deep: { list: [1, 'two'] } });
    for (const event of fromNode) assert.deepEqual(await event, [{ deep: { list: [1, 'two'] } }]);
    const internally = sockets.map((socket) => once(socket, 'by-http'));
    const { body } = await internal(cluster.nodes[1], 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'by-http', data: [1] });
    assert.equal(body.success, true);
    for (const event of internally) assert.deepEqual(await event, [[1]]);
  });

  test('fetchSockets, socketsJoin, socketsLeave and disconnectSockets of Node.js reach clients of the gateway', async () => {
    const { room, sockets } = await everywhere();
    const found = await io.of('/relay').in(room).fetchSockets();
    assert.deepEqual(found.map((socket) => socket.id).sort(), sockets.map((socket) => socket.id).sort());
    const ours = found.find((socket) => socket.id === sockets[0].id);
    assert.ok(ours.rooms.has(room) && ours.rooms.has(sockets[0].id), 'its rooms');
    assert.ok(ours.data.userId);
    const team = unique('team');
    io.of('/relay').in(room).socketsJoin(team);
    await eventually(async () => (await io.of('/relay').in(team).fetchSockets()).length === 3, { what: 'all to join' });
    assert.equal((await count(cluster.nodes[0], team, '/relay')).count, 2);
    io.of('/relay').in(team).socketsLeave(team);
    await eventually(async () => (await io.of('/relay').in(team).fetchSockets()).length === 0, { what: 'all to leave' });
    const gone = once(sockets[1], 'disconnect');
    io.of('/relay').in(sockets[1].id).disconnectSockets();
    assert.equal((await gone)[0], 'io server disconnect');
  });

  test('clients of the gateway answer a broadcast with acks of Node.js, and vice versa', async () => {
    const { room, sockets } = await everywhere();
    for (const [at, socket] of sockets.entries()) socket.on('ask', (question, ack) => ack({ at, question }));
    const answers = await within(io.of('/relay').to(room).timeout(4_000).emitWithAck('ask', 'q'), 6_000, 'the answers');
    assert.deepEqual(answers.map(({ at }) => at).sort(), [0, 1, 2]);
    const ours = await ask(sockets[0], 'publish', { room, event: 'ask', data: 'p', ack: 4_000 });
    assert.equal(ours.success, true);
    assert.deepEqual([ours.receivers, ours.missing], [3, 0]);
    assert.deepEqual(ours.answers.map(({ at }) => at).sort(), [0, 1, 2]);
  });

  test('users and rooms match by the names that Node.js servers and issuers give them', async () => {
    for (const user of ['auth0|5f7c8ec7c33c6c004bbafe82', 'user@example.org', 'f:2f1c:user@example.org', 'josé {1} 100%/#*']) {
      const sockets = await Promise.all([relay(0, user), relay(1, user), relay('node', user)]);
      const recorded = sockets.map(record);
      const found = await io.of('/relay').in(`user:${user}`).fetchSockets();
      assert.deepEqual(found.map(({ id }) => id).sort(), sockets.map(({ id }) => id).sort(), user);
      io.of('/relay').to(`user:${user}`).emit('by-node', user);
      emitter.to(`user:${user}`).emit('by-emitter', user);
      await internal(cluster.nodes[0], 'POST', '/internal/emit', { namespace: '/relay', to: { user }, event: 'by-us', data: user });
      for (const events of recorded) for (const event of ['by-node', 'by-emitter', 'by-us']) assert.equal(await events.take(event), user);
      const room = `General Chat / ${user}`;
      io.of('/relay').in(`user:${user}`).socketsJoin(room);
      await eventually(async () => (await io.of('/relay').in(room).fetchSockets()).length === 3, { what: 'all to join' });
      assert.equal((await count(cluster.nodes[1], room, '/relay')).count, 2);
      for (const socket of sockets) socket.disconnect();
    }
  });

  test('serverSideEmit crosses in both directions', async () => {
    const heard = new Promise((resolve) => io.of('/relay').once('deploy', (...args) => resolve(args)));
    const { body } = await internal(cluster.nodes[0], 'POST', '/internal/emit', { namespace: '/relay', to: 'servers', event: 'deploy', data: { v: 2 } });
    assert.equal(body.success, true);
    assert.deepEqual(await within(heard, 5_000, 'the event at Node.js'), [{ v: 2 }]);
    // The nodes answer with nothing, so that the caller does not wait for its timeout.
    const answers = await within(io.of('/relay').serverSideEmitWithAck('ping'), 4_000, 'the answers of the gateway nodes');
    assert.equal(answers.length, 2);
  });

  test('an Idempotency-Key allows one broadcast, on any node', async () => {
    const { room, sockets } = await everywhere();
    const recorded = record(sockets[0]);
    const key = { 'Idempotency-Key': unique('key') };
    const body = { namespace: '/relay', to: { room }, event: 'once', data: 1 };
    const answers = await Promise.all([0, 1, 0, 1].map((at) => internal(cluster.nodes[at], 'POST', '/internal/emit', body, key)));
    assert.ok(answers.every(({ status }) => status === 200), JSON.stringify(answers));
    assert.equal(answers.filter(({ body: { repeated } }) => !repeated).length, 1);
    assert.equal(new Set(answers.map(({ body: { place } }) => place)).size, 1);
    const other = await internal(cluster.nodes[0], 'POST', '/internal/emit', { ...body, data: 2 }, key);
    assert.deepEqual([other.status, other.body.success], [422, false]);
    await internal(cluster.nodes[0], 'POST', '/internal/emit', { ...body, event: 'end' });
    await recorded.take('end');
    assert.equal(recorded.seen('once').length, 1);
    for (const [bad, status] of [
      [{ ...body, to: 'nobody' }, 400], [{ ...body, to: {} }, 400], [{ ...body, event: 'disconnect' }, 400], [{ ...body, event: '' }, 400],
      [{ ...body, namespace: 'x' }, 400], [{ ...body, to: { room: 'x'.repeat(256) } }, 400], [{ ...body, to: { user: 'a\nb' } }, 400], [{}, 400],
    ]) assert.equal((await internal(cluster.nodes[0], 'POST', '/internal/emit', bad)).status, status, JSON.stringify(bad));
    assert.equal((await internal(cluster.nodes[0], 'POST', '/internal/emit', body, { 'Idempotency-Key': 'x'.repeat(10_240) })).status, 400);
    assert.equal((await internal(cluster.nodes[0], 'POST', '/internal/emit', { ...body, data: 'x'.repeat(2_000_000) })).status, 413);
    assert.equal((await internal(cluster.nodes[0], 'POST', '/internal/emit', body, { 'X-Internal-Request': 'false' })).status, 403);
  });
});

describe('hostile messages', () => {
  let cluster;
  let emitter;
  before(async () => {
    cluster = await startCluster(2);
    emitter = new Emitter(await cluster.redis.connect()).of('/relay');
  });
  after(() => cluster?.stop());

  test('invalid messages on the channels are counted and affect no client', async () => {
    const room = unique('room');
    const sockets = await Promise.all([0, 1].map((at) => cluster.nodes[at].clients.connect({ namespace: '/relay', claims: EVERYTHING })));
    for (const socket of sockets) await ask(socket, 'join', { room });
    const redis = await cluster.redis.connect();
    const malformed = async () => (await cluster.nodes[0].metrics()).get('muster_redis_malformed_total');
    const start = await malformed();
    const nonsense = ['', 'x', '{', '{}', '[]', Buffer.from([0x93]), Buffer.from([0x93, 0xa1, 0x61, 0x80, 0x80]), Buffer.alloc(64, 0xc1), Buffer.alloc(300, 0x91), 'x'.repeat(2_100_000)];
    for (const message of nonsense) await redis.publish(`socket.io#/relay#${room}#`, message);
    for (const message of ['', '{', '{"type":99}', '{"type":2,"opts":{"rooms":[{}]}}', Buffer.from([0x81, 0xc0])]) await redis.publish('socket.io-request#/relay#', message);
    for (const message of ['', '{', Buffer.from([0x81])]) await redis.publish('socket.io-response#/relay#', message);
    const next = sockets.map((socket) => once(socket, 'next'));
    emitter.to(room).emit('next', 1);
    for (const event of next) assert.deepEqual(await event, [1]);
    await eventually(async () => (await malformed()) >= start + nonsense.length + 8 - 2, { what: 'the nonsense to be counted' });
  });
});
