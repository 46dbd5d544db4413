// Requests of servers and backends about rooms are executed or refused, whatever clients may call a room; the Node.js
// server on the same Redis is the control. Unusable messages are counted and logged.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, keeper, unique } from './support/clients.mjs';
import { count, internal, startCluster } from './support/cluster.mjs';
import { load } from './support/packages.mjs';
import { eventually, record, within, once } from './support/wait.mjs';

const { Server } = load('socket.io');
const { createAdapter } = load('@socket.io/redis-adapter');
const { Emitter } = load('@socket.io/redis-emitter');
const msgpack = load('notepack.io');

/** Names that clients may not give a room, and names that they may. */
const ROOMS = [
  'team/42', 'General Chat', 'joe@example.org', 'проект-1', 'a#b', '#', '##', 'a#', '#a#', 'x'.repeat(129), 'x'.repeat(255), 'é'.repeat(127), '*', '?', 'a*', '[a-z]', '\\', '{}', '}{', '%', '100%', ' ', '\u00a0', '\u200b', '\ufeff', '👩\u200d🚀',
  'a\nb', 'a\u0000b', '\u0007', '\u202e', '', 'x'.repeat(256), 'ü'.repeat(700), 'room:chat', 'sos:1', 'emergency:1', 'chat:a:b', 'user:', 'null', 'true', '7', 'socket.io#/relay#a', '__proto__', 'constructor', "' OR 1=1 --", 'a,b', '"q"', '<b>', 7, 1.5,
];

