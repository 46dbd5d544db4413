// The chat app against its contract: one list of scenarios, run on SQLite over every transport and on PostgreSQL.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { TRANSPORTS, ask, keeper, unique } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { startPostgres } from './support/postgres.mjs';
import { delay, eventually, once, record } from './support/wait.mjs';

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const HOLDBACK = 600;
/** A hold-back for events that must come before it ends, even on a busy machine. */
const LONG_HOLDBACK = 5_000;

/**
 * Each scenario gets `member(user, options)`, which connects a user with a `socket` and recorded `events`, and a
 * fresh `room`.
 */
const SCENARIOS = {
  'a joining client gets the history and an ack, and the other members are notified': async ({ member, room }) => {
    const ann = await member('ann');
    assert.deepEqual(await ask(ann.socket, 'join_room', room), { success: true, roomId: room });
    assert.deepEqual(await ann.events.take('room_history'), { roomId: room, messages: [] });
    const bob = await member('bob', { email: 'bob@example.com' });
    await ask(bob.socket, 'join_room', room);
    const arrival = await ann.events.take('user_joined');
    assert.deepEqual(Object.keys(arrival).sort(), ['email', 'timestamp', 'userId']);
    assert.equal(arrival.userId, bob.user);
    assert.equal(arrival.email, 'bob@example.com');
    assert.match(arrival.timestamp, ISO);
    assert.ok(Math.abs(Date.parse(arrival.timestamp) - Date.now()) < 5_000);
    await said(ann, room, 'barrier', bob);
    assert.deepEqual(bob.events.seen('user_joined'), [], 'users are not notified of their own arrival');
  },

  'a message reaches everyone in the room, sender included, as in the ack': async ({ member, room }) => {
    const [ann, bob, outsider] = await Promise.all([member('ann', { name: 'Ann A', avatar: 'https://example.com/a.png' }), member('bob'), member('out')]);
    await joined(room, ann, bob);
    await joined(`${room}-other`, outsider);
    const answer = await ask(ann.socket, 'send_message', { roomId: room, content: 'hello' });
    assert.deepEqual(Object.keys(answer).sort(), ['message', 'success']);
    assert.equal(answer.success, true);
    const { message } = answer;
    assert.deepEqual({ ...message, id: '', createdAt: '' }, {
      id: '',
      content: 'hello',
      roomId: room,
      userId: ann.user,
      createdAt: '',
      user: { id: ann.user, name: 'Ann A', avatar: 'https://example.com/a.png' },
    });
    assert.match(message.id, UUID_V7);
    assert.match(message.createdAt, ISO);
    assert.deepEqual(await bob.events.take('new_message'), message);
    assert.deepEqual(await ann.events.take('new_message'), message);
    await said(outsider, `${room}-other`, 'barrier', outsider);
    assert.deepEqual(outsider.events.seen('new_message', ({ roomId }) => roomId === room), [], 'another room receives nothing');
  },

  'the sender comes from the token, whatever the payload claims': async ({ member, room }) => {
    const ann = await member('ann');
    await joined(room, ann);
    const { message } = await ask(ann.socket, 'send_message', { roomId: room, content: 'x', userId: 'mallory', user: { id: 'mallory' }, id: '1', createdAt: '1970-01-01T00:00:00.000Z' });
    assert.equal(message.userId, ann.user);
    assert.equal(message.user.id, ann.user);
    assert.notEqual(message.id, '1');
    assert.ok(Date.parse(message.createdAt) > Date.now() - 60_000);
  },

  'the history is the last 50, oldest first; older messages come in pages': async ({ member, room }) => {
    const ann = await member('ann');
    await joined(room, ann);
    const sent = [];
    for (let at = 0; at < 60; at += 1) sent.push(ask(ann.socket, 'send_message', { roomId: room, content: `m${at}` }));
    const stored = (await Promise.all(sent)).map(({ message }) => message);
    const bob = await member('bob');
    await ask(bob.socket, 'join_room', room);
    const { messages } = await bob.events.take('room_history');
    assert.deepEqual(messages.map(({ content }) => content), numbered(10, 60));
    const { userId, ...expected } = stored[10];
    assert.equal(userId, ann.user);
    for (const [key, value] of Object.entries(expected)) assert.deepEqual(messages[0][key], value, key);

    const page = await ask(bob.socket, 'room_history', { roomId: room, before: messages[0].id, limit: 4 });
    assert.deepEqual(Object.keys(page).sort(), ['messages', 'roomId', 'success']);
    assert.equal(page.success, true);
    assert.equal(page.roomId, room);
    assert.deepEqual(page.messages.map(({ content }) => content), numbered(6, 10));
    const event = await bob.events.take('room_history');
    assert.deepEqual(event, { roomId: room, messages: page.messages }, 'the event equals the ack');

    const rest = await ask(bob.socket, 'room_history', { roomId: room, before: page.messages[0].id });
    assert.deepEqual(rest.messages.map(({ content }) => content), numbered(0, 6));
    const none = await ask(bob.socket, 'room_history', { roomId: room, before: rest.messages[0].id });
    assert.deepEqual(none.messages, []);
    const last = await ask(bob.socket, 'room_history', { roomId: room, limit: 3 });
    assert.deepEqual(last.messages.map(({ content }) => content), numbered(57, 60));

    bob.events.clear();
    bob.socket.emit('room_history', { roomId: room, limit: 1 });
    const unasked = await bob.events.take('room_history');
    assert.deepEqual(unasked.messages.map(({ content }) => content), ['m59'], 'without an ack, only the event');
  },

  'a page before an unknown message is refused': async ({ member, room }) => {
    const ann = await member('ann');
    await joined(room, ann);
    for (const before of ['nobody', '', 'a\u0000b']) {
      assert.deepEqual(await ask(ann.socket, 'room_history', { roomId: room, before }), { success: false, error: 'Message not found' });
    }
  },

  'a user with two sockets joins once and leaves once': async ({ member, room }) => {
    const watcher = await member('watcher');
    await joined(room, watcher);
    const first = await member('twin');
    const second = await member('twin', { user: first.user });
    await joined(room, first, second);
    await said(first, room, 'both in', watcher);
    assert.equal(watcher.events.seen('user_joined').length, 1);
    assert.equal((await ask(first.socket, 'leave_room', room)).success, true);
    await said(second, room, 'one out', watcher);
    assert.deepEqual(watcher.events.seen('user_left'), []);
    await ask(second.socket, 'leave_room', room);
    const departure = await watcher.events.take('user_left');
    assert.deepEqual(Object.keys(departure).sort(), ['email', 'timestamp', 'userId']);
    assert.equal(departure.userId, first.user);
    await said(watcher, room, 'barrier', watcher);
    assert.deepEqual(watcher.events.seen('user_left'), []);
  },

  'joining twice is joining once': async ({ member, room }) => {
    const [watcher, ann] = await Promise.all([member('watcher'), member('ann')]);
    await joined(room, watcher);
    await joined(room, ann);
    assert.deepEqual(await ask(ann.socket, 'join_room', room), { success: true, roomId: room });
    await ann.events.count('room_history', 1);
    await said(ann, room, 'x', watcher);
    assert.equal(watcher.events.seen('user_joined').length, 1);
    await ann.events.take('new_message');
    await said(watcher, room, 'y', ann);
    assert.equal(ann.events.seen('new_message').length, 0, 'each message comes once');
  },

  'leave_room is announced at once and ends the messages; leaving twice is harmless': async ({ member, room }) => {
    const [ann, bob] = await Promise.all([member('ann'), member('bob')]);
    await joined(room, ann, bob);
    const start = performance.now();
    assert.equal((await ask(bob.socket, 'leave_room', room)).success, true);
    await ann.events.take('user_left', ({ userId }) => userId === bob.user);
    assert.ok(performance.now() - start < LONG_HOLDBACK, 'no hold-back');
    assert.equal((await ask(bob.socket, 'leave_room', room)).success, true);
    assert.equal((await ask(bob.socket, 'leave_room', `${room}-never`)).success, true);
    await said(ann, room, 'after', ann);
    assert.deepEqual(ann.events.seen('user_left'), []);
    await joined(`${room}-b`, bob);
    await said(bob, `${room}-b`, 'barrier', bob);
    assert.deepEqual(bob.events.seen('new_message'), []);
    const refused = await ask(bob.socket, 'send_message', { roomId: room, content: 'x' });
    assert.deepEqual(refused, { success: false, error: 'You must join the room first' });
  },

  'a lost connection is announced after the hold-back': async ({ member, room }) => {
    const [watcher, ann] = await Promise.all([member('watcher'), member('ann', { email: 'ann@example.com' })]);
    await joined(room, watcher, ann);
    const start = performance.now();
    ann.socket.io.engine.close();
    const departure = await watcher.events.take('user_left', () => true, { timeout: 15_000 });
    const took = performance.now() - start;
    assert.equal(departure.userId, ann.user);
    assert.equal(departure.email, 'ann@example.com');
    assert.match(departure.timestamp, ISO);
    assert.ok(took > HOLDBACK - 50, `after ${took} ms`);
  },

  'a disconnect is announced, too': async ({ member, room }) => {
    const [watcher, ann] = await Promise.all([member('watcher'), member('ann')]);
    await joined(room, watcher, ann);
    ann.socket.disconnect();
    assert.equal((await watcher.events.take('user_left')).userId, ann.user);
  },

  'a user who reconnects within the hold-back never leaves': async ({ member, room }) => {
    const [watcher, ann] = await Promise.all([member('watcher'), member('ann')]);
    await joined(room, watcher, ann);
    await watcher.events.take('user_joined', ({ userId }) => userId === ann.user);
    ann.socket.io.engine.close();
    const back = await member('ann', { user: ann.user });
    await joined(room, back);
    await delay(LONG_HOLDBACK + 1_000);
    await said(back, room, 'still here', watcher);
    assert.deepEqual(watcher.events.seen('user_left'), []);
    assert.deepEqual(watcher.events.seen('user_joined'), []);
    await ask(back.socket, 'leave_room', room);
    assert.equal((await watcher.events.take('user_left')).userId, ann.user, 'and finally leaves once');
  },

  'losing one of two sockets is not leaving': async ({ member, room }) => {
    const watcher = await member('watcher');
    const first = await member('twin');
    const second = await member('twin', { user: first.user });
    await joined(room, watcher, first, second);
    first.socket.io.engine.close();
    await delay(HOLDBACK * 2);
    await said(second, room, 'still here', watcher);
    assert.deepEqual(watcher.events.seen('user_left'), []);
  },

  'typing goes only to the other members of the room': async ({ member, room }) => {
    const [ann, bob, outsider] = await Promise.all([member('ann', { email: 'ann@example.com' }), member('bob'), member('out')]);
    await joined(room, ann, bob);
    await joined(`${room}-b`, outsider);
    ann.socket.emit('typing_start', room);
    assert.deepEqual(await bob.events.take('user_typing'), { userId: ann.user, email: 'ann@example.com' });
    ann.socket.emit('typing_stop', room);
    assert.deepEqual(await bob.events.take('user_stopped_typing'), { userId: ann.user });
    assert.equal((await ask(ann.socket, 'typing_start', room)).success, true);
    assert.equal((await ask(ann.socket, 'typing_stop', room)).success, true);
    await said(bob, room, 'barrier', ann);
    for (const event of ['user_typing', 'user_stopped_typing']) {
      assert.deepEqual(ann.events.seen(event), [], 'not to the typing user');
      assert.deepEqual(outsider.events.seen(event), [], 'not to another room');
    }
  },

  'typing from outside the room reaches no client': async ({ member, room }) => {
    const [ann, outsider] = await Promise.all([member('ann'), member('out')]);
    await joined(room, ann);
    for (const event of ['typing_start', 'typing_stop']) {
      const answer = await ask(outsider.socket, event, room);
      assert.deepEqual(answer, { success: false, error: 'You must join the room first' });
    }
    await said(ann, room, 'barrier', ann);
    assert.deepEqual(ann.events.seen('user_typing'), []);
    assert.deepEqual(ann.events.seen('user_stopped_typing'), []);
  },

  'refusals have their documented texts, in the ack or else as an error event': async ({ member, room }) => {
    const ann = await member('ann');
    await joined(room, ann);
    const cases = [
      [{ roomId: room, content: '' }, 'Message cannot be empty'],
      [{ roomId: room, content: ' \t\r\n\u00a0\u2003' }, 'Message cannot be empty'],
      [{ roomId: room, content: 'x'.repeat(1_001) }, 'Message too long (max 1000 characters)'],
      [{ roomId: `${room}-b`, content: 'x' }, 'You must join the room first'],
    ];
    for (const [payload, error] of cases) {
      assert.deepEqual(await ask(ann.socket, 'send_message', payload), { success: false, error });
      assert.deepEqual(ann.events.seen('error'), [], 'only in the ack');
      ann.socket.emit('send_message', payload);
      assert.deepEqual(await ann.events.take('error'), { message: error });
    }
    await said(ann, room, 'barrier', ann);
    assert.deepEqual(ann.events.seen('new_message'), [], 'no invalid message was broadcast');
    assert.deepEqual((await ask(ann.socket, 'room_history', { roomId: room })).messages.map(({ content }) => content), ['barrier']);
  },

  'a message is trimmed, in the broadcast and in the history': async ({ member, room }) => {
    const ann = await member('ann');
    await joined(room, ann);
    const { message } = await ask(ann.socket, 'send_message', { roomId: room, content: ' \t\n two  words \r\n\u00a0' });
    assert.equal(message.content, 'two  words');
    assert.equal((await ann.events.take('new_message')).content, 'two  words');
    assert.equal((await ask(ann.socket, 'room_history', { roomId: room })).messages[0].content, 'two  words');
  },

  'a thousand characters are Unicode scalar values, counted after trimming': async ({ member, room }) => {
    const ann = await member('ann');
    await joined(room, ann);
    for (const [character, about] of [['x', 'one byte'], ['é', 'two'], ['漢', 'three'], ['😀', 'four bytes, two code units']]) {
      const longest = character.repeat(1_000);
      const { success, message } = await ask(ann.socket, 'send_message', { roomId: room, content: `  ${longest}\n` });
      assert.equal(success, true, about);
      assert.equal(message.content, longest);
      const refused = await ask(ann.socket, 'send_message', { roomId: room, content: `${longest}${character}` });
      assert.deepEqual(refused, { success: false, error: 'Message too long (max 1000 characters)' }, about);
    }
  },

  'a message is plain text': async ({ member, room }) => {
    const ann = await member('ann');
    await joined(room, ann);
    const texts = ["'; DROP TABLE messages; --", '<script>alert(1)</script>', '\u202egnp.exe', '{"a":1}', '%s %n \\', '$1', '👩‍👩‍👧‍👦', 'a\u2028b', 'line\nline'];
    for (const content of texts) {
      const { success, message } = await ask(ann.socket, 'send_message', { roomId: room, content });
      assert.equal(success, true, content);
      assert.equal(message.content, content);
    }
    const { messages } = await ask(ann.socket, 'room_history', { roomId: room });
    assert.deepEqual(messages.map(({ content }) => content), texts);
    const refused = await ask(ann.socket, 'send_message', { roomId: room, content: 'a\u0000b' });
    assert.equal(refused.success, false, 'NUL, which no database stores');
    publicText(refused.error);
  },

  'payloads of the wrong shape are refused and the connection stays open': async ({ member, room }) => {
    const ann = await member('ann');
    await joined(room, ann);
    for (const payload of [undefined, null, 7, 'text', [], {}, { roomId: room }, { content: 'x' }, { roomId: room, content: 7 }, { roomId: room, content: null }, { roomId: room, content: ['x'] }, { roomId: [room], content: 'x' }, Buffer.from('x')]) {
      const answer = payload === undefined ? await ask(ann.socket, 'send_message') : await ask(ann.socket, 'send_message', payload);
      assert.equal(answer.success, false, JSON.stringify(payload));
      publicText(answer.error);
    }
    await said(ann, room, 'still here', ann);
  },

  'room ids are 1 to 128 characters of any script': async ({ member }) => {
    const ann = await member('ann');
    const longest = unique('r').padEnd(128, 'x');
    for (const good of ['a', 'A-Z_0.9:z', '..', 'General Chat', 'team/42', 'é', '{a}', '*', '\u{1f600}', longest]) {
      assert.deepEqual(await ask(ann.socket, 'join_room', good), { success: true, roomId: good });
      await ask(ann.socket, 'leave_room', good);
    }
    for (const bad of ['', ' ', `${longest}x`, 'a\n', 'a\u0000', '\u200b', '\u3164', 7, null, true, {}, ['a']]) {
      for (const event of ['join_room', 'leave_room', 'typing_start', 'typing_stop']) {
        assert.deepEqual(await ask(ann.socket, event, bad), { success: false, error: 'Invalid room id' }, `${event} ${JSON.stringify(bad)}`);
      }
      for (const event of ['send_message', 'room_history']) {
        const answer = await ask(ann.socket, event, { roomId: bad, content: 'x' });
        assert.equal(answer.success, false, `${event} ${JSON.stringify(bad)}`);
        if (typeof bad === 'string') assert.equal(answer.error, 'Invalid room id', `${event} ${JSON.stringify(bad)}`);
      }
    }
    ann.socket.emit('join_room', 'a\nb');
    assert.deepEqual(await ann.events.take('error'), { message: 'Invalid room id' });
  },

  'an unknown event is refused': async ({ member, room }) => {
    const ann = await member('ann');
    assert.deepEqual(await ask(ann.socket, 'no_such_event', 1), { success: false, error: 'Unknown event' });
    ann.socket.emit('no_such_event');
    assert.deepEqual(await ann.events.take('error'), { message: 'Unknown event' });
    await joined(room, ann);
    for (const event of ['new_message', 'error', 'user_joined']) {
      assert.deepEqual(await ask(ann.socket, event, { roomId: room }), { success: false, error: 'Unknown event' });
    }
  },

  '32 messages in flight arrive in order at 20 members, and the history shows the same order': async ({ member, room }) => {
    const members = await Promise.all(Array.from({ length: 20 }, (_, at) => member(`m${at}`)));
    await joined(room, ...members);
    const contents = Array.from({ length: 32 }, (_, at) => `n${at}`);
    const acks = Promise.all(contents.map((content) => ask(members[0].socket, 'send_message', { roomId: room, content })));
    for (const { events } of members) {
      const received = await events.count('new_message', contents.length);
      assert.deepEqual(received.map(({ content }) => content), contents);
    }
    const ids = (await acks).map(({ message }) => message.id);
    const { messages } = await ask(members[7].socket, 'room_history', { roomId: room });
    assert.deepEqual(messages.map(({ id }) => id), ids);
    const times = messages.map(({ createdAt }) => createdAt);
    assert.deepEqual(times, [...times].sort(), 'their times do not decrease');
  },

  'five publishers at once: all members and the history see one order, each publisher its own': async ({ member, room }) => {
    const members = await Promise.all(Array.from({ length: 8 }, (_, at) => member(`p${at}`)));
    await joined(room, ...members);
    for (let round = 0; round < 8; round += 1) {
      for (const { socket } of members.slice(0, 5)) socket.emit('send_message', { roomId: room, content: `${round}` });
    }
    const orders = [];
    for (const { events } of members) orders.push((await events.count('new_message', 40)).map(({ id }) => id));
    for (const order of orders) assert.deepEqual(order, orders[0]);
    const { messages } = await ask(members[7].socket, 'room_history', { roomId: room });
    assert.deepEqual(messages.map(({ id }) => id), orders[0]);
    for (const { user } of members.slice(0, 5)) {
      assert.deepEqual(messages.filter((message) => message.user.id === user).map(({ content }) => content), numbered(0, 8, ''));
    }
  },

  'a message sent after joining is in the history or comes live, never both, and is never lost': async ({ member, room }) => {
    const ann = await member('ann');
    await joined(room, ann);
    const late = await member('late');
    let sent = 0;
    const acks = [];
    const send = () => {
      acks.push(ask(ann.socket, 'send_message', { roomId: room, content: `m${sent}` }));
      sent += 1;
    };
    for (let at = 0; at < 15; at += 1) send();
    const joining = ask(late.socket, 'join_room', room);
    for (let at = 0; at < 15; at += 1) send();
    await joining;
    await Promise.all(acks);
    const { messages } = await late.events.take('room_history');
    await said(ann, room, 'barrier', late);
    const live = late.events.seen('new_message').map(([{ content }]) => content);
    const all = [...messages.map(({ content }) => content), ...live];
    assert.deepEqual([...new Set(all)].sort(byNumber), numbered(0, 30), 'none is missing');
    assert.equal(all.length, 30, `none comes twice: ${all}`);
  },

  'the internal API counts the sockets and the users of a chat room': async ({ member, room, gateway }) => {
    const first = await member('twin');
    const second = await member('twin', { user: first.user });
    const other = await member('other');
    await joined(room, first, second, other);
    const question = async (what) => {
      const response = await fetch(`${gateway.internalUrl}/internal/rooms/room:${room}/${what}?namespace=/`, { headers: { 'X-Internal-Request': 'true' } });
      assert.equal(response.status, 200);
      return response.json();
    };
    const { success, data } = await question('count');
    assert.equal(success, true);
    assert.deepEqual({ room: data.room, namespace: data.namespace, count: data.count, users: data.users }, { room: `room:${room}`, namespace: '/', count: 3, users: 2 });
    const { data: active } = await question('active');
    assert.equal(active.count, 3);
    assert.equal(active.users, 2);
    assert.deepEqual(active.members.map(({ socketId }) => socketId).sort(), [first, second, other].map(({ socket }) => socket.id).sort());
    assert.deepEqual(Object.keys(active.members[0]).sort(), ['connectedAt', 'displayName', 'socketId', 'userId']);
    other.socket.disconnect();
    await eventually(async () => (await question('count')).data.count === 2, { what: 'the count without the user who left' });
    await Promise.all([first, second].map(({ socket }) => ask(socket, 'leave_room', room)));
    const empty = await question('count');
    assert.deepEqual({ count: empty.data.count, users: empty.data.users }, { count: 0, users: 0 });
  },
};

