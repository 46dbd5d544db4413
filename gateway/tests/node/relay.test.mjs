// The relay: rooms by claims, publishing, members, echo; over every transport.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, TRANSPORTS, ask, keeper, unique } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { eventually, record } from './support/wait.mjs';

for (const transport of TRANSPORTS) {
  describe(`the relay over ${transport.name}`, { concurrency: 4 }, () => {
    let gateway;
    const opened = new Set();
    before(async () => { gateway = await startGateway(); });
    after(async () => {
      for (const clients of opened) clients.closeAll();
      await gateway?.kill();
    });

    /** Connects a socket with these claims, and records its events. */
    const member = async (claims = EVERYTHING) => {
      const clients = keeper(gateway);
      opened.add(clients);
      const socket = clients.socket({ transport, namespace: '/relay', claims: { sub: unique('user'), ...claims } });
      const events = record(socket);
      await clients.connected(socket, { transport });
      return { socket, events };
    };
    /** `count` members of a fresh room. */
    const roomOf = async (count) => {
      const room = unique('room');
      const members = await Promise.all(Array.from({ length: count }, () => member()));
      for (const { socket } of members) assert.deepEqual(await ask(socket, 'join', { room }), { success: true, room });
      return { room, members };
    };
    const publish = async ({ socket }, payload) => assert.deepEqual(await ask(socket, 'publish', payload), { success: true });
    /** Waits until everything published before this has reached `to`. */
    const barrier = async (from, room, to) => {
      const mark = unique('mark');
      await publish(from, { room, event: 'barrier', data: mark });
      await to.events.take('barrier', (data) => data === mark);
    };

    test('an event reaches the room, including the sender', async () => {
      const { room, members: [ann, bob, cid] } = await roomOf(3);
      const data = { z: 1, a: [null, true, 'é'] };
      await publish(ann, { room, event: 'news', data });
      for (const { events } of [ann, bob, cid]) assert.deepEqual(await events.takeAll('news'), [data]);
    });

    test('"self": false leaves the sender out', async () => {
      const { room, members: [ann, bob] } = await roomOf(2);
      await publish(ann, { room, event: 'quiet', data: 1, self: false });
      assert.equal(await bob.events.take('quiet'), 1);
      await publish(ann, { room, event: 'loud', data: 2, self: true });
      assert.equal(await ann.events.take('loud'), 2);
      assert.deepEqual(ann.events.seen('quiet'), []);
    });

    test('a member receives only events of its room, and none after leaving', async () => {
      const { room, members: [ann, bob] } = await roomOf(2);
      const { room: other, members: [out] } = await roomOf(1);
      await publish(ann, { room, event: 'a', data: 1 });
      await bob.events.take('a');
      assert.deepEqual(await ask(bob.socket, 'leave', { room }), { success: true, room });
      await publish(ann, { room, event: 'a', data: 2 });
      await ask(bob.socket, 'join', { room: other });
      await barrier(ann, other, out);
      await barrier(ann, other, bob);
      assert.deepEqual(bob.events.seen('a'), []);
      assert.deepEqual(out.events.seen('a'), []);
      assert.deepEqual(await ask(bob.socket, 'leave', { room }), { success: true, room }, 'leaving twice is harmless');
    });

    test('joining twice is joining once', async () => {
      const { room, members: [ann] } = await roomOf(1);
      assert.deepEqual(await ask(ann.socket, 'join', { room }), { success: true, room });
      await publish(ann, { room, event: 'once', data: 1 });
      await barrier(ann, room, ann);
      assert.equal(ann.events.seen('once').length, 1);
      assert.equal((await ask(ann.socket, 'members', { room })).count, 1);
    });

    test('malformed claims grant nothing', async () => {
      for (const claims of [{ rooms: '*', publish: '*' }, { rooms: [7, null], publish: {} }, { rooms: true, publish: 1 }]) {
        const client = await member(claims).catch((error) => {
          assert.equal(error.message, 'Invalid token', 'or the whole token is refused');
        });
        if (!client) continue;
        for (const room of ['a', '7', '*']) {
          assert.equal((await ask(client.socket, 'join', { room })).success, false, JSON.stringify(claims));
          assert.equal((await ask(client.socket, 'publish', { room, event: 'e', data: 1 })).success, false, JSON.stringify(claims));
        }
      }
    });

    test('a refusal without an ack is an error event', async () => {
      const { socket, events } = await member({});
      socket.emit('join', { room: 'x' });
      assert.deepEqual(await events.take('error'), { message: 'Not allowed' });
      socket.emit('publish', { room: 'a\nb', event: 'e', data: 1 });
      const { message } = await events.take('error');
      assert.ok(['Invalid room', 'Not allowed'].includes(message), message);
    });

    test('every receiver, including the publisher, is asked for an ack, and the answers come back together', async () => {
      const { room, members: [ann, bob, cid] } = await roomOf(3);
      ann.socket.on('who', (data, answer) => answer({ ann: data }));
      bob.socket.on('who', (data, answer) => answer('bob', 'more'));
      cid.socket.on('who', (data, answer) => answer());
      const { answers, ...rest } = await ask(ann.socket, 'publish', { room, event: 'who', data: 7, ack: 10_000 });
      assert.deepEqual(rest, { success: true, receivers: 3, missing: 0 });
      assert.deepEqual(new Set(answers.map((answer) => JSON.stringify(answer))), new Set(['{"ann":7}', '"bob"', 'null']));
    });

    test('a receiver without an answer is missing at the timeout, and the publisher continues meanwhile', async () => {
      const { room, members: [ann, bob, cid] } = await roomOf(3);
      bob.socket.on('who', (answer) => answer('bob'));
      const asked = ask(ann.socket, 'publish', { room, event: 'who', self: false, ack: 3_000 });
      assert.equal(await ask(ann.socket, 'echo', 'meanwhile'), 'meanwhile');
      assert.deepEqual(await asked, { success: true, receivers: 2, missing: 1, answers: ['bob'] });
      assert.ok(cid.socket.connected);
    });

    test('a binary answer is in the list, and an empty room answers at once', async () => {
      const { room, members: [ann, bob] } = await roomOf(2);
      bob.socket.on('who', (answer) => answer(Buffer.from('x')));
      const asked = await ask(ann.socket, 'publish', { room, event: 'who', self: false, ack: 10_000 });
      assert.deepEqual({ ...asked, answers: asked.answers.map((bytes) => Buffer.from(bytes).toString()) }, { success: true, receivers: 1, missing: 0, answers: ['x'] });
      const nobody = await ask(ann.socket, 'publish', { room: unique('room'), event: 'who', ack: 10_000 });
      assert.deepEqual(nobody, { success: true, receivers: 0, missing: 0, answers: [] });
    });

    test('members lists sockets and counts users', async () => {
      const room = unique('room');
      const user = unique('user');
      const first = await member({ ...EVERYTHING, sub: user, name: 'Twin' });
      const second = await member({ ...EVERYTHING, sub: user, name: 'Twin' });
      const third = await member({ ...EVERYTHING, email: 'third@example.com' });
      for (const { socket } of [first, second, third]) await ask(socket, 'join', { room });
      const answer = await ask(third.socket, 'members', { room });
      assert.deepEqual(Object.keys(answer).sort(), ['count', 'hasMore', 'members', 'room', 'success', 'users']);
      assert.equal(answer.room, room);
      assert.equal(answer.count, 3);
      assert.equal(answer.users, 2);
      assert.deepEqual(answer.members.map(({ socketId }) => socketId).sort(), [first, second, third].map(({ socket }) => socket.id).sort());
      const entry = answer.members.find(({ socketId }) => socketId === first.socket.id);
      assert.deepEqual({ ...entry, connectedAt: 0 }, { userId: user, displayName: 'Twin', socketId: first.socket.id, connectedAt: 0 });
      assert.ok(Math.abs(entry.connectedAt - Date.now()) < 60_000, `connectedAt is milliseconds, as in document 000: ${entry.connectedAt}`);
      second.socket.io.engine.close();
      await eventually(async () => (await ask(third.socket, 'members', { room })).count === 2, { what: 'the lost socket is out of the room' });
      const empty = await ask(third.socket, 'members', { room: unique('nobody') });
      assert.deepEqual([empty.members, empty.count, empty.users], [[], 0, 0]);
    });

    test('a relay room is no chat room of that name', async () => {
      const clients = keeper(gateway);
      opened.add(clients);
      const { room, members: [ann] } = await roomOf(1);
      await ask(ann.socket, 'join', { room: `room:${room}` });
      const chat = await clients.connect({ transport });
      await ask(chat, 'join_room', room);
      const { success } = await ask(chat, 'send_message', { roomId: room, content: 'secret' });
      assert.equal(success, true);
      await barrier(ann, room, ann);
      assert.deepEqual(ann.events.seen('new_message'), []);
    });

    test('binary data passes through unchanged, anywhere in the data and up to ten values', async () => {
      const { room, members: [ann, bob] } = await roomOf(2);
      const samples = [
        Buffer.from([0, 255, 128]),
        Buffer.alloc(0),
        { list: [Buffer.from('x'), { deep: { er: Buffer.from('y') } }], text: 'z' },
        Array.from({ length: 10 }, (_, at) => Buffer.alloc(at * 1_000, at)),
        { same: Buffer.alloc(100_000, 7) },
      ];
      for (const data of samples) {
        await publish(ann, { room, event: 'bin', data });
        assert.deepEqual(buffers(await bob.events.take('bin')), data);
        assert.deepEqual(buffers(await ann.events.take('bin')), data);
      }
    });

    test('all members receive a publisher\'s events in order', async () => {
      const { room, members } = await roomOf(5);
      const total = 200;
      for (let at = 0; at < total; at += 1) members[0].socket.emit('publish', { room, event: 'n', data: at });
      for (const { events } of members) {
        assert.deepEqual(await events.count('n', total), Array.from({ length: total }, (_, at) => at));
      }
    });
  });
}

describe('the relay beside chat on one namespace', () => {
  test('leaves chat its rooms', async () => {
    const gateway = await startGateway({ args: ['--mount', 'chat=/one', '--mount', 'relay=/one'] });
    const clients = keeper(gateway);
    try {
      const socket = await clients.connect({ namespace: '/one', claims: EVERYTHING });
      for (const event of ['join', 'leave', 'members', 'publish']) {
        const answer = await ask(socket, event, { room: 'room:general', event: 'new_message', data: 1 });
        assert.deepEqual(answer, { success: false, error: 'Invalid room' }, event);
      }
      assert.deepEqual(await ask(socket, 'join', { room: 'general' }), { success: true, room: 'general' });
      assert.deepEqual(await ask(socket, 'join_room', 'general'), { success: true, roomId: 'general' });
    } finally {
      clients.closeAll();
      await gateway.kill();
    }
  });
});

/** Any received binary data as Buffers, for deepEqual. */
function buffers(value) {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return Buffer.from(value.buffer ?? value, value.byteOffset ?? 0, value.byteLength);
  if (Array.isArray(value)) return value.map(buffers);
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, buffers(inner)]));
  return value;
}
