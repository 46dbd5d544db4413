// Bad room names, events and payloads in the chat and on the relay, and attempts to do what a token does
// not allow: rows B65 to B71, and B91 to B93 as far as rooms have them.

import assert from 'node:assert/strict';
import { describe } from 'node:test';

import { EVERYTHING, ask, engine, fresh, growsAtMost, joined, meter, refusal, row, rows, stock, underAttack } from './support/hostile.mjs';
import { request } from './support/raw.mjs';
import { once, preview, record } from './support/wait.mjs';

const site = underAttack();
const unlimited = underAttack({ env: { EVENTS_PER_SECOND: '0', ROOMS_PER_SOCKET: '0' } });

const NOT_ALLOWED = { success: false, error: 'Not allowed' };
const INVALID_ROOM = { success: false, error: 'Invalid room' };
const INVALID_EVENT = { success: false, error: 'Invalid event' };

/** Room names that no contract name can be. */
const BAD_NAMES = ['', ' ', '\u200b', '\u202e', 'a\r\nb', 'a\0b', 'a\u0085b', 'n'.repeat(129), '\u{1f600}'.repeat(129), 'n'.repeat(100_000)];
/** What is not even a string. */
const NO_NAMES = [null, 5, true, [], ['a'], {}, { room: 'a' }];
/** Odd but allowed: opaque to us, harmless to those who know no better. */
const ODD_NAMES = [
  'a', '.', '..', ':', '-', '_', '__proto__', 'constructor', '__internal', 'null', '0', 'n'.repeat(128), '\u{1f600}'.repeat(128),
  'a b', '*', 'a*', 'a}{b', '{a}', 'a/b', '../a', 'a?b', 'a#b', '#', 'a,b', "a'b", 'a"b', '<a>', 'é', '\u202eabc', 'a%2Fb', '100%', 'room:a', 'x}:n',
];

const show = (name) => JSON.stringify(name).slice(0, 40);
const members = async (gateway, room, namespace) => {
  const answer = await request(gateway.internalPort, 'GET', `/internal/rooms/${encodeURIComponent(room)}/count?namespace=${namespace}`, {
    headers: { 'X-Internal-Request': 'true' },
  });
  assert.equal(answer.status, 200, answer.body);
  return JSON.parse(answer.body).data;
};