/** Joins all `members` one after the other, and waits for their histories. */
async function joined(room, ...members) {
  for (const { socket, events } of members) {
    const answer = await ask(socket, 'join_room', room);
    assert.equal(answer.success, true, JSON.stringify(answer));
    await events.take('room_history', ({ roomId }) => roomId === room);
  }
}

/** `from` sends `content` to the room, and `to` receives it, so everything sent before has arrived. */
async function said(from, room, content, to) {
  const answer = await ask(from.socket, 'send_message', { roomId: room, content });
  assert.equal(answer.success, true, JSON.stringify(answer));
  await to.events.take('new_message', ({ id }) => id === answer.message.id);
}

/** Requires an error text that clients may read: a sentence without internals. */
function publicText(text) {
  assert.equal(typeof text, 'string');
  assert.doesNotMatch(text, /sql|postgres|sqlite|redis|panick|serde|tokio|\/src\/|\/tmp\/|line \d+ column|127\.0\.0\.1/i);
}

function numbered(from, to, prefix = 'm') {
  return Array.from({ length: to - from }, (_, at) => `${prefix}${from + at}`);
}

function byNumber(a, b) {
  return Number(a.slice(1)) - Number(b.slice(1));
}

/** The scenarios that need a long hold-back. */
const PATIENT = new Set([
  'leave_room is announced at once and ends the messages; leaving twice is harmless',
  'a user who reconnects within the hold-back never leaves',
]);

