// Everything sent to a room goes through its order, and a client that leaves still receives its own earlier events:
// relay and chat, on a single node, on one node of two and across two nodes. Chat's messages and history while backends
// add and remove members. ROOM_ORDER_ROUNDS repeats each test more often.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, keeper, unique } from './support/clients.mjs';
import { startCluster } from './support/cluster.mjs';
import { startGateway } from './support/gateway.mjs';
import { load } from './support/packages.mjs';
import { delay, eventually, once, record } from './support/wait.mjs';

const { Emitter } = load('@socket.io/redis-emitter');

const ROUNDS = Number(process.env.ROOM_ORDER_ROUNDS ?? 25);

/** Up to eight milliseconds, so that consecutive steps meet at different moments. */
const pause = () => delay(Math.random() * 8);

/** Runs `round` repeatedly, some in parallel, and lists the errors. */
async function rounds(round) {
  const wrong = [];
  const left = Array.from({ length: ROUNDS }, (_, n) => n);
  await Promise.all(Array.from({ length: 5 }, async () => {
    while (left.length > 0) {
      const n = left.shift();
      await round(n).catch((error) => wrong.push(`${n}: ${error.message}`));
    }
  }));
  assert.deepEqual(wrong, [], `${wrong.length} of ${ROUNDS} wrong`);
}

/** The names of the events and what each carries, in order. */
const heard = (events, names) => events.events.filter(({ event }) => names.includes(event)).map(({ event, args }) => `${event} ${JSON.stringify(args[0]?.content ?? args[0]?.n ?? args[0]?.userId ?? args[0])}`);

const PLACES = {
  'one node alone': { start: async () => { const node = await startGateway(); node.clients = keeper(node); return { nodes: [node], stop: async () => { node.clients.closeAll(); await node.kill(); } }; }, at: () => 0 },
  'one node of two': { start: () => startCluster(2), at: () => 0 },
  'two nodes': { start: () => startCluster(2), at: (n) => n % 2 },
};

