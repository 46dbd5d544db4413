// Many nodes as one system: broadcasts, order, counts, first and last of a user, through a real Redis.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, TRANSPORTS, ask, bounded, unique } from './support/clients.mjs';
import { HOLDBACK_MS, LEASE_MS, count, internal, startCluster } from './support/cluster.mjs';
import { eventually, once, record } from './support/wait.mjs';

describe('three nodes', () => {
  let cluster;
  before(async () => {
    cluster = await startCluster(3);
  });
  after(() => cluster?.stop());

  const relay = (at, claims = {}) => cluster.nodes[at].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, ...claims } });
  const chat = (at, claims = {}, options = {}) => cluster.nodes[at].clients.connect({ claims, ...options });

  test('what is published on one node reaches a room on all, the publisher included', async () => {
    const room = unique('room');
    const sockets = await Promise.all([0, 1, 2].map((at) => relay(at, { sub: `u${at}` })));
    for (const socket of sockets) assert.equal((await ask(socket, 'join', { room })).success, true);
    const heard = sockets.map((socket) => once(socket, 'hello'));
    assert.equal((await ask(sockets[0], 'publish', { room, event: 'hello', data: { text: 'héllo', n: [1, 2.5, null] } })).success, true);
    for (const event of heard) assert.deepEqual((await event)[0], { text: 'héllo', n: [1, 2.5, null] });
    const binary = sockets.map((socket) => once(socket, 'bytes'));
    await ask(sockets[1], 'publish', { room, event: 'bytes', data: { b: Buffer.from([1, 2, 3]), t: 'x' } });
    for (const event of binary) assert.deepEqual(Buffer.from((await event)[0].b), Buffer.from([1, 2, 3]));
    const others = sockets.slice(1).map((socket) => once(socket, 'not-me'));
    const own = record(sockets[0]);
    await ask(sockets[0], 'publish', { room, event: 'not-me', data: 1, self: false });
    for (const event of others) await event;
    await ask(sockets[0], 'publish', { room, event: 'end', data: 1 });
    await own.take('end');
    assert.deepEqual(own.seen('not-me'), []);
  });

  test('everybody sees one order, whoever sends', async () => {
    const room = unique('order');
    const sockets = await Promise.all([0, 1, 2].map((at) => chat(at, { sub: `o${at}` })));
    for (const socket of sockets) await ask(socket, 'join_room', room);
    const seen = sockets.map(() => []);
    sockets.forEach((socket, at) => socket.on('new_message', (message) => seen[at].push(message.content)));
    await Promise.all(sockets.map((socket, at) => bounded(40, 8, (n) => ask(socket, 'send_message', { roomId: room, content: `${at}.${n}` }))));
    await eventually(() => seen.every((list) => list.length === 120), { what: 'all messages' });
    assert.deepEqual(seen[1], seen[0]);
    assert.deepEqual(seen[2], seen[0]);
    const page = await ask(sockets[0], 'room_history', { roomId: room, limit: 100 });
    assert.deepEqual(page.messages.map((message) => message.content), seen[0].slice(20));
  });

  test('who types is seen on every node, and not by themselves', async () => {
    const room = unique('typing');
    const sockets = await Promise.all([0, 1, 2].map((at) => cluster.nodes[at].clients.connect({ claims: { sub: `t${at}`, name: `T${at}` } })));
    for (const socket of sockets) await ask(socket, 'join_room', room);
    const own = [];
    sockets[1].on('user_typing', (event) => own.push(event));
    for (const [event, told] of [['typing_start', 'user_typing'], ['typing_stop', 'user_stopped_typing']]) {
      const seen = [0, 2].map((at) => once(sockets[at], told));
      sockets[1].emit(event, room);
      for (const each of seen) assert.equal((await each)[0].userId, 't1');
    }
    assert.deepEqual(own, []);
  });

  test('counts and lists are the same on all nodes', async () => {
    const room = unique('counted');
    const sockets = await Promise.all([0, 1, 2, 0].map((at, index) => relay(at, { sub: index === 3 ? 'c0' : `c${at}`, name: `N${at}` })));
    for (const socket of sockets) await ask(socket, 'join', { room });
    for (const node of cluster.nodes) {
      const { count: sockets_, users } = await count(node, room, '/relay');
      assert.deepEqual({ sockets_, users }, { sockets_: 4, users: 3 });
      const { body } = await internal(node, 'GET', `/internal/rooms/${room}/active?namespace=/relay`);
      assert.deepEqual(body.data.members.map((member) => member.socketId).sort(), sockets.map((socket) => socket.id).sort());
      assert.deepEqual([...new Set(body.data.members.map((member) => member.userId))].sort(), ['c0', 'c1', 'c2']);
    }
    assert.equal((await ask(sockets[1], 'members', { room })).count, 4);
    sockets[0].disconnect();
    await eventually(async () => (await count(cluster.nodes[2], room, '/relay')).count === 3, { what: 'the leave to be counted' });
    assert.equal((await count(cluster.nodes[1], room, '/relay')).users, 3);
  });

  test('a user with sockets on two nodes joins once and leaves once', async () => {
    const room = unique('once');
    const watcher = await chat(2, { sub: 'watcher' });
    await ask(watcher, 'join_room', room);
    const joined = [];
    const left = [];
    watcher.on('user_joined', ({ userId }) => joined.push(userId));
    watcher.on('user_left', ({ userId }) => left.push(userId));
    const [one, two] = await Promise.all([chat(0, { sub: 'twice' }), chat(1, { sub: 'twice' })]);
    await ask(one, 'join_room', room);
    await ask(two, 'join_room', room);
    await ask(one, 'leave_room', room);
    await ask(two, 'leave_room', room);
    await eventually(() => left.length > 0, { what: 'the leave' });
    const last = await chat(0, { sub: 'last' });
    await ask(last, 'join_room', room);
    await eventually(() => joined.includes('last'), { what: 'the last join' });
    assert.deepEqual([joined, left], [['twice', 'last'], ['twice']]);
  });

  test('who is lost on one node and back on another in time was never gone', async () => {
    const room = unique('back');
    const watcher = await chat(2, { sub: 'watcher' });
    await ask(watcher, 'join_room', room);
    const moves = [];
    watcher.on('user_joined', ({ userId }) => moves.push(`+${userId}`));
    watcher.on('user_left', ({ userId }) => moves.push(`-${userId}`));
    const one = await chat(0, { sub: 'phone', email: 'p@example.org' });
    await ask(one, 'join_room', room);
    const two = await chat(1, { sub: 'phone', email: 'p@example.org' });
    one.io.engine.close();
    await ask(two, 'join_room', room);
    const gone = once(watcher, 'user_left', { timeout: HOLDBACK_MS + 5_000 });
    two.io.engine.close();
    const [{ userId, email }] = await gone;
    assert.deepEqual({ userId, email }, { userId: 'phone', email: 'p@example.org' });
    assert.deepEqual(moves, ['+phone', '-phone']);
  });
});

