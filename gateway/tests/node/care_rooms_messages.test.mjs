// Care's rooms and messages: access, recipients, storage. One list of scenarios, on one node and on two.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { ISO, SITES, UUID_V7, device, must, publicText, quiet, refusal } from './support/care.mjs';
import { bounded, unique } from './support/clients.mjs';
import { count, internal, ready, startCluster } from './support/cluster.mjs';

const DENIED = 'Room access denied';

/** The room of two users' conversation. */
const chatOf = (...devices) => `chat:${devices.map(({ user }) => user).sort().join(':')}`;

/** Grants a room. */
const grant = (node, roomId, userIds) => internal(node, 'PUT', `/internal/rooms/${roomId}/members`, { userIds });

/** The bodies of a device's events with this name about a room that were not taken. */
const seen = ({ events }, event, room) => events.seen(event).map(([received]) => received).filter(({ roomId }) => roomId === room);

/**
 * Each scenario gets `{nodes, open}`: the two nodes, and `open(at, claims)`, which connects a device to one of
 * them.
 */
const ROOMS = {
  'a chat room is for its two users, whose ids are sorted in its name': async ({ open }) => {
    const [ann, bob, eve] = [await open(0, { name: 'ann', role: 'patient' }), await open(1, { name: 'bob', role: 'doctor' }), await open(1, { name: 'eve', role: 'admin' })];
    const roomId = chatOf(ann, bob);
    const first = await must(ann, 'room:join', { roomId, roomType: 'chat', metadata: { visitId: 'v' } });
    assert.deepEqual(Object.keys(first).sort(), ['count', 'hasMore', 'participants', 'roomId', 'success']);
    assert.equal(first.roomId, roomId);
    const { participants } = await must(bob, 'room:join', { roomId });
    const listed = participants.map(({ joinedAt, ...rest }) => rest).sort((a, b) => (a.userId < b.userId ? -1 : 1));
    assert.deepEqual(listed, [ann, bob].map(({ user }, at) => ({ userId: user, role: ['patient', 'doctor'][at], displayName: `Name of ${user}` })));
    for (const { joinedAt } of participants) assert.match(joinedAt, ISO);
    const arrival = await ann.events.take('room:userJoined');
    assert.match(arrival.timestamp, ISO);
    assert.deepEqual({ ...arrival, timestamp: '' }, { roomId, userId: bob.user, role: 'doctor', displayName: `Name of ${bob.user}`, timestamp: '' });
    assert.equal(await refusal(eve, 'room:join', { roomId }), DENIED);
    const reversed = `chat:${[ann.user, bob.user].sort().reverse().join(':')}`;
    assert.equal(await refusal(ann, 'room:join', { roomId: reversed }), DENIED);
    assert.deepEqual(await must(bob, 'room:leave', { roomId }), { success: true, roomId });
    const departure = await ann.events.take('room:userLeft');
    assert.match(departure.timestamp, ISO);
    assert.deepEqual({ ...departure, timestamp: '' }, { ...arrival, timestamp: '' });
  },

  'visit and call rooms are for users with a backend\'s grant, until it is withdrawn': async ({ nodes, open }) => {
    const [ann, bob] = [await open(0, { name: 'ann' }), await open(1, { name: 'bob' })];
    for (const kind of ['visit', 'call']) {
      const roomId = `${kind}:${unique('v')}`;
      assert.equal(await refusal(ann, 'room:join', { roomId }), DENIED);
      const answer = await grant(nodes[1], roomId, [ann.user, bob.user]);
      assert.deepEqual([answer.status, answer.body.success], [200, true]);
      const { userIds, ...data } = answer.body.data;
      assert.deepEqual([data, userIds.sort()], [{ roomId, count: 2 }, [ann.user, bob.user].sort()]);
      for (const each of [ann, bob]) await must(each, 'room:join', { roomId });
      await must(bob, 'message:send', { roomId, message: 'while I am here' });
      await ann.events.take('room:userJoined', (received) => received.roomId === roomId);
      assert.equal((await grant(nodes[0], roomId, [ann.user])).body.data.count, 1);
      await ann.events.take('room:userLeft', (received) => received.roomId === roomId && received.userId === bob.user);
      assert.deepEqual((await internal(nodes[1], 'GET', `/internal/rooms/${roomId}/members`)).body.data, { roomId, userIds: [ann.user], count: 1 });
      assert.equal((await count(nodes[0], roomId)).users, 1);
      assert.equal(await refusal(bob, 'room:join', { roomId }), DENIED);
      assert.equal(await refusal(bob, 'message:send', { roomId, message: 'still here?' }), DENIED);
      await must(ann, 'message:send', { roomId, message: 'alone' });
      await quiet(nodes, bob);
      assert.deepEqual(seen(bob, 'message:new', roomId), []);
      const listed = (await must(bob, 'message:conversations', {})).conversations;
      assert.deepEqual(listed.filter((listed) => listed.roomId === roomId), [], 'nor in the list of conversations');
    }
  },

  'a token may name rooms': async ({ open }) => {
    const [visit, call] = [`visit:${unique('v')}`, `call:${unique('c')}`];
    const ann = await open(0, { rooms: [visit, call] });
    for (const roomId of [visit, call]) await must(ann, 'room:join', { roomId });
    assert.equal(await refusal(ann, 'room:join', { roomId: `${visit}x` }), DENIED);
  },

  'topics are for all users, notifications for their user, and other apps\' rooms for no user': async ({ open }) => {
    const [ann, bob] = [await open(0, { name: 'ann' }), await open(1, { name: 'bob', rooms: ['room:x', 'sos:x', 'helpers'] })];
    const topic = `topic:${unique('t')}`;
    for (const each of [ann, bob]) await must(each, 'room:join', { roomId: topic });
    await must(ann, 'room:join', { roomId: `notifications:${ann.user}` });
    for (const roomId of [`notifications:${ann.user}`, `user:${ann.user}`, 'room:x', 'sos:x', 'helpers', 'emergency:x', 'lobby']) {
      assert.equal(await refusal(bob, 'room:join', { roomId }), DENIED, roomId);
    }
  },

  'a user joins once and leaves once, with any number of devices': async ({ nodes, open }) => {
    const roomId = `topic:${unique('t')}`;
    const watcher = await open(0, { name: 'watcher' });
    await must(watcher, 'room:join', { roomId });
    const first = await open(0, { name: 'twin' });
    const second = await open(1, { user: first.user });
    await must(first, 'room:join', { roomId });
    const { participants } = await must(second, 'room:join', { roomId });
    assert.deepEqual(participants.map(({ userId }) => userId).sort(), [first.user, watcher.user].sort());
    await must(first, 'room:leave', { roomId });
    await quiet(nodes, watcher);
    assert.deepEqual([seen(watcher, 'room:userJoined', roomId).length, seen(watcher, 'room:userLeft', roomId).length], [1, 0]);
    await must(second, 'room:leave', { roomId });
    await watcher.events.count('room:userLeft', 1);
    await quiet(nodes, watcher);
    assert.equal(seen(watcher, 'room:userLeft', roomId).length, 1);
    assert.deepEqual([...seen(first, 'room:userJoined', roomId), ...seen(second, 'room:userLeft', roomId)], [], 'users receive no events about themselves');
  },

  'a user who loses the last connection leaves the room after the hold-back': async ({ nodes, open }) => {
    const roomId = `topic:${unique('t')}`;
    const [watcher, lost] = [await open(0, { name: 'watcher' }), await open(1, { name: 'lost' })];
    for (const each of [watcher, lost]) await must(each, 'room:join', { roomId });
    lost.socket.io.engine.close();
    assert.equal((await watcher.events.take('room:userLeft', () => true, { timeout: 20_000 })).userId, lost.user);
    assert.equal((await count(nodes[0], roomId)).count, 1);
  },

  'typing goes to the other members of the room, and only members may send it': async ({ nodes, open }) => {
    const roomId = `topic:${unique('t')}`;
    const [ann, bob, outsider] = [await open(0, { name: 'ann', role: 'patient' }), await open(1, { name: 'bob' }), await open(1, { name: 'out' })];
    for (const each of [ann, bob]) await must(each, 'room:join', { roomId });
    for (const event of ['typing:start', 'typing:stop']) {
      ann.socket.emit(event, { roomId });
      assert.deepEqual(await bob.events.take(event), { roomId, userId: ann.user, role: 'patient', displayName: `Name of ${ann.user}` });
      await refusal(outsider, event, { roomId });
    }
    // Watching a user does not make a member.
    await must(outsider, 'presence:subscribe', { userIds: [ann.user] });
    await must(bob, 'presence:subscribe', { userIds: [ann.user] });
    for (const event of ['typing:start', 'typing:stop', 'room:leave']) assert.equal(await refusal(outsider, event, { roomId: `presence:${ann.user}` }), DENIED);
    await quiet(nodes, ann, bob, outsider);
    assert.deepEqual(bob.events.events.filter(({ args }) => args[0]?.roomId === `presence:${ann.user}`), []);
    for (const each of [ann, bob, outsider]) {
      for (const event of ['typing:start', 'typing:stop']) assert.deepEqual(seen(each, event, roomId), []);
    }
  },

  'only visit and call rooms can be granted, and only by a backend': async ({ nodes }) => {
    for (const roomId of ['chat:a:b', 'topic:x', 'notifications:u', 'lobby']) assert.equal((await grant(nodes[0], roomId, ['u'])).status, 400, roomId);
    for (const userIds of [undefined, null, 'u', [7], ['a\nb'], [''], { u: 1 }]) assert.equal((await grant(nodes[0], 'visit:x', userIds)).status, 400, JSON.stringify(userIds));
    const put = (url, headers) => fetch(`${url}/internal/rooms/visit:x/members`, { method: 'PUT', headers: { 'Content-Type': 'application/json', ...headers }, body: '{"userIds":[]}' });
    assert.equal((await put(nodes[0].internalUrl, {})).status, 403);
    assert.equal((await put(nodes[0].url, { 'X-Internal-Request': 'true' })).status, 404);
    const ungranted = await internal(nodes[1], 'GET', `/internal/rooms/visit:${unique('v')}/members`);
    assert.deepEqual([ungranted.status, ungranted.body.data.userIds, ungranted.body.data.count], [200, [], 0]);
  },
};