/** Starts a gateway with a short hold-back and a `patient` one with a long hold-back. */
async function startBoth(env = {}) {
  const [gateway, patient] = await Promise.all([HOLDBACK, LONG_HOLDBACK].map((holdback) => startGateway({ env: { ...env, LEAVE_HOLDBACK: `${holdback}ms` } })));
  return { gateway, patient };
}

/** Defines all scenarios for a context's gateways and one transport. */
function scenarios(context, transport) {
  for (const [name, run] of Object.entries(SCENARIOS)) {
    test(name, { timeout: 30_000 }, async () => {
      const gateway = PATIENT.has(name) ? context.patient : context.gateway;
      const clients = keeper(gateway);
      const member = async (name, { user = unique(name), ...claims } = {}) => {
        const socket = clients.socket({ transport, claims: { sub: user, name, email: `${name}@example.com`, ...claims } });
        const events = record(socket);
        await clients.connected(socket, { transport });
        return { socket, events, user };
      };
      try {
        await run({ member, room: unique('room'), gateway });
      } finally {
        clients.closeAll();
      }
    });
  }
}

for (const transport of TRANSPORTS) {
  describe(`chat on SQLite over ${transport.name}`, { concurrency: 4 }, () => {
    const context = {};
    before(async () => { Object.assign(context, await startBoth()); });
    after(() => Promise.all([context.gateway?.kill(), context.patient?.kill()]));
    scenarios(context, transport);
  });
}