for (const [place, { start, at }] of Object.entries(PLACES)) {
  describe(`rooms on ${place}`, () => {
    let cluster;
    before(async () => { cluster = await start(); });
    after(() => cluster?.stop());

    /** The `n`th member of a room of relay. */
    const relayMember = async (n, room) => {
      const socket = await cluster.nodes[at(n)].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: unique('u') } });
      socket.on('ask', (_body, ack) => ack?.('yes'));
      const events = record(socket);
      if (room) assert.equal((await ask(socket, 'join', { room })).success, true);
      return { socket, events };
    };

    /** The `n`th member of a room of chat. */
    const chatMember = async (n, room, user = unique('u')) => {
      const socket = await cluster.nodes[at(n)].clients.connect({ claims: { sub: user } });
      const events = record(socket);
      if (room) assert.equal((await ask(socket, 'join_room', room)).success, true);
      return { socket, events, user };
    };

    const close = (...members) => members.forEach(({ socket }) => socket.disconnect());

    test('relay: a client that joins, publishes and leaves in a row receives its own event', { timeout: 120_000 }, () => rounds(async () => {
      const room = unique('room');
      const other = await relayMember(1, room);
      const own = await relayMember(0);
      own.socket.emit('join', { room });
      own.socket.emit('publish', { room, event: 'said', data: { n: 1 } });
      own.socket.emit('publish', { room, event: 'said', data: { n: 2 } });
      assert.equal((await ask(own.socket, 'leave', { room })).success, true);
      assert.deepEqual(heard(own.events, ['said']), ['said 1', 'said 2']);
      assert.equal((await ask(other.socket, 'publish', { room, event: 'said', data: { n: 3 } })).success, true);
      await other.events.take('said', ({ n }) => n === 3);
      await ask(own.socket, 'echo', 1);
      assert.equal(own.events.seen('said').length, 2, 'nothing after the leave');
      close(own, other);
    }));

    test('relay: a publish with acks and the event after it arrive in order, at all members alike', { timeout: 120_000 }, () => rounds(async () => {
      const room = unique('room');
      const members = await Promise.all([0, 1, 2, 3].map((n) => relayMember(n, room)));
      const noise = members[1];
      const [own] = members;
      const all = [];
      for (let n = 0; n < 4; n += 1) {
        all.push(ask(own.socket, 'publish', { room, event: 'ask', data: { n }, ack: 3_000 }));
        own.socket.emit('publish', { room, event: 'said', data: { n } });
        noise.socket.emit('publish', { room, event: 'noise', data: { n } });
        if (n % 2 === 0) await pause();
      }
      for (const answer of await Promise.all(all)) assert.deepEqual([answer.receivers, answer.missing], [4, 0]);
      assert.equal((await ask(own.socket, 'publish', { room, event: 'end' })).success, true);
      await ask(noise.socket, 'publish', { room, event: 'end' });
      for (const { events } of members) await events.count('end', 2);
      const seen = members.map(({ events }) => heard(events, ['ask', 'said', 'noise']));
      assert.deepEqual(seen[0].filter((event) => !event.startsWith('noise')), [0, 1, 2, 3].flatMap((n) => [`ask ${n}`, `said ${n}`]));
      for (const other of seen) assert.deepEqual(other, seen[0], 'observers agree');
      close(...members);
    }));

    test('chat: a user who sends a message and leaves receives it, and the others receive it before "user_left"', { timeout: 120_000 }, () => rounds(async () => {
      const room = unique('room');
      const other = await chatMember(1, room);
      const own = await chatMember(0, room);
      await other.events.take('user_joined');
      own.socket.emit('send_message', { roomId: room, content: 'one' });
      own.socket.emit('send_message', { roomId: room, content: 'last' });
      assert.equal((await ask(own.socket, 'leave_room', room)).success, true);
      assert.deepEqual(heard(own.events, ['new_message']), ['new_message "one"', 'new_message "last"']);
      await eventually(() => other.events.seen('user_left').length === 1);
      assert.deepEqual(heard(other.events, ['new_message', 'user_left']), ['new_message "one"', 'new_message "last"', `user_left ${JSON.stringify(own.user)}`]);
      close(own, other);
    }));

    test('chat: typing events arrive between the messages where they were sent', { timeout: 120_000 }, () => rounds(async () => {
      const room = unique('room');
      const own = await chatMember(0, room);
      const others = await Promise.all([1, 2].map((n) => chatMember(n, room)));
      const said = [];
      for (let n = 0; n < 4; n += 1) {
        own.socket.emit('send_message', { roomId: room, content: `${n}` });
        own.socket.emit('typing_stop', room);
        said.push(`new_message "${n}"`, `user_stopped_typing ${JSON.stringify(own.user)}`);
        if (n % 2 === 0) await pause();
      }
      assert.equal((await ask(own.socket, 'send_message', { roomId: room, content: 'end' })).success, true);
      for (const { events } of others) {
        await events.take('new_message', ({ content }) => content === 'end');
        assert.deepEqual(heard(events, ['new_message', 'user_stopped_typing']), said);
      }
      close(own, ...others);
    }));
  });
}