const MESSAGES = {
  'to a user: it reaches all their devices and the sender\'s other devices, with status changes': async ({ nodes, open }) => {
    const ann = await open(0, { name: 'ann', role: 'patient' });
    const phone = await open(1, { user: ann.user, role: 'patient' });
    const bob = await open(1, { name: 'bob' });
    const tablet = await open(0, { user: bob.user });
    const eve = await open(1, { name: 'eve' });
    const attachments = [{ name: 'scan.png', url: 'https://example.com/scan.png', size: 7 }];
    const { message } = await must(ann, 'message:send', { recipientId: bob.user, message: 'héllo', attachments, metadata: { urgent: true, n: [1, null] } });
    assert.match(message.id, UUID_V7);
    assert.match(message.timestamp, ISO);
    assert.equal(typeof message.conversationId, 'string');
    const { id, timestamp, conversationId, roomId, status, ...rest } = message;
    assert.ok(['sent', 'delivered'].includes(status), status);
    assert.deepEqual(rest, {
      senderId: ann.user,
      senderName: `Name of ${ann.user}`,
      senderRole: 'patient',
      recipientId: bob.user,
      visitId: null,
      message: 'héllo',
      attachments,
      metadata: { urgent: true, n: [1, null] },
      clientMessageId: null,
      seq: 1,
    });
    for (const [device_, event] of [[bob, 'message:new'], [tablet, 'message:new'], [phone, 'message:sent']]) {
      const received = await device_.events.take(event);
      assert.deepEqual({ ...received, status: '' }, { ...message, status: '' });
    }
    const delivered = await ann.events.take('message:status', (received) => received.messageId === id && received.status === 'delivered');
    assert.match(delivered.timestamp, ISO);
    assert.deepEqual({ ...delivered, timestamp: '' }, { messageId: id, conversationId, status: 'delivered', userId: bob.user, timestamp: '' });
    assert.deepEqual(await must(tablet, 'message:read', { messageIds: [id] }), { success: true, updated: 1 });
    const read = await ann.events.take('message:status', (received) => received.status === 'read');
    assert.deepEqual([read.messageId, read.userId], [id, bob.user]);
    assert.deepEqual(await must(bob, 'message:read', { messageIds: [id] }), { success: true, updated: 0 });
    await quiet(nodes, ann, phone, bob, tablet, eve);
    assert.deepEqual(ann.events.seen('message:status', (received) => received.status !== 'sent'), [], 'each status is sent once');
    for (const each of [ann, eve]) for (const event of ['message:new', 'message:sent']) assert.deepEqual(each.events.seen(event), []);
    for (const each of [bob, tablet, eve]) assert.deepEqual([...each.events.seen('message:status'), ...each.events.seen('message:sent'), ...each.events.seen('message:new')], []);
    const { messages } = await must(bob, 'message:history', { recipientId: ann.user });
    assert.deepEqual(messages, [{ ...message, status: 'read' }]);
    const back = await must(bob, 'message:send', { recipientId: ann.user, message: 'hi' });
    assert.equal(back.message.conversationId, conversationId, 'both users share one conversation');
  },

  'to a disconnected user: stored as sent, found later': async ({ nodes, open }) => {
    const ann = await open(0, { name: 'ann' });
    const away = unique('away');
    const { message } = await must(ann, 'message:send', { recipientId: away, message: 'later' });
    assert.equal(message.status, 'sent');
    await quiet(nodes, ann);
    assert.deepEqual(ann.events.seen('message:status', ({ status }) => status !== 'sent'), []);
    const bob = await open(1, { user: away });
    const { messages, hasMore } = await must(bob, 'message:history', { recipientId: ann.user });
    assert.deepEqual([messages.map(({ id }) => id), hasMore], [[message.id], false]);
    await must(bob, 'message:read', { messageIds: [message.id] });
    await ann.events.take('message:status', ({ messageId, status }) => messageId === message.id && status === 'read');
  },

  'only recipients of a message can mark it as read': async ({ nodes, open }) => {
    const [ann, bob, eve] = [await open(0, { name: 'ann' }), await open(1, { name: 'bob' }), await open(1, { name: 'eve' })];
    const { message } = await must(ann, 'message:send', { recipientId: bob.user, message: 'x' });
    for (const each of [ann, eve]) {
      const answer = await each.ask('message:read', { messageIds: [message.id] });
      assert.ok(!answer.success || answer.updated === 0, JSON.stringify(answer));
    }
    await quiet(nodes, ann);
    assert.deepEqual(ann.events.seen('message:status', ({ status }) => status === 'read'), []);
    assert.equal((await must(bob, 'message:read', { messageIds: [message.id, message.id] })).updated, 1);
  },

  'to a visit: members of its room receive it, with one history': async ({ nodes, open }) => {
    const visitId = unique('v');
    const roomId = `visit:${visitId}`;
    const [ann, bob, eve] = [await open(0, { rooms: [roomId] }), await open(1, { rooms: [roomId] }), await open(1)];
    const phone = await open(1, { user: ann.user, rooms: [roomId] });
    for (const each of [ann, phone, bob]) await must(each, 'room:join', { roomId });
    const { message } = await must(ann, 'message:send', { visitId, message: 'Hello, doctor!' });
    assert.deepEqual([message.roomId, message.visitId, message.recipientId], [roomId, visitId, null]);
    assert.equal((await bob.events.take('message:new')).id, message.id);
    assert.equal((await phone.events.take('message:sent')).id, message.id);
    await must(bob, 'message:read', { messageIds: [message.id] });
    const read = await ann.events.take('message:status', ({ status }) => status === 'read');
    assert.deepEqual([read.messageId, read.userId], [message.id, bob.user]);
    for (const event of ['message:send', 'message:history']) assert.equal(await refusal(eve, event, { visitId, message: 'x' }), DENIED);
    for (const target of [{ visitId }, { roomId }]) {
      assert.deepEqual((await must(bob, 'message:history', target)).messages.map(({ id }) => id), [message.id], JSON.stringify(target));
    }
    await quiet(nodes, ann, phone, eve);
    for (const each of [ann, phone, eve]) assert.deepEqual(each.events.seen('message:new'), []);
  },

  'to a room: a chat room, a topic, and only with access': async ({ open }) => {
    const [ann, bob, eve] = [await open(0, { name: 'ann' }), await open(1, { name: 'bob' }), await open(0, { name: 'eve' })];
    for (const roomId of [chatOf(ann, bob), `topic:${unique('t')}`]) {
      for (const each of [ann, bob]) await must(each, 'room:join', { roomId });
      const { message } = await must(ann, 'message:send', { roomId, message: 'here' });
      assert.equal(message.roomId, roomId);
      assert.deepEqual({ ...(await bob.events.take('message:new')), status: '' }, { ...message, status: '' });
    }
    for (const event of ['message:send', 'message:history']) assert.equal(await refusal(eve, event, { roomId: chatOf(ann, bob), message: 'x' }), DENIED);
  },

  'users with a colon in their ids write by recipientId': async ({ open }) => {
    const [ann, bob] = [await open(0, { user: unique('a:n') }), await open(1, { user: unique('b:b') })];
    const { message } = await must(ann, 'message:send', { recipientId: bob.user, message: 'x' });
    assert.equal((await bob.events.take('message:new')).id, message.id);
    assert.equal(await refusal(ann, 'room:join', { roomId: chatOf(ann, bob) }), DENIED);
    assert.equal((await must(bob, 'message:history', { recipientId: ann.user })).messages.length, 1);
  },

  'the history comes in pages, oldest first, and is the same for both': async ({ open }) => {
    const [ann, bob] = [await open(0, { name: 'ann' }), await open(1, { name: 'bob' })];
    const ids = [];
    for (let n = 0; n < 60; n += 1) {
      const [from, to] = n % 3 ? [ann, bob] : [bob, ann];
      ids.push((await must(from, 'message:send', { recipientId: to.user, message: `m${n}` })).message.id);
    }
    for (const [asker, recipientId] of [[ann, bob.user], [bob, ann.user]]) {
      const last = await must(asker, 'message:history', { recipientId });
      assert.deepEqual([last.messages.map(({ id }) => id), last.hasMore], [ids.slice(10), true]);
      const page = await must(asker, 'message:history', { recipientId, before: ids[10], limit: 4 });
      assert.deepEqual([page.messages.map(({ id }) => id), page.hasMore], [ids.slice(6, 10), true]);
      const rest = await must(asker, 'message:history', { recipientId, before: ids[6], limit: 100 });
      assert.deepEqual([rest.messages.map(({ message }) => message), rest.hasMore], [['m0', 'm1', 'm2', 'm3', 'm4', 'm5'], false]);
    }
    await refusal(ann, 'message:history', { recipientId: bob.user, before: 'nobody' });
  },

  'a message that is sent twice with one clientMessageId is stored once': async ({ nodes, open }) => {
    const ann = await open(0, { name: 'ann' });
    const phone = await open(1, { user: ann.user });
    const bob = await open(1, { name: 'bob' });
    const body = { recipientId: bob.user, message: 'once', clientMessageId: unique('c') };
    const answers = await Promise.all([ann, phone, ann, phone].map((each) => must(each, 'message:send', body)));
    answers.push(await must(phone, 'message:send', body));
    assert.deepEqual([...new Set(answers.map(({ message }) => message.id))].length, 1);
    for (const { message } of answers) assert.equal(message.clientMessageId, body.clientMessageId);
    await quiet(nodes, ann, phone, bob);
    assert.equal(bob.events.seen('message:new').length, 1);
    assert.equal(ann.events.seen('message:sent').length + phone.events.seen('message:sent').length, 1, 'only the device that did not send it receives message:sent');
    const other = await must(bob, 'message:send', { ...body, recipientId: ann.user });
    assert.notEqual(other.message.id, answers[0].message.id, 'the id belongs to its sender');
    assert.equal((await must(ann, 'message:history', { recipientId: bob.user })).messages.length, 2);
    const eve = await open(0, { name: 'eve' });
    assert.equal(await refusal(ann, 'message:send', { ...body, recipientId: eve.user }), 'clientMessageId was used for something else');
  },

  'conversations are listed by their last message, with unread counts': async ({ open }) => {
    const [ann, bob, cat] = [await open(0, { name: 'ann' }), await open(1, { name: 'bob' }), await open(1, { name: 'cat' })];
    const fromBob = await bounded(3, 1, (n) => must(bob, 'message:send', { recipientId: ann.user, message: `b${n}` }));
    const { message: toCat } = await must(ann, 'message:send', { recipientId: cat.user, message: 'own' });
    const { conversations } = await must(ann, 'message:conversations', {});
    assert.deepEqual(conversations.map(({ recipientId, lastMessage, unreadCount }) => [recipientId, lastMessage.id, unreadCount]), [
      [cat.user, toCat.id, 0],
      [bob.user, fromBob[2].message.id, 3],
    ]);
    for (const conversation of conversations) assert.deepEqual(Object.keys(conversation).sort(), ['conversationId', 'lastMessage', 'recipientId', 'roomId', 'unreadCount']);
    await must(ann, 'message:read', { messageIds: fromBob.slice(0, 2).map(({ message }) => message.id) });
    await must(bob, 'message:send', { recipientId: ann.user, message: 'newest' });
    const newest = (await must(ann, 'message:conversations', { limit: 1 })).conversations;
    assert.deepEqual(newest.map(({ recipientId, unreadCount }) => [recipientId, unreadCount]), [[bob.user, 2]]);
    assert.deepEqual((await must(cat, 'message:conversations', {})).conversations.map(({ recipientId, unreadCount }) => [recipientId, unreadCount]), [[ann.user, 1]]);
  },

  'bad input is refused, in the ack or else as an error event, and the connection stays open': async ({ nodes, open }) => {
    const [ann, bob] = [await open(0, { name: 'ann' }), await open(1, { name: 'bob' })];
    const to = { recipientId: bob.user };
    const cases = {
      'message:send': [undefined, null, 7, 'x', [], {}, { message: 'x' }, to, { ...to, message: 7 }, { ...to, message: '' }, { ...to, message: ' \n\t' }, { ...to, message: 'a\u0000b' }, { recipientId: 'a\nb', message: 'x' }, { recipientId: [bob.user], message: 'x' }, { ...to, message: 'x', attachments: 'no' }, { ...to, message: 'x', metadata: [] }, { ...to, message: 'x', clientMessageId: 7 }, { visitId: '', message: 'x' }, { roomId: {}, message: 'x' }],
      'message:read': [undefined, {}, { messageIds: 'x' }, { messageIds: [7] }, { messageIds: Array.from({ length: 101 }, (_, n) => `m${n}`) }],
      'message:history': [undefined, {}, { recipientId: 7 }, { ...to, before: {} }, { ...to, limit: 'all' }],
      'room:join': [undefined, null, 7, 'topic:x', {}, { roomId: 7 }, { roomId: '' }, { roomId: 'topic:a\nb' }, { roomId: 'topic:'.padEnd(135, 'x') }, { roomId: ['topic:x'] }],
      'room:leave': [undefined, {}, { roomId: 'topic:\u0000' }],
      'typing:start': [undefined, {}, { roomId: 7 }],
    };
    for (const [event, payloads] of Object.entries(cases)) {
      for (const payload of payloads) await refusal(ann, event, ...(payload === undefined ? [] : [payload]));
    }
    assert.deepEqual(ann.events.seen('error'), [], 'only in the ack');
    ann.socket.emit('message:send', { ...to, message: '' });
    publicText((await ann.events.take('error')).message);
    ann.socket.emit('room:join', { roomId: `notifications:${bob.user}` });
    assert.deepEqual(await ann.events.take('error'), { message: DENIED });
    await must(ann, 'message:send', { ...to, message: 'still here' });
    await quiet(nodes, bob);
    assert.deepEqual(bob.events.seen('message:new').map(([{ message }]) => message), ['still here']);
  },
};