describe('a room of the relay', () => {
  rows(
    site,
    [...BAD_NAMES, ...NO_NAMES, undefined].map((name) => ({
      name: `B66 named ${show(name ?? 'nothing')} (${typeof name}) is bad input for every event`,
      room: name,
    })),
    async (gateway, { room }, t) => {
      const ws = await joined(t, gateway);
      for (const event of ['join', 'leave', 'members']) assert.deepEqual(await ask(ws, event, { room }), INVALID_ROOM, event);
      const published = await ask(ws, 'publish', { room, event: 'e', data: 1 });
      if (typeof room === 'string') assert.deepEqual(published, INVALID_ROOM);
      else refusal(published);
    },
  );

  rows(
    site,
    ODD_NAMES.map((room) => ({ name: `B66 named ${show(room)} is a room like any other`, room })),
    async (gateway, { room }, t) => {
      const ws = await joined(t, gateway);
      assert.deepEqual(await ask(ws, 'join', { room }), { success: true, room });
      ws.send(`42/relay,["publish",${JSON.stringify({ room, event: 'e', data: room })}]`);
      assert.equal(await ws.nextText(), `42/relay,["e",${JSON.stringify(room)}]`);
      assert.equal((await members(gateway, room, '/relay')).count, 1);
      assert.deepEqual(await ask(ws, 'leave', { room }), { success: true, room });
      assert.equal((await members(gateway, room, '/relay')).count, 0);
    },
  );

  rows(
    site,
    [undefined, null, 5, 'room', [], true].map((data) => ({
      name: `B66 asked for with ${JSON.stringify(data) ?? 'nothing'} instead of an object is bad input`,
      data,
    })),
    async (gateway, { data }, t) => {
      const socket = await stock(t, gateway, '/relay', EVERYTHING);
      for (const event of ['join', 'leave', 'members', 'publish']) {
        const answer = await (data === undefined ? socket.emitWithAck(event) : socket.emitWithAck(event, data));
        refusal(answer);
      }
      const told = once(socket, 'error');
      socket.emit('join', data);
      assert.deepEqual(await told, [{ message: 'Invalid room' }]);
    },
  );

  rows(
    site,
    ['', 'a b', 'e'.repeat(129), 'a\nb', '\u{1f600}', 'connect', 'connect_error', 'disconnect', 'disconnecting', 'newListener', 'removeListener'].map(
      (event) => ({ name: `B61 B68 an event published as ${show(event)} is refused`, event }),
    ),
    async (gateway, { event }, t) => {
      const room = fresh('room');
      const [sender, listener] = [await joined(t, gateway), await joined(t, gateway)];
      await ask(listener, 'join', { room });
      assert.deepEqual(await ask(sender, 'publish', { room, event, data: 1 }), INVALID_EVENT);
      await ask(sender, 'publish', { room, event: 'after', data: 2 });
      assert.equal(await listener.nextText(), '42/relay,["after",2]');
    },
  );

  row(site, 'B61 an event name of 128 characters is published', async (gateway, t) => {
    const room = fresh('room');
    const ws = await joined(t, gateway);
    await ask(ws, 'join', { room });
    const event = 'e'.repeat(128);
    ws.send(`42/relay,["publish",${JSON.stringify({ room, event, data: 1 })}]`);
    assert.equal(await ws.nextText(), `42/relay,["${event}",1]`);
  });

  const claims = [
    ['no claims at all', { rooms: undefined, publish: undefined }],
    ['empty claims', { rooms: [], publish: [] }],
    ['an empty prefix', { rooms: [''], publish: [''] }],
    ['the names of others', { rooms: ['secre', 'secret2', 'SECRET', 'a-*'], publish: ['secre', 'secret2', 'SECRET', 'a-*'] }],
    ['a star inside a name', { rooms: ['s*t', '*ecret', '**t'], publish: ['s*t', '*ecret', '**t'] }],
    ['a pattern of another language', { rooms: ['s.*', '.*', 'secre?', '[s]*', 's%'], publish: ['.*', '.+'] }],
  ];
  rows(
    site,
    claims.map(([what, given]) => ({ name: `B65 is closed to a token with ${what}`, given })),
    async (gateway, { given }, t) => {
      const insider = await joined(t, gateway);
      await ask(insider, 'join', { room: 'secret' });
      const outsider = await joined(t, gateway, { claims: given });
      assert.deepEqual(await ask(outsider, 'join', { room: 'secret' }), NOT_ALLOWED);
      assert.deepEqual(await ask(outsider, 'members', { room: 'secret' }), NOT_ALLOWED);
      assert.deepEqual(await ask(outsider, 'publish', { room: 'secret', event: 'e', data: 1 }), NOT_ALLOWED);
      await ask(insider, 'publish', { room: 'secret', event: 'own', data: 2 });
      assert.equal(await insider.nextText(), '42/relay,["own",2]', 'the outsider was heard');
    },
  );

  const malformed = [
    ['objects', { rooms: { '*': true }, publish: { '*': true } }],
    ['bare strings', { rooms: '*', publish: '*' }],
    ['lists of other things', { rooms: [null, 5, ['*'], { a: '*' }], publish: [true] }],
  ];
  rows(
    site,
    malformed.map(([what, given]) => ({ name: `B65 is not opened by claims that are ${what}`, given })),
    async (gateway, { given }, t) => {
      const ws = await engine(t, gateway);
      ws.send(`40/relay,${JSON.stringify({ token: gateway.token(given) })}`);
      const answer = await ws.nextText();
      if (answer.startsWith('44')) {
        assert.equal(JSON.parse(answer.slice('44/relay,'.length)).message, 'Invalid token');
        return;
      }
      ws.prefix = '/relay,';
      for (const event of ['join', 'publish', 'members'])
        assert.deepEqual(await ask(ws, event, { room: 'secret', event: 'e', data: 1 }), NOT_ALLOWED);
    },
  );

  row(site, 'B65 is open to a name, a prefix and the star, and to nothing beside them', async (gateway, t) => {
    const ws = await joined(t, gateway, { claims: { rooms: ['one', 'team-*'], publish: ['two'] } });
    for (const room of ['one', 'team-', 'team-a']) assert.deepEqual(await ask(ws, 'join', { room }), { success: true, room });
    for (const room of ['on', 'onee', 'team', 'two']) assert.deepEqual(await ask(ws, 'join', { room }), NOT_ALLOWED);
    assert.deepEqual(await ask(ws, 'publish', { room: 'two', event: 'e', data: 1 }), { success: true });
    for (const room of ['one', 'team-a', 'two2']) assert.deepEqual(await ask(ws, 'publish', { room, event: 'e', data: 1 }), NOT_ALLOWED);
  });

  row(unlimited, 'B65 that exists is refused like one that does not, in words and in time', async (gateway, t) => {
    const insider = await joined(t, gateway);
    for (let at = 0; at < 50; at += 1) await ask(insider, 'join', { room: `there-${at}` });
    const outsider = await joined(t, gateway, { claims: { rooms: ['mine'] } });
    const times = { there: [], nowhere: [] };
    for (let at = 0; at < 400; at += 1) {
      for (const kind of Object.keys(times)) {
        const begun = performance.now();
        assert.deepEqual(await ask(outsider, 'join', { room: `${kind}-${at % 50}` }), NOT_ALLOWED);
        times[kind].push(performance.now() - begun);
      }
    }
    const median = (list) => list.sort((a, b) => a - b)[list.length >> 1];
    const [there, nowhere] = [median(times.there), median(times.nowhere)];
    assert.ok(Math.max(there, nowhere) <= 2 * Math.min(there, nowhere), `${there} ms against ${nowhere} ms`);
  });

  row(
    unlimited,
    'B65 B67 rooms asked for in thousands leave nothing behind',
    (gateway, t) =>
      growsAtMost(gateway.pid, 24 << 20, async () => {
        const outsider = await joined(t, gateway, { claims: { rooms: [] } });
        for (let round = 0; round < 100; round += 1) {
          for (let at = 0; at < 100; at += 1) outsider.send(`42/relay,["join",{"room":"r${round}-${at}"}]`);
          for (let at = 0; at < 100; at += 1) assert.equal(await outsider.nextText(), '42/relay,["error",{"message":"Not allowed"}]');
        }
        const ws = await joined(t, gateway);
        for (let at = 0; at < 3_000; at += 1) {
          const room = fresh('short');
          await ask(ws, 'join', { room });
          await ask(ws, 'leave', { room });
        }
      }),
    { timeout: 60_000 },
  );

  row(site, 'B71 is left without having been joined, and left twice, and counts no less for it', async (gateway, t) => {
    const room = fresh('room');
    const [stays, leaves] = [await joined(t, gateway), await joined(t, gateway)];
    await ask(stays, 'join', { room });
    assert.deepEqual(await ask(leaves, 'leave', { room }), { success: true, room });
    assert.equal((await members(gateway, room, '/relay')).count, 1);
    for (let round = 0; round < 2; round += 1) assert.deepEqual(await ask(leaves, 'join', { room }), { success: true, room });
    assert.equal((await members(gateway, room, '/relay')).count, 2);
    for (let round = 0; round < 2; round += 1) assert.deepEqual(await ask(leaves, 'leave', { room }), { success: true, room });
    assert.equal((await members(gateway, room, '/relay')).count, 1);
  });

  row(site, "a socket's own id is no room that others publish to", async (gateway, t) => {
    const victim = await joined(t, gateway);
    const attacker = await joined(t, gateway, { claims: { rooms: [], publish: ['mine'] } });
    assert.deepEqual(await ask(attacker, 'publish', { room: victim.id, event: 'e', data: 1 }), NOT_ALLOWED);
  });

  row(site, 'B69 members are those of the tokens, whatever their payload says', async (gateway, t) => {
    const room = fresh('room');
    const ws = await joined(t, gateway, { claims: { sub: 'mallory', name: 'Mallory' } });
    await ask(ws, 'join', { room, userId: 'alice', displayName: 'Alice', socketId: 'x' });
    const answer = await ask(ws, 'members', { room });
    assert.deepEqual(
      answer.members.map(({ userId, displayName, socketId }) => [userId, displayName, socketId]),
      [['mallory', 'Mallory', ws.id]],
    );
    assert.deepEqual([answer.count, answer.users], [1, 1]);
  });

  row(site, 'an answer to an event does not depend on its ack', async (gateway, t) => {
    const ws = await joined(t, gateway, { claims: { rooms: ['b'], publish: ['b'] } });
    for (const [event, data, message] of [
      ['join', { room: 'a' }, 'Not allowed'],
      ['join', { room: '' }, 'Invalid room'],
      ['publish', { room: 'a', event: 'e' }, 'Not allowed'],
      ['nothing', 1, 'Unknown event'],
    ]) {
      ws.send(`42/relay,${JSON.stringify([event, data])}`);
      assert.equal(await ws.nextText(), `42/relay,["error",{"message":"${message}"}]`);
    }
  });
});