describe('rooms that servers use', { timeout: 60_000 }, () => {
  let cluster;
  let http;
  let io;
  let emitter;
  let redis;
  let node;

  before(async () => {
    cluster = await startCluster(2);
    redis = await cluster.redis.connect();
    http = createServer();
    io = new Server(http, { adapter: createAdapter(await cluster.redis.connect(), await cluster.redis.connect()) }).of('/relay');
    io.on('connection', (socket) => {
      socket.on('join', ({ room }, ack) => {
        socket.join(room);
        ack({ success: true });
      });
    });
    await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
    node = keeper({ url: `http://127.0.0.1:${http.address().port}`, token: cluster.nodes[0].token });
    emitter = new Emitter(await cluster.redis.connect()).of('/relay');
    await eventually(async () => Number(Object.values(await redis.pubSubNumSub('socket.io-request#/relay#'))[0]) === 3, { what: 'all to be subscribed' });
  });
  after(async () => {
    node?.closeAll();
    await new Promise((resolve) => (io ? io.server.close(resolve) : resolve()));
    await cluster?.stop();
  });

  const at = (where, sub = unique('u')) => (where === 'node' ? node : cluster.nodes[where].clients).connect({ namespace: '/relay', claims: { ...EVERYTHING, sub } });
  const unusable = async (on = 0) => (await cluster.nodes[on].metrics()).get('muster_redis_malformed_total');

  test('can be entered, reached and left, whatever their names', async () => {
    const [one, two, control, other] = await Promise.all([at(0), at(1), at('node'), at(0)]);
    const all = [one, two, control];
    const base = unique('base');
    for (const socket of all) await ask(socket, 'join', { room: base });
    const recorded = all.map(record);
    const outside = record(other);
    const start = await unusable();
    const wrong = [];
    const check = async (room, event, expected) => {
      for (const [n, events] of recorded.entries()) {
        const got = await events.take(event, undefined, { timeout: 1_500 }).catch(() => 'nothing');
        if (got !== expected) wrong.push({ room, event, socket: n, got });
      }
    };
    for (const [n, room] of ROOMS.entries()) {
      const joins = n % 2 === 0 ? emitter : io;
      joins.in(base).socketsJoin(room);
      const found = async () => (await io.in(room).fetchSockets()).length === 3;
      if (!(await eventually(found, { what: `all to join ${JSON.stringify(room)}`, timeout: 3_000 }).catch(() => false))) {
        wrong.push({ room, what: 'not joined' });
        continue;
      }
      emitter.to(room).emit('by-emitter', n);
      io.to(room).emit('by-node', n);
      io.to([room, unique('nobody')]).emit('by-both', n);
      for (const event of ['by-emitter', 'by-node', 'by-both']) await check(room, event, n);
      emitter.except(room).emit('not-there', n);
      joins.in(base).socketsLeave(room);
      if (!(await eventually(async () => (await io.in(room).fetchSockets()).length === 0, { what: 'all to leave', timeout: 3_000 }).catch(() => false))) wrong.push({ room, what: 'not left' });
    }
    emitter.to(base).emit('end');
    for (const events of recorded) await events.take('end');
    for (const events of recorded) for (const event of ['by-emitter', 'by-node', 'by-both', 'not-there']) if (events.seen(event).length > 0) wrong.push({ event, more: events.seen(event) });
    await outside.count('not-there', ROOMS.length);
    assert.deepEqual(wrong, []);
    assert.equal(await unusable(), start, 'nothing was refused');
    for (const socket of [...all, other]) socket.disconnect();
  });

  test('can be counted and emitted to over HTTP, by the rule for backends', async () => {
    const socket = await at(0);
    const recorded = record(socket);
    for (const room of ROOMS.filter((name) => typeof name === 'string')) {
      emitter.in(socket.id).socketsJoin(room);
      await eventually(async () => (await io.in(room).fetchSockets()).length === 1, { what: `to join ${JSON.stringify(room)}` });
      const isGood = room !== '' && !/[\u0000-\u001f\u007f-\u009f]/.test(room) && Buffer.byteLength(room) <= 255;
      const { status, body } = await internal(cluster.nodes[1], 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'told', data: room, receipt: true });
      const [path, query] = [`/internal/rooms/${encodeURIComponent(room)}`, '?namespace=/relay'];
      if (isGood) {
        assert.deepEqual([status, body.sockets], [200, 1], JSON.stringify(room));
        assert.equal(await recorded.take('told'), room);
        assert.equal((await count(cluster.nodes[1], room, '/relay')).count, 1, JSON.stringify(room));
        assert.deepEqual((await internal(cluster.nodes[0], 'GET', `${path}/active${query}`)).body.data.members.map(({ socketId }) => socketId), [socket.id]);
      } else {
        assert.deepEqual([status, body.error], [400, 'Invalid room'], JSON.stringify(room));
        if (room !== '') assert.equal((await internal(cluster.nodes[1], 'GET', `${path}/count${query}`)).status, 400);
      }
      emitter.in(socket.id).socketsLeave(room);
      await eventually(async () => (await io.in(room).fetchSockets()).length === 0, { what: 'to leave' });
    }
    for (const event of ['заказ создан', 'a b', 'e'.repeat(255), 'order/created', '\u200b']) {
      const to = { user: socket.auth ? unique('nobody') : '' };
      assert.equal((await internal(cluster.nodes[0], 'POST', '/internal/emit', { namespace: '/relay', to, event })).status, 200, event);
      await internal(cluster.nodes[0], 'POST', '/internal/emit', { namespace: '/relay', to: 'all', event, data: 1 });
      assert.equal(await recorded.take(event), 1);
    }
    for (const event of ['', 'a\nb', 'e'.repeat(256), 'connect']) {
      const { status, body } = await internal(cluster.nodes[0], 'POST', '/internal/emit', { namespace: '/relay', to: 'all', event });
      assert.deepEqual([status, body.error], [400, 'Invalid event'], JSON.stringify(event));
    }
    socket.disconnect();
  });

  test('may be the room of another user or socket, in addition to its own members', async () => {
    const [ann, bob] = [unique('ann'), unique('bob')];
    const [a, a2, b] = await Promise.all([at(0, ann), at(1, ann), at(0, bob)]);
    const recorded = [a, a2, b].map(record);
    const counts = (event) => recorded.map((events) => events.seen(event).length);
    const emit = async (room, event) => {
      emitter.to(room).emit(event, 1);
      emitter.to([room, unique('nobody')]).emit(event, 2);
      await internal(cluster.nodes[1], 'POST', '/internal/emit', { namespace: '/relay', to: room.startsWith('user:') ? { user: room.slice(5) } : { room }, event, data: 3 });
      emitter.emit('then', event);
      for (const events of recorded) await events.take('then', (which) => which === event);
    };
    emitter.in(`user:${bob}`).socketsJoin(`user:${ann}`);
    emitter.in(b.id).socketsJoin(a.id);
    await eventually(async () => (await io.in(`user:${ann}`).fetchSockets()).length === 3 && (await io.in(a.id).fetchSockets()).length === 2, { what: 'both to be joined' });
    await emit(`user:${ann}`, 'to-ann');
    await emit(a.id, 'to-socket');
    assert.deepEqual([counts('to-ann'), counts('to-socket')], [[3, 3, 3], [3, 0, 3]]);
    emitter.in(b.id).socketsLeave([`user:${ann}`, a.id]);
    await eventually(async () => (await io.in(`user:${ann}`).fetchSockets()).length === 2 && (await io.in(a.id).fetchSockets()).length === 1, { what: 'both to be left' });
    await emit(`user:${ann}`, 'to-ann-alone');
    await emit(a.id, 'to-socket-alone');
    assert.deepEqual([counts('to-ann-alone'), counts('to-socket-alone')], [[3, 3, 0], [3, 0, 0]]);

    // Requests that the gateway does not support are logged.
    const before = await unusable();
    emitter.in(a.id).socketsLeave([a.id, `user:${ann}`]);
    await eventually(async () => (await unusable()) === before + 2, { what: 'both to be counted' });
    await cluster.nodes[0].waitLog(({ reason }) => /own room/.test(reason ?? ''));
    for (const socket of [a, a2, b]) socket.disconnect();
  });

  test('are all found by a Node.js server', async () => {
    const user = unique('user');
    const sockets = await Promise.all([at(0, user), at(1)]);
    const room = unique('team');
    for (const socket of sockets) await ask(socket, 'join', { room });
    const rooms = await within(io.adapter.allRooms(), 4_000, 'allRooms');
    for (const name of [room, `user:${user}`, ...sockets.map(({ id }) => id)]) assert.ok(rooms.has(name), name);
    for (const socket of sockets) socket.disconnect();
  });

  test('servers may send larger messages than clients', async () => {
    const room = unique('room');
    const sockets = [await at(0), await at(1)];
    for (const socket of sockets) await ask(socket, 'join', { room });
    const text = 'x'.repeat(3_000_000);
    const heard = sockets.map((socket) => once(socket, 'large', { timeout: 20_000 }));
    await redis.publish(`socket.io#/relay#${room}#`, msgpack.encode(['e', { type: 2, data: ['large', text, Buffer.alloc(2_000_000, 7)], nsp: '/relay' }, { rooms: [room] }]));
    for (const each of heard) {
      const [got, bytes] = await each;
      assert.equal(got, text);
      assert.equal(Buffer.from(bytes).equals(Buffer.alloc(2_000_000, 7)), true);
    }
  });

  test('unusable messages are counted, and logged once with their channel', async () => {
    const room = unique('room');
    const socket = await at(0);
    await ask(socket, 'join', { room });
    const [channel, requests] = [`socket.io#/relay#${room}#`, 'socket.io-request#/relay#'];
    const packet = (data) => ({ type: 2, data, nsp: '/relay' });
    const bad = [
      ['malformed broadcast', channel, Buffer.from([0xc1])],
      ['rooms that are no list', channel, msgpack.encode(['e', packet(['e']), { rooms: 7 }])],
      ['too many rooms', channel, msgpack.encode(['e', packet(['e']), { rooms: Array.from({ length: 10_001 }, (_, n) => `r${n}`) }])],
      ['too many binary values', channel, msgpack.encode(['e', packet(['e', ...Array.from({ length: 11 }, () => Buffer.from('x'))]), { rooms: [room] }])],
      ['broadcast too big', channel, msgpack.encode(['e', packet(['e', 'x'.repeat(2 ** 24 + 1)]), { rooms: [room] }])],
      ['no event that may be emitted', channel, msgpack.encode(['e', packet(['disconnect']), { rooms: [room] }])],
      ["broadcast of another namespace than its channel's", channel, msgpack.encode(['e', { ...packet(['e']), nsp: '/' }, { rooms: [room] }])],
      ['nested too deep', channel, msgpack.encode(['e', packet(['e', Array.from({ length: 200 }).reduce((inner) => [inner], 1)]), { rooms: [room] }])],
      ['malformed request', requests, '{"type":2,"opts":{"rooms":[{}]},"rooms":["a"]}'],
      ['the name of a room is too long', requests, JSON.stringify({ type: 2, opts: { rooms: [room], except: [] }, rooms: ['x'.repeat(2_000)] })],
      ['malformed response', 'socket.io-response#/relay#', '{'],
    ];
    for (const [reason, where, message] of bad) {
      const before = await unusable();
      await redis.publish(where, message);
      await eventually(async () => (await unusable()) === before + 1, { what: `${reason} to be counted` });
      const line = await cluster.nodes[0].waitLog((entry) => entry.reason === reason);
      assert.ok(line.channel.includes(where.slice(0, 20)), JSON.stringify(line));
    }
    const lines = cluster.nodes[0].logs.length;
    for (let n = 0; n < 3; n += 1) await redis.publish(channel, Buffer.from([0xc1]));
    emitter.to(room).emit('end');
    await within(new Promise((resolve) => socket.once('end', resolve)), 5_000, 'the end');
    assert.equal(cluster.nodes[0].logs.slice(lines).filter(({ reason }) => reason === 'malformed broadcast').length, 0, 'once a minute');
    socket.disconnect();
  });

  test('an unknown field is refused, so that its sender does not assume success', async () => {
    const { nodes: [one] } = cluster;
    const room = unique('room');
    const emit = { namespace: '/relay', to: { room }, event: 'e', data: 1 };
    const recorded = record(await at(0));
    const known = 'expected namespace, to, event, data, receipt';
    for (const [method, path, body, error] of [
      ['POST', '/internal/emit', { ...emit, except: ['x'] }, `unknown field except, ${known}`],
      ['POST', '/internal/emit', { ...emit, args: [1, 2] }, `unknown field args, ${known}`],
      ['POST', '/internal/emit', { ...emit, to: 'all', rooms: [room] }, `unknown field rooms, ${known}`],
      ['POST', '/internal/emit', { ...emit, '<b>`': 1 }, `unknown field, ${known}`],
      ['POST', '/internal/emit', { ...emit, ack: true }, `unknown field ack, ${known}`],
      ['POST', '/internal/notifications', { userId: 'u', title: 't', message: 'm', titel: 't' }, 'unknown field titel, expected userId, title, message, type, data'],
      ['PUT', '/internal/rooms/visit:1/members', { userIds: [], users: [] }, 'unknown field users, expected userIds'],
    ]) {
      const answer = await internal(one, method, path, body);
      assert.deepEqual([answer.status, answer.body], [400, { success: false, error: `Invalid body: ${error}` }], JSON.stringify(body));
    }
    // Backends may send the whole record of a participant.
    const participant = { id: 'p', sosId: unique('sos'), userId: 'u', userType: 'citizen', status: 'ACTIVE', joinedAt: new Date().toISOString(), leftAt: null, actorType: 'USER' };
    for (const path of ['joined', 'left']) {
      const answer = await internal(one, 'POST', `/internal/participants/${path}`, participant);
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
    }
    for (const to of [{ room, except: 'x' }, { room, user: 'u' }, { rooms: [room] }, {}, [], 7, null, 'everybody']) {
      const answer = await internal(one, 'POST', '/internal/emit', { ...emit, to });
      assert.deepEqual([answer.status, answer.body.error], [400, 'Invalid to: expected {user}, {room} or "all"'], JSON.stringify(to));
    }
    assert.equal((await internal(one, 'GET', `/internal/rooms/${room}/count?nsp=/relay`)).status, 400);
    await internal(one, 'POST', '/internal/emit', { namespace: '/relay', to: 'all', event: 'end' });
    await recorded.take('end');
    assert.deepEqual(recorded.seen('e'), []);
  });
});