describe('a node that is killed', () => {
  let cluster;
  before(async () => {
    cluster = await startCluster(3);
  });
  after(() => cluster?.stop());

  test('its members stop counting, and the survivors tell who is gone, once', { timeout: 60_000 }, async () => {
    const room = unique('killed');
    const survivors = await Promise.all([0, 1].map((at) => cluster.nodes[at].clients.connect({ claims: { sub: `s${at}` } })));
    for (const socket of survivors) await ask(socket, 'join_room', room);
    const dead = await Promise.all(['a', 'b', 's1'].map((sub) => cluster.nodes[2].clients.connect({ claims: { sub, email: `${sub}@example.org` } })));
    for (const socket of dead) await ask(socket, 'join_room', room);
    const left = survivors.map(() => []);
    survivors.forEach((socket, at) => socket.on('user_left', ({ userId, email }) => left[at].push([userId, email])));
    assert.equal((await count(cluster.nodes[0], `room:${room}`)).count, 5);
    const killed = Date.now();
    await cluster.nodes[2].kill();
    for (const at of [0, 1]) {
      await eventually(async () => (await count(cluster.nodes[at], `room:${room}`)).count === 2, { timeout: LEASE_MS + 5_000, what: 'the dead to stop counting' });
    }
    const counted = Date.now() - killed;
    await eventually(() => left.every((list) => list.length === 2), { timeout: LEASE_MS * 2 + HOLDBACK_MS + 5_000, what: 'the leaves' });
    for (const list of left) assert.deepEqual(list.sort(), [['a', 'a@example.org'], ['b', 'b@example.org']]);
    // s1 is still there by a socket on another node.
    assert.equal((await count(cluster.nodes[1], `room:${room}`)).users, 2);
    console.log(`# counted out after ${counted} ms with a lease of ${LEASE_MS} ms`);
  });
});
