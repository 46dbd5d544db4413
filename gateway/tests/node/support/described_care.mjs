// Uses and misuses everything in the care app once, before a witness.

import assert from 'node:assert/strict';

import { connected, unique } from './clients.mjs';
import { eventually, record } from './wait.mjs';

const REFUSED = { refused: true };
const MEMBERS = '/internal/rooms/{room}/members';

/** Uses the app on `gateway`, which has `clients` and rings for `ringMs`, before the witness `seen`. */
export async function driveCare(seen, gateway, { ringMs }) {
  const device = async (user, claims) => {
    const socket = seen.watch(gateway.clients.socket({ claims: { sub: user, name: `Name of ${user}`, ...claims } }));
    const events = record(socket);
    await connected(socket);
    const use = (event, payload, options) => seen.send(socket, event, payload, options);
    return { user, socket, events, use };
  };
  const [ann, bob] = [unique('ann'), unique('bob')];
  const devices = { ann: await device(ann, { role: 'patient' }), desk: await device(ann, { role: 'patient' }), bob: await device(bob), phone: await device(bob) };
  const use = { seen, device, ringMs, ...devices };
  for (const part of [rooms, grants, sending, reading, inRooms, presence, notifications, talking, declining]) {
    await part(use);
    seen.assertClean();
  }
}

async function rooms({ ann, bob }) {
  const roomId = `chat:${[ann.user, bob.user].sort().join(':')}`;
  await bob.use('typing:start', { roomId }, REFUSED);
  await ann.use('room:join', { roomId });
  assert.equal((await bob.use('room:join', { roomId })).participants.length, 2);
  await ann.events.take('room:userJoined');
  assert.equal((await ann.use('room:participants', { roomId, limit: 1 })).hasMore, true);
  assert.equal((await ann.use('room:participants', { roomId, after: [ann.user, bob.user].sort()[0] })).participants.length, 1);
  await ann.use('room:participants', { roomId, after: '' }, REFUSED);
  for (const event of ['typing:start', 'typing:stop']) {
    await ann.use(event, { roomId });
    await bob.events.take(event);
  }
  await bob.use('room:leave', { roomId });
  await ann.events.take('room:userLeft');
  await bob.use('room:participants', { roomId }, REFUSED);
  for (const event of ['room:join', 'room:participants', 'room:leave', 'typing:start', 'typing:stop']) {
    for (const wrong of [7, { roomId: 'a\nb' }, { roomId: 'room:of-chat' }]) await ann.use(event, wrong, REFUSED);
  }
  await ann.use('room:join', { roomId: 'visit:of-others' }, REFUSED);
}

async function grants({ seen, ann, bob }) {
  const params = { room: `visit:${unique('visit')}` };
  const granted = async (userIds) => (await seen.request('PUT', MEMBERS, { params, body: { userIds } })).body.data.count;
  assert.equal(await granted([ann.user, bob.user]), 2);
  for (const { use } of [ann, bob]) await use('room:join', { roomId: params.room });
  assert.equal(await granted([ann.user]), 1);
  await ann.events.take('room:userLeft', ({ roomId }) => roomId === params.room);
  assert.deepEqual((await seen.request('GET', MEMBERS, { params })).body.data.userIds, [ann.user]);
  await ann.use('message:send', { visitId: params.room.slice('visit:'.length), message: 'hello' });
  for (const body of [{ userIds: ['a\nb'] }, { userIds: Array(1_001).fill('u') }, {}]) assert.equal((await seen.request('PUT', MEMBERS, { params, body })).status, 400);
  for (const room of ['a\nb', 'topic:all']) {
    assert.equal((await seen.request('GET', MEMBERS, { params: { room } })).status, 400);
    assert.equal((await seen.request('PUT', MEMBERS, { params: { room }, body: { userIds: [] } })).status, 400);
  }
  assert.equal((await seen.request('GET', MEMBERS, { params, stranger: true })).status, 403);
}