for (const { name, start } of SITES) {
  describe(`care on ${name}`, () => {
    let site;
    before(async () => { site = await start(); });
    after(() => site?.stop());
    for (const [what, scenarios] of Object.entries({ rooms: ROOMS, messages: MESSAGES })) {
      describe(what, { concurrency: 4 }, () => {
        for (const [promise, run] of Object.entries(scenarios)) {
          test(promise, { timeout: 60_000 }, () => run({ nodes: site.nodes, open: (at, claims) => device(site.nodes[at], claims) }));
        }
      });
    }
  });
}

describe('care while Redis is away', () => {
  let cluster;
  before(async () => { cluster = await startCluster(2); });
  after(() => cluster?.stop());

  test('a message is stored although it cannot be delivered, and the ack says so', { timeout: 120_000 }, async () => {
    const [ann, bob] = [await device(cluster.nodes[0]), await device(cluster.nodes[1])];
    await cluster.redis.kill();
    const sent = await must(ann, 'message:send', { recipientId: bob.user, message: 'meanwhile' });
    assert.equal(sent.realtime, false);
    assert.deepEqual((await must(bob, 'message:history', { recipientId: ann.user })).messages.map(({ id }) => id), [sent.message.id]);
    await cluster.redis.restart();
    for (const node of cluster.nodes) await ready(node, { timeout: 30_000 });
    const after_ = await must(ann, 'message:send', { recipientId: bob.user, message: 'after' });
    assert.notEqual(after_.realtime, false);
    await bob.events.take('message:new', ({ id }) => id === after_.message.id, { timeout: 30_000 });
  });
});