describe('chat, while a backend moves members', () => {
  let cluster;
  let emitter;
  before(async () => {
    cluster = await startCluster(2);
    emitter = new Emitter(await cluster.redis.connect());
  });
  after(() => cluster?.stop());

  const connect = async (at) => {
    const user = unique('u');
    const socket = await cluster.nodes[at].clients.connect({ claims: { sub: user, email: `${user}@example.org` } });
    return { socket, user, events: record(socket) };
  };
  const join = async (member, room) => assert.equal((await ask(member.socket, 'join_room', room)).success, true);
  const send = async (member, room, content) => assert.equal((await ask(member.socket, 'send_message', { roomId: room, content })).success, true);
  const contents = (messages) => messages.map(({ content }) => content);

  test('the other members are notified', async () => {
    const room = unique('room');
    const [watcher, moved] = [await connect(0), await connect(1)];
    await join(watcher, room);
    for (let round = 0; round < 3; round += 1) {
      emitter.in(`user:${moved.user}`).socketsJoin(`room:${room}`);
      const came = await watcher.events.take('user_joined');
      assert.deepEqual([came.userId, came.email], [moved.user, `${moved.user}@example.org`]);
      emitter.in(`user:${moved.user}`).socketsLeave(`room:${room}`);
      assert.equal((await watcher.events.take('user_left')).userId, moved.user);
    }
    assert.deepEqual(moved.events.seen('user_joined'), []);
    assert.deepEqual(watcher.events.seen('user_joined'), []);
    assert.deepEqual(watcher.events.seen('user_left'), []);
  });

  test('the history is complete after the only member of a node was removed', { timeout: 60_000 }, async () => {
    for (let round = 0; round < 10; round += 1) {
      const room = unique('room');
      const [here, there] = [await connect(0), await connect(1)];
      await join(here, room);
      await join(there, room);
      await send(there, room, 'before');
      await here.events.take('new_message');
      emitter.in(`user:${here.user}`).socketsLeave(`room:${room}`);
      await there.events.take('user_left');
      for (const content of ['one', 'two']) await send(there, room, content);
      here.events.clear();
      await join(here, room);
      const { messages } = await here.events.take('room_history');
      assert.deepEqual(contents(messages), ['before', 'one', 'two'], `round ${round}`);
      await send(there, room, 'after');
      assert.equal((await here.events.take('new_message')).content, 'after');
      assert.deepEqual(here.events.seen('new_message'), []);
      here.socket.disconnect();
      there.socket.disconnect();
    }
  });

  test('members who stay receive each message once, while others are added and removed', { timeout: 60_000 }, async () => {
    const room = unique('room');
    const steady = [await connect(0), await connect(1)];
    for (const member of steady) await join(member, room);
    const total = 100;
    let isOver = false;
    const move = async () => {
      while (!isOver) {
        const guests = await Promise.all([0, 1].map(connect));
        for (const { user } of guests) emitter.in(`user:${user}`).socketsJoin(`room:${room}`);
        await pause();
        const [first, second] = guests;
        emitter.in(`user:${first.user}`).socketsLeave(`room:${room}`);
        second.socket.disconnect();
        await pause();
        first.socket.disconnect();
      }
    };
    const speak = async (member, name) => {
      for (let n = 0; n < total; n += 1) await send(member, room, `${name} ${n}`);
    };
    const moving = move();
    await Promise.all(steady.map((member, n) => speak(member, `m${n}`)));
    isOver = true;
    await moving;
    await send(steady[0], room, 'end');
    const seen = [];
    for (const { events } of steady) {
      await eventually(() => events.seen('new_message', ({ content }) => content === 'end').length > 0, { timeout: 20_000 });
      seen.push(contents(events.seen('new_message').map(([message]) => message)));
    }
    for (const messages of seen) {
      assert.equal(new Set(messages).size, messages.length, 'none twice');
      assert.equal(messages.length, 2 * total + 1, 'none lost');
    }
    assert.deepEqual(seen[0], seen[1]);
  });

  test('members added by backends receive each message once, in one order', async () => {
    const room = unique('room');
    const placed = [await connect(0), await connect(0)];
    const speaker = await connect(1);
    await join(speaker, room);
    emitter.in(placed.map(({ user }) => `user:${user}`)).socketsJoin(`room:${room}`);
    await speaker.events.count('user_joined', 2);
    for (let n = 0; n < 20; n += 1) await send(speaker, room, `${n}`);
    for (const { events } of placed) {
      const got = await events.count('new_message', 20);
      assert.deepEqual(contents(got), Array.from({ length: 20 }, (_, n) => `${n}`));
    }
    const late = once(placed[0].socket, 'room_history');
    await join(placed[0], room);
    assert.equal((await late)[0].messages.length, 20);
  });
});