describe('chat on PostgreSQL', () => {
  const context = {};
  before(async () => {
    context.postgres = await startPostgres();
    Object.assign(context, await startBoth({ DATABASE_URL: context.postgres.url }));
  });
  after(async () => {
    await Promise.all([context.gateway?.kill(), context.patient?.kill()]);
    await context.postgres?.kill();
  });
  for (const transport of TRANSPORTS) {
    describe(`over ${transport.name}`, { concurrency: 4 }, () => scenarios(context, transport));
  }
});

describe('chat without its database', () => {
  test('a message that cannot be stored is an error and is not broadcast; it works again when the database is back', { timeout: 90_000 }, async () => {
    const postgres = await startPostgres();
    const gateway = await startGateway({ env: { DATABASE_URL: postgres.url } });
    const clients = keeper(gateway);
    const room = unique('room');
    try {
      const open = async (sub) => {
        const socket = await clients.connect({ claims: { sub } });
        const events = record(socket);
        await joined(room, { socket, events });
        return { socket, events };
      };
      const [ann, bob] = [await open('ann'), await open('bob')];
      await said(ann, room, 'before', bob);
      await ann.events.take('new_message');
      ann.events.clear();
      await postgres.kill();

      const start = performance.now();
      const inFlight = [ann, bob].flatMap(({ socket }) => Array.from({ length: 5 }, (_, at) => socket.timeout(60_000).emitWithAck('send_message', { roomId: room, content: `lost ${at}` })
        .then((answer) => ({ ...answer, took: performance.now() - start }))));
      const answers = await Promise.all(inFlight);
      for (const { success, error } of answers) {
        assert.equal(success, false);
        publicText(error);
      }
      const took = answers.map((answer) => Math.round(answer.took));
      assert.ok(Math.min(...took) < 3_000, `the first refusal took ${took} ms`);
      assert.ok(Math.max(...took) < 6_000, `ten in flight were refused after ${took} ms: they waited for each other`);
      ann.socket.emit('send_message', { roomId: room, content: 'lost, too' });
      const { message } = await ann.events.take('error');
      publicText(message);
      const history = await ask(ann.socket, 'room_history', { roomId: room });
      assert.equal(history.success, false);
      publicText(history.error);

      ann.socket.emit('typing_start', room);
      await bob.events.take('user_typing');
      assert.deepEqual(bob.events.seen('new_message'), [], 'a message that is not stored is not broadcast');
      assert.deepEqual(ann.events.seen('new_message'), []);
      assert.equal((await fetch(`${gateway.url}/live`)).status, 200);

      await postgres.restart();
      await eventually(async () => (await ask(ann.socket, 'send_message', { roomId: room, content: 'after' })).success, { timeout: 15_000, what: 'a message is stored again' });
      const received = await bob.events.take('new_message');
      assert.equal(received.content, 'after');
      const { messages } = await ask(bob.socket, 'room_history', { roomId: room });
      assert.deepEqual(messages.map(({ content }) => content), ['before', 'after']);
    } finally {
      clients.closeAll();
      await gateway.kill();
      await postgres.kill();
    }
  });

  for (const transport of TRANSPORTS) {
    test(`a hanging database stops neither heartbeats nor typing, over ${transport.name}`, { timeout: 60_000 }, async () => {
      const postgres = await startPostgres();
      const gateway = await startGateway({ env: { DATABASE_URL: postgres.url, PING_INTERVAL: '1s', PING_TIMEOUT: '3s' } });
      const clients = keeper(gateway);
      const room = unique('room');
      try {
        const open = async (sub) => {
          const socket = await clients.connect({ transport, claims: { sub } });
          const events = record(socket);
          await joined(room, { socket, events });
          let lost;
          socket.on('disconnect', (reason) => { lost = reason; });
          return { socket, events, lost: () => lost };
        };
        const [ann, bob] = [await open('ann'), await open('bob')];
        await said(ann, room, 'before', bob);
        postgres.freeze();
        const frozen = performance.now();
        // Longer than one complete heartbeat round.
        for (let round = 0; performance.now() - frozen < 6_000; round += 1) {
          const pinged = once(ann.socket.io, 'ping', { timeout: 15_000 });
          pinged.catch(() => {});
          const answers = Promise.all(Array.from({ length: 3 }, (_, at) => ann.socket.timeout(30_000).emitWithAck('send_message', { roomId: room, content: `m${round}.${at}` })));
          answers.catch(() => {});
          // Typing is volatile, and dropped for a polling client when it meets a ping between two GETs. So keep
          // typing.
          const typing = setInterval(() => bob.socket.emit('typing_start', room), 200);
          await ann.events.take('user_typing', () => true, { timeout: 4_000 }).finally(() => clearInterval(typing));
          const refused = await answers.catch((error) => assert.fail(`${error.message}; ann: ${ann.lost()}`));
          for (const { success, error } of refused) {
            assert.equal(success, false);
            publicText(error);
          }
          await pinged;
        }
        assert.equal(ann.lost(), undefined, 'the sender');
        assert.equal(bob.lost(), undefined, 'the other member');
        postgres.thaw();
        await eventually(async () => (await ask(bob.socket, 'send_message', { roomId: room, content: 'after' })).success, { timeout: 15_000, what: 'a message is stored again' });
        await ann.events.take('new_message', ({ content }) => content === 'after');
      } finally {
        clients.closeAll();
        await gateway.kill();
        await postgres.kill();
      }
    });
  }
});