async function sending({ ann, desk, bob }) {
  const letter = { recipientId: bob.user, message: 'hello', attachments: [{ url: 'a.png' }], metadata: { urgent: true }, clientMessageId: unique('letter') };
  const { message } = await ann.use('message:send', letter);
  assert.equal((await ann.use('message:send', letter)).message.id, message.id);
  await ann.use('message:send', { ...letter, message: 'other' }, REFUSED);
  await bob.events.take('message:new', ({ id }) => id === message.id);
  await desk.events.take('message:sent', ({ id }) => id === message.id);
  await ann.events.take('message:status', ({ messageId, status }) => messageId === message.id && status === 'delivered');
  await ann.use('message:send', { recipientId: bob.user, attachments: [{}] });
  const wrong = [
    { recipientId: undefined }, { recipientId: 'a\nb' }, { recipientId: ann.user }, { recipientId: undefined, visitId: 'a\nb' }, { recipientId: undefined, roomId: 'a\nb' }, { recipientId: undefined, visitId: 'of-others' },
    { message: ' ', attachments: [] }, { message: 'x'.repeat(5_001) }, { message: 'a\0' }, { attachments: [7] }, { attachments: [{ a: 'x'.repeat(9_000) }] }, { metadata: { a: 'x'.repeat(9_000) } }, { clientMessageId: 'a\nb' }, { message: 7 },
  ];
  for (const part of wrong) await ann.use('message:send', { ...letter, clientMessageId: undefined, ...part }, REFUSED);
}

async function reading({ ann, bob }) {
  const { messages, hasMore } = await bob.use('message:history', { recipientId: ann.user, limit: 1 });
  assert.ok(hasMore);
  const before = messages[0].id;
  assert.equal((await bob.use('message:history', { recipientId: ann.user, before })).messages.length, 1);
  assert.equal((await bob.use('message:read', { messageIds: [before] })).updated, 1);
  await ann.events.take('message:status', ({ messageId, status }) => messageId === before && status === 'read');
  const { conversations } = await bob.use('message:conversations', { limit: 10 });
  assert.equal(conversations[0].unreadCount, 1);
  const page = { recipientId: ann.user };
  for (const wrong of [{}, { ...page, before: 'none' }, { ...page, before: 'a\nb' }, { ...page, limit: 'x' }, { recipientId: bob.user }, { roomId: 'chat:x:y' }]) await bob.use('message:history', wrong, REFUSED);
  for (const wrong of [7, { before: 'a\nb' }]) await bob.use('message:conversations', wrong, REFUSED);
  for (const wrong of [{}, { messageIds: [] }]) await bob.use('message:read', wrong, REFUSED);
}

async function inRooms({ ann, bob }) {
  const roomId = `topic:${unique('topic')}`;
  for (const { use } of [ann, bob]) await use('room:join', { roomId });
  const { message } = await ann.use('message:send', { roomId, message: 'all' });
  await bob.events.take('message:new', ({ id }) => id === message.id);
  const { userId } = await ann.events.take('message:status', ({ messageId }) => messageId === message.id);
  assert.equal(userId, null);
  assert.equal((await ann.use('message:conversations', {})).conversations[0].recipientId, null);
}

async function presence({ device, ann, bob }) {
  const carl = await device(unique('carl'));
  const userIds = [bob.user, carl.user, unique('nobody')];
  assert.equal((await ann.use('presence:subscribe', { userIds })).subscribed, 3);
  await carl.use('presence:setStatus', { status: 'busy', customStatus: 'at lunch' });
  await ann.events.take('presence:changed', ({ userId, status }) => userId === carl.user && status === 'busy');
  carl.socket.disconnect();
  const { lastSeen } = await ann.events.take('presence:changed', ({ userId, status }) => userId === carl.user && status === 'offline');
  assert.ok(lastSeen);
  assert.equal((await ann.use('presence:get', { userIds })).presences.length, 3);
  const many = (count) => Array.from({ length: count }, (_, at) => `user-${at}`);
  for (const event of ['presence:get', 'presence:subscribe']) {
    for (const wrong of [7, { userIds: ['a\nb'] }, { userIds: many(501) }]) await ann.use(event, wrong, REFUSED);
  }
  await ann.use('presence:subscribe', { userIds: many(500) }, REFUSED);
  for (const wrong of [{ userIds: ['a\nb'] }, { userIds: many(501) }]) await ann.use('presence:unsubscribe', wrong, REFUSED);
  await ann.use('presence:unsubscribe', { userIds: [carl.user] });
  await ann.use('presence:unsubscribe', {});
  for (const wrong of [7, { status: 'offline' }, { status: 'busy', customStatus: 'x'.repeat(129) }, { status: 'busy', customStatus: 'a\0' }]) await ann.use('presence:setStatus', wrong, REFUSED);
}