describe('a room of the chat', () => {
  rows(
    site,
    [...BAD_NAMES, ...NO_NAMES].map((name) => ({ name: `B66 named ${show(name)} (${typeof name}) is bad input for every event`, roomId: name })),
    async (gateway, { roomId }, t) => {
      const ws = await joined(t, gateway, { namespace: '/' });
      for (const event of ['join_room', 'leave_room', 'typing_start', 'typing_stop']) {
        const answer = await ask(ws, event, roomId);
        assert.deepEqual(answer, { success: false, error: 'Invalid room id' }, event);
      }
      for (const event of ['send_message', 'room_history']) {
        const answer = await ask(ws, event, { roomId, content: 'x' });
        if (typeof roomId === 'string') assert.deepEqual(answer, { success: false, error: 'Invalid room id' }, event);
        else refusal(answer);
      }
      ws.send(`42${JSON.stringify(['join_room', roomId])}`);
      assert.equal(await ws.nextText(), '42["error",{"message":"Invalid room id"}]');
    },
  );

  rows(
    site,
    ODD_NAMES.map((roomId) => ({ name: `B66 named ${show(roomId)} is a room like any other`, roomId })),
    async (gateway, { roomId }, t) => {
      const socket = await stock(t, gateway, '/');
      assert.deepEqual(await socket.emitWithAck('join_room', roomId), { success: true, roomId });
      assert.equal((await members(gateway, `room:${roomId}`, '/')).count, 1);
      const sent = await socket.emitWithAck('send_message', { roomId, content: 'hello' });
      assert.deepEqual([sent.success, sent.message.roomId], [true, roomId]);
      assert.equal((await socket.emitWithAck('leave_room', roomId)).success, true);
    },
  );

  row(site, "B66 is another one than the relay's of the same cluster name", async (gateway, t) => {
    const roomId = fresh('room');
    const chat = await stock(t, gateway, '/');
    const heard = record(chat);
    await chat.emitWithAck('join_room', roomId);
    const relay = await joined(t, gateway);
    assert.deepEqual(await ask(relay, 'publish', { room: `room:${roomId}`, event: 'new_message', data: { content: 'forged' } }), { success: true });
    const sent = await chat.emitWithAck('send_message', { roomId, content: 'true' });
    const first = await heard.take('new_message');
    assert.equal(first.id, sent.message.id);
  });

  const strange = [
    ['send_message', undefined],
    ['send_message', null],
    ['send_message', 5],
    ['send_message', 'text'],
    ['send_message', []],
    ['send_message', {}],
    ['send_message', { roomId: 'general' }],
    ['send_message', { roomId: 'general', content: 5 }],
    ['send_message', { roomId: 'general', content: null }],
    ['send_message', { roomId: 'general', content: ['a'] }],
    ['send_message', { roomId: 'general', content: { toString: 'x' } }],
    ['send_message', { content: 'x' }],
    ['join_room', undefined],
    ['leave_room', undefined],
    ['typing_start', undefined],
    ['typing_stop', undefined],
    ['room_history', undefined],
    ['room_history', null],
    ['room_history', 5],
    ['room_history', {}],
    ['room_history', []],
  ];
  rows(
    site,
    strange.map(([event, data]) => ({ name: `${event} with ${JSON.stringify(data) ?? 'nothing'} is bad input`, event, data })),
    async (gateway, { event, data }, t) => {
      const socket = await stock(t, gateway, '/');
      await socket.emitWithAck('join_room', 'general');
      const answer = await (data === undefined ? socket.emitWithAck(event) : socket.emitWithAck(event, data));
      const error = refusal(answer);
      const told = once(socket, 'error');
      if (data === undefined) socket.emit(event);
      else socket.emit(event, data);
      assert.deepEqual(await told, [{ message: error }]);
    },
  );

  row(site, 'B68 takes no message from a socket that has not joined it', async (gateway, t) => {
    const roomId = fresh('room');
    const [member, stranger] = [await stock(t, gateway, '/'), await stock(t, gateway, '/')];
    const heard = record(member);
    await member.emitWithAck('join_room', roomId);
    assert.deepEqual(await stranger.emitWithAck('send_message', { roomId, content: 'x' }), { success: false, error: 'You must join the room first' });
    const told = once(stranger, 'error');
    stranger.emit('send_message', { roomId, content: 'x' });
    assert.deepEqual(await told, [{ message: 'You must join the room first' }]);
    await stranger.emitWithAck('join_room', roomId);
    await stranger.emitWithAck('leave_room', roomId);
    assert.deepEqual(await stranger.emitWithAck('send_message', { roomId, content: 'x' }), { success: false, error: 'You must join the room first' });
    const { message } = await member.emitWithAck('send_message', { roomId, content: 'mine' });
    assert.deepEqual((await heard.take('new_message')).id, message.id, 'the stranger was heard');
    const { messages } = await member.emitWithAck('room_history', { roomId });
    assert.deepEqual(
      messages.map(({ content }) => content),
      ['mine'],
      'the stranger was stored',
    );
  });

  row(site, 'B68 hears no typing of a socket that has not joined it', async (gateway, t) => {
    const roomId = fresh('room');
    const [member, stranger] = [await stock(t, gateway, '/'), await stock(t, gateway, '/', { sub: 'stranger' })];
    const heard = record(member);
    await member.emitWithAck('join_room', roomId);
    stranger.emit('typing_start', roomId);
    stranger.emit('typing_stop', roomId);
    await stranger.emitWithAck('typing_start', roomId);
    await member.emitWithAck('send_message', { roomId, content: 'mine' });
    await heard.take('new_message');
    assert.deepEqual([...heard.seen('user_typing'), ...heard.seen('user_stopped_typing')], []);
  });

  row(site, 'B69 writes the user of the token into every message, whatever the payload says', async (gateway, t) => {
    const roomId = fresh('room');
    const socket = await stock(t, gateway, '/', { sub: 'mallory', name: 'Mallory', email: 'm@example.com' });
    const heard = record(socket);
    await socket.emitWithAck('join_room', roomId);
    const forged = {
      roomId,
      content: 'x',
      id: 'mine',
      userId: 'alice',
      user: { id: 'alice', name: 'Alice', avatar: 'x' },
      createdAt: '1999-01-01T00:00:00.000Z',
      email: 'a@example.com',
    };
    const { message } = await socket.emitWithAck('send_message', forged);
    const broadcast = await heard.take('new_message');
    const {
      messages: [stored],
    } = await socket.emitWithAck('room_history', { roomId });
    for (const seen of [message, broadcast, stored]) {
      assert.deepEqual(seen.user, { id: 'mallory', name: 'Mallory', avatar: null });
      assert.notEqual(seen.id, 'mine');
      assert.notEqual(seen.createdAt, forged.createdAt);
    }
    assert.equal(message.userId, 'mallory');
    assert.equal(broadcast.userId, 'mallory');
  });

  row(site, 'B71 is left without having been joined, and left twice, in silence', async (gateway, t) => {
    const roomId = fresh('room');
    const [member, other] = [await stock(t, gateway, '/'), await stock(t, gateway, '/')];
    const heard = record(member);
    await member.emitWithAck('join_room', roomId);
    assert.equal((await other.emitWithAck('leave_room', roomId)).success, true);
    await other.emitWithAck('join_room', roomId);
    for (let round = 0; round < 2; round += 1) assert.equal((await other.emitWithAck('leave_room', roomId)).success, true);
    await member.emitWithAck('send_message', { roomId, content: 'mark' });
    await heard.take('new_message');
    assert.equal(heard.seen('user_left').length, 1);
    assert.equal((await members(gateway, `room:${roomId}`, '/')).count, 1);
  });

  const TOO_LONG = 'Message too long (max 1000 characters)';
  const contents = [
    ['', 'Message cannot be empty'],
    [' \t\r\n ', 'Message cannot be empty'],
    ['\u00a0\u2003\u3000', 'Message cannot be empty'],
    ['x'.repeat(1001), TOO_LONG],
    ['\u{1f600}'.repeat(1001), TOO_LONG],
    ['x'.repeat(65_537), TOO_LONG],
  ];
  rows(
    site,
    contents.map(([content, error]) => ({ name: `B92 refuses a message of ${content.length} units, ${show(content)}`, content, error })),
    async (gateway, { content, error }, t) => {
      const roomId = fresh('room');
      const socket = await stock(t, gateway, '/');
      await socket.emitWithAck('join_room', roomId);
      assert.deepEqual(await socket.emitWithAck('send_message', { roomId, content }), { success: false, error });
      const told = once(socket, 'error');
      socket.emit('send_message', { roomId, content });
      assert.deepEqual(await told, [{ message: error }]);
      assert.deepEqual((await socket.emitWithAck('room_history', { roomId })).messages, []);
    },
  );

  const literal = [
    '<script>alert(1)</script>',
    '<img src=x onerror=alert(1)>',
    '\u202egnp.exe',
    "'; DROP TABLE messages; --",
    "1' OR '1'='1",
    '"; DELETE FROM chat_messages; --',
    '%s%s%n',
    '${7*7}',
    '{{7*7}}',
    '\\u0000',
    '\\',
    '"',
    'a\u2028\u2029b',
    'a\ufeffx',
    'a\tb\nc',
    '\x7f\x1b[31mred',
    '\u{1f468}\u200d\u{1f469}\u200d\u{1f467}',
    '\u{1f600}'.repeat(1000),
    'x'.repeat(1000),
    `  ${'y'.repeat(1000)}  `,
    'null',
    '__proto__',
    'x\ufffdy',
  ];
  rows(
    site,
    literal.map((content) => ({ name: `B92 B93 stores and tells ${show(content)} as it is`, content })),
    async (gateway, { content }, t) => {
      const roomId = fresh('room');
      const socket = await stock(t, gateway, '/');
      const heard = record(socket);
      await socket.emitWithAck('join_room', roomId);
      const sent = await socket.emitWithAck('send_message', { roomId, content });
      assert.equal(sent.success, true, preview(sent));
      const { messages } = await socket.emitWithAck('room_history', { roomId });
      assert.deepEqual(
        [sent.message.content, (await heard.take('new_message')).content, ...messages.map((message) => message.content)],
        Array(3).fill(content.trim()),
      );
    },
  );

  row(site, 'B92 takes a message with NUL as it is or refuses it, and stores no half of it', async (gateway, t) => {
    const roomId = fresh('room');
    const socket = await stock(t, gateway, '/');
    await socket.emitWithAck('join_room', roomId);
    const sent = await socket.emitWithAck('send_message', { roomId, content: 'a\0b' });
    const { messages } = await socket.emitWithAck('room_history', { roomId });
    if (sent.success) assert.deepEqual([sent.message.content, messages[0].content], ['a\0b', 'a\0b']);
    else assert.deepEqual(messages, []);
  });

  row(site, 'B60 B92 takes a message with a lone surrogate or refuses it, and lives', async (gateway, t) => {
    const roomId = fresh('room');
    const ws = await joined(t, gateway, { namespace: '/' });
    ws.send(`421["join_room","${roomId}"]`);
    for (let text = ''; !text.startsWith('431');) text = await ws.nextText();
    ws.send(`422["send_message",{"roomId":"${roomId}","content":"a\\ud83d"}]`);
    let text = '';
    while (!text.startsWith('432')) text = await ws.nextText();
    const [answer] = JSON.parse(text.slice(3));
    if (!answer.success) refusal(answer);
  });

  row(site, 'B93 answers SQL in every string parameter as it answers other text', async (gateway, t) => {
    const socket = await stock(t, gateway, '/', { sub: 'u1', name: "Robert'); DROP TABLE messages;--", email: "' OR 1=1 --" });
    const roomId = fresh('room');
    await socket.emitWithAck('join_room', roomId);
    const { message } = await socket.emitWithAck('send_message', { roomId, content: 'one' });
    assert.equal(message.user.name, "Robert'); DROP TABLE messages;--");
    for (const before of ["' OR 1=1 --", `${message.id}' OR '1'='1`, '1; DROP TABLE messages', '0x', '\0']) {
      const answer = await socket.emitWithAck('room_history', { roomId, before });
      if (answer.success)
        assert.ok(
          answer.messages.every(({ roomId: of }) => of === roomId),
          'messages of another room',
        );
      else refusal(answer);
    }
    assert.equal((await socket.emitWithAck('room_history', { roomId })).messages.length, 1);
  });

  row(unlimited, 'B91 gives 100 messages at most, whatever limit is asked for', async (gateway, t) => {
    const roomId = fresh('room');
    const socket = await stock(t, gateway, '/');
    await socket.emitWithAck('join_room', roomId);
    for (let at = 0; at < 120; at += 1) await socket.emitWithAck('send_message', { roomId, content: `m${at}` });
    for (const limit of [101, 1e9, Number.MAX_SAFE_INTEGER, 1e300, -1, -1e300, 0, 0.5, 'abc', '50', null, [], {}, true]) {
      const answer = await socket.emitWithAck('room_history', { roomId, limit });
      if (answer.success) assert.ok(answer.messages.length <= 100, `${answer.messages.length} messages for limit ${JSON.stringify(limit)}`);
      else refusal(answer);
    }
    for (const before of [
      '9999-12-31T23:59:59.999Z',
      '0000-00-00',
      'x'.repeat(100_000),
      5,
      -1,
      null,
      {},
      [],
      '019c0000-0000-7000-8000-000000000000',
    ]) {
      const answer = await socket.emitWithAck('room_history', { roomId, before });
      if (answer.success) assert.ok(answer.messages.length <= 100);
      else refusal(answer);
    }
    const { messages } = await socket.emitWithAck('room_history', { roomId, limit: 3 });
    assert.deepEqual(
      messages.map(({ content }) => content),
      ['m117', 'm118', 'm119'],
    );
  });

  row(site, 'B90 gives no history to a socket that has not joined, or tells all alike', async (gateway, t) => {
    const roomId = fresh('room');
    const [member, stranger] = [await stock(t, gateway, '/'), await stock(t, gateway, '/')];
    await member.emitWithAck('join_room', roomId);
    await member.emitWithAck('send_message', { roomId, content: 'inside' });
    const shape = ({ messages, roomId: of, ...rest }) => rest;
    const existing = await stranger.emitWithAck('room_history', { roomId });
    const absent = await stranger.emitWithAck('room_history', { roomId: fresh('nowhere') });
    assert.deepEqual(shape(existing), shape(absent), 'an existing room can be told from an absent one');
    if (!existing.success) assert.equal(existing.error, 'You must join the room first');
  });

  row(unlimited, 'counts every refused event', async (gateway, t) => {
    const refused = await meter(gateway, 'muster_events_total', 'app="chat"', 'outcome="bad_input"');
    const socket = await stock(t, gateway, '/');
    for (let at = 0; at < 20; at += 1) await socket.emitWithAck('join_room', '');
    await refused.grows(20);
    assert.deepEqual(await socket.emitWithAck('nothing', 1), { success: false, error: 'Unknown event' });
  });
});