async function notifications({ seen, ann }) {
  const headers = { 'Idempotency-Key': unique('key') };
  const news = { userId: ann.user, title: 'News', message: 'You have a message', type: 'message', data: { from: 'bob' } };
  const notify = async (status, body, more) => {
    const answer = await seen.request('POST', '/internal/notifications', { body: { ...news, ...body }, ...more });
    assert.equal(answer.status, status, answer.text);
    return answer.body.data;
  };
  const first = await notify(201, {}, { headers });
  await ann.events.take('notification:new', ({ id }) => id === first.id);
  assert.equal((await notify(200, {}, { headers })).id, first.id);
  await notify(422, { title: 'Other' }, { headers });
  await notify(201, { type: undefined, data: undefined, message: '' });
  for (const wrong of [{ userId: 'a\nb' }, { title: ' ' }, { title: 'x'.repeat(201) }, { title: 'a\0' }, { message: 'x'.repeat(2_001) }, { message: 'a\0' }, { type: 'a b' }, { data: 'x'.repeat(9_000) }, { title: 7 }]) await notify(400, wrong);
  await notify(400, {}, { headers: { 'Idempotency-Key': 'a b' } });
  await notify(403, {}, { stranger: true });

  assert.equal((await ann.use('notification:list', { unreadOnly: true, limit: 1 })).hasMore, true);
  assert.equal((await ann.use('notification:read', { notificationId: first.id })).unreadCount, 1);
  assert.equal((await ann.use('notification:readAll')).updated, 1);
  assert.equal((await ann.use('notification:getUnreadCount')).unreadCount, 0);
  for (const wrong of [7, { notificationId: 'none' }]) await ann.use('notification:read', wrong, REFUSED);
  for (const wrong of [7, { before: 'a\nb' }]) await ann.use('notification:list', wrong, REFUSED);
}

/** Calls all devices of another user; returns the call's id when it rings. */
async function ring(from, to, given = {}) {
  const { callId } = await from.use('call:initiate', { recipientId: to[0].user, ...given });
  for (const { events } of to) await events.take('call:incoming', (told) => told.callId === callId);
  return callId;
}

async function talking({ device, ann, bob, phone }) {
  const carl = await device(unique('carl'));
  const callId = await ring(ann, [bob, phone], { callType: 'audio', visitId: 'visit-1' });
  const call = { callId };
  await ann.use('call:signal', { ...call, signal: 1 }, REFUSED);
  await ann.use('call:accept', call, REFUSED);
  await bob.use('call:accept', call);
  await ann.events.take('call:accepted');
  await phone.events.take('call:answered_elsewhere');
  await bob.use('call:accept', call, REFUSED);
  for (const [from, to] of [[ann, bob], [bob, ann]]) {
    await from.use('call:signal', { ...call, signal: { sdp: 'v=0' } });
    await to.events.take('call:signal');
  }
  for (const wrong of [call, { ...call, signal: 'x'.repeat(65_537) }]) await ann.use('call:signal', wrong, REFUSED);
  for (const recipientId of [bob.user, carl.user, ann.user, 'a\nb']) await ann.use('call:initiate', { recipientId }, REFUSED);
  for (const wrong of [{ callType: 'smoke' }, { visitId: 'a\nb' }, { recipientId: 7 }, { recipientId: bob.user }]) await carl.use('call:initiate', { recipientId: bob.user, ...wrong }, REFUSED);
  for (const event of ['call:accept', 'call:reject', 'call:end', 'call:signal']) {
    for (const wrong of [7, { callId: 'a\nb', signal: 1 }, { callId: 'none', signal: 1 }]) await ann.use(event, wrong, REFUSED);
  }
  await ann.use('call:end', call);
  for (const { events } of [ann, bob]) await events.take('call:ended', (told) => told.callId === callId);
  for (const event of ['call:accept', 'call:reject', 'call:end', 'call:signal']) await bob.use(event, { ...call, signal: 1 }, REFUSED);
}

async function declining({ device, ringMs, ann, bob, phone }) {
  const declined = { callId: await ring(ann, [bob, phone]) };
  for (const reason of ['x'.repeat(129), 'a\0']) await bob.use('call:reject', { ...declined, reason }, REFUSED);
  await ann.use('call:reject', declined, REFUSED);
  await bob.use('call:reject', { ...declined, reason: 'later' });
  for (const { events } of [ann, bob]) await events.take('call:rejected', ({ callId }) => callId === declined.callId);

  const missed = await ring(ann, [bob, phone]);
  await ann.events.take('call:missed', ({ callId }) => callId === missed, { timeout: ringMs + 10_000 });

  const carl = await device(unique('carl'));
  const lost = await ring(ann, [carl]);
  await carl.use('call:accept', { callId: lost });
  carl.socket.disconnect();
  const { reason, endedBy } = await ann.events.take('call:ended', ({ callId }) => callId === lost, { timeout: 20_000 });
  assert.deepEqual([reason, endedBy], ['failed', null]);
  await eventually(async () => (await ann.use('presence:get', { userIds: [ann.user] })).presences[0].status === 'online', { what: 'the caller to be in no call' });
}
