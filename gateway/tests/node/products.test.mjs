// Limits that are each sound must not multiply: what one user reaches with many sockets, each within its own limits.
// `chaos/products.test.mjs` has the long forms, with their measurements.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { bounded, unique } from './support/clients.mjs';
import { count, internal, startCluster } from './support/cluster.mjs';
import { sumMetric } from './support/gateway.mjs';
import { ask, joined, pollingJoined, row, underAttack } from './support/hostile.mjs';
import { eventually } from './support/wait.mjs';

const RATE_EXCEEDED = { success: false, error: 'Rate limit exceeded' };
const TOO_MANY_ROOMS = { success: false, error: 'Too many rooms' };
const TOO_MANY_QUESTIONS = { success: false, error: 'Too many open questions' };

/** `many` raw sockets of one user. */
const socketsOf = (t, gateway, sub, many, options = {}) => bounded(many, 20, () => joined(t, gateway, { ...options, claims: { sub, ...options.claims } }));

/** Sends the same event many times at once and returns all acks. */
async function volley(ws, many, event, data, { timeout = 15_000 } = {}) {
  const first = 1_000_000;
  for (let n = 0; n < many; n += 1) ws.send(`42${ws.prefix}${first + n}${JSON.stringify([event, data])}`);
  const answers = [];
  const ack = new RegExp(`^43${ws.prefix}(\\d+)(\\[.*)$`, 's');
  while (answers.length < many) {
    const [, id, args] = ack.exec(await ws.nextText({ timeout })) ?? [];
    if (Number(id) >= first) answers.push(JSON.parse(args)[0]);
  }
  return answers;
}

/** Volleys of all sockets at the same time. */
const volleys = async (sockets, ...volleyed) => (await Promise.all(sockets.map((ws) => volley(ws, ...volleyed)))).flat();

/** Reads until an event reports that `user` has `status`. */
async function receivesStatus(ws, user, status) {
  for (;;) {
    const text = await ws.nextText({ timeout: 10_000 });
    if (!text.startsWith('42["presence:changed"')) continue;
    const [, told] = JSON.parse(text.slice(2));
    if (told.userId === user && told.status === status) return;
  }
}

/** A counter of the gateway. */
const counter = async (gateway, name, label) => sumMetric(await gateway.metrics(), name, label);

/** How many of `answers` are as `expected`. */
const like = (answers, expected) => answers.filter((answer) => JSON.stringify(answer) === JSON.stringify(expected)).length;

describe('what all sockets of a user may do together', () => {
  const site = underAttack({ env: { EVENTS_PER_SECOND: '10' } });

  row(site, 'a hundred sockets have the events of ten, and another user has their own', async (gateway, t) => {
    const sockets = await socketsOf(t, gateway, unique('many'), 30);
    const other = await joined(t, gateway);
    // Each socket may send 40 at once; the user 400.
    const answers = await volleys(sockets, 40, 'echo', 'x');
    const refused = like(answers, RATE_EXCEEDED);
    const echoed = like(answers, 'x');
    assert.equal(echoed + refused, 1_200);
    assert.ok(echoed >= 400 && echoed < 800, `${echoed} of 1,200 were admitted`);
    assert.ok((await counter(gateway, 'muster_rate_limited_total', 'limit="events_of_user"')) >= refused);
    assert.equal(await ask(other, 'echo', 'mine'), 'mine');
  });

  row(site, 'a large event costs more', async (gateway, t) => {
    const sockets = await socketsOf(t, gateway, unique('large'), 10);
    // 500 KB are 123 units of 400.
    const large = 'x'.repeat(500_000);
    const answers = await Promise.all(sockets.map((ws) => ask(ws, 'echo', large, { timeout: 10_000 })));
    const echoed = like(answers, large);
    assert.ok(echoed >= 3 && echoed <= 6, `${echoed} of 10 were admitted`);
    assert.equal(like(answers, RATE_EXCEEDED), 10 - echoed);
  });

  row(site, 'a delivery to many delays the next event', async (gateway, t) => {
    const room = unique('crowd');
    const crowd = await bounded(200, 20, () => joined(t, gateway));
    await Promise.all(crowd.map((ws) => ask(ws, 'join', { room })));
    const sockets = await socketsOf(t, gateway, unique('loud'), 20);
    const answers = await volleys(sockets, 40, 'publish', { room, event: 'e', self: false });
    // Three units each: one for the event and two for 200 recipients.
    const sent = like(answers, { success: true });
    assert.ok(sent >= 120 && sent < 300, `${sent} of 800 were published`);
  });
});

describe('outboxes of one user', () => {
  const site = underAttack({ env: { EVENTS_PER_SECOND: '0' } });

  row(site, 'forty sessions that take nothing hold the bytes of eight', async (gateway) => {
    const sub = unique('hoard');
    const slow = () => counter(gateway, 'muster_sessions_closed_total', 'reason="slow_consumer"');
    const before = await slow();
    const large = 'x'.repeat(500_000);
    const sessions = await bounded(40, 10, () => pollingJoined(gateway, { claims: { sub } }));
    await bounded(40, 10, (at) => sessions[at].post(`42/relay,1["echo",${JSON.stringify(large)}]`));
    // 8 MiB beyond 64 KiB each: 19 of 435 KB.
    await eventually(async () => (await slow()) - before >= 20, { what: 'the sockets beyond the bound to be closed as slow' });
    assert.ok((await slow()) - before <= 23, 'no more than these');
    for (const session of sessions) await session.post('1').catch(() => {});
  });
});

describe('rooms of one user', () => {
  const site = underAttack({ env: { ROOMS_PER_SOCKET: '3' } });

  row(site, 'all sockets together are in ten times as many rooms as one', async (gateway, t) => {
    const sub = unique('rooms');
    const sockets = await socketsOf(t, gateway, sub, 12);
    const name = (at, n) => `${sub}-${at}-${n}`;
    const enter = (ws, room) => ask(ws, 'join', { room });
    for (let at = 0; at < 10; at += 1) {
      for (let n = 0; n < 3; n += 1) assert.equal((await enter(sockets[at], name(at, n))).success, true);
    }
    assert.deepEqual(await enter(sockets[10], name(10, 0)), TOO_MANY_ROOMS);
    // In a room that the user is already in, one more socket may join.
    assert.equal((await enter(sockets[10], name(0, 0))).success, true);
    assert.equal((await ask(sockets[0], 'leave', { room: name(0, 0) })).success, true);
    assert.deepEqual(await enter(sockets[11], name(11, 0)), TOO_MANY_ROOMS, 'another socket is still there');
    assert.equal((await ask(sockets[10], 'leave', { room: name(0, 0) })).success, true);
    assert.equal((await enter(sockets[11], name(11, 0))).success, true);
  });

  row(site, 'a user who raises an SOS receives its event, however many rooms their sockets are in', async (gateway, t) => {
    const sub = unique('citizen');
    const [ws] = await socketsOf(t, gateway, sub, 1, { namespace: '/' });
    for (let n = 0; n < 3; n += 1) assert.equal((await ask(ws, 'room:join', { roomId: `topic:${sub}-${n}` })).success, true);
    assert.deepEqual(await ask(ws, 'room:join', { roomId: `topic:${sub}-3` }), TOO_MANY_ROOMS);
    const raised = await fetch(`${gateway.url}/api/sos`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${gateway.token({ sub })}`, 'Content-Type': 'application/json' },
      body: JSON.stringify({ latitude: 1, longitude: 2 }),
    });
    assert.equal(raised.status, 201);
    const { data } = await raised.json();
    assert.equal((await count(gateway, `sos:${data.id}`)).count, 1);
  });
});

describe('watching presence', () => {
  const site = underAttack();

  row(site, 'a user watches 2,000 others with all sockets, and receives their presence until the last socket disconnects', async (gateway, t) => {
    const sub = unique('watcher');
    const celebrity = unique('celebrity');
    const users = (at) => Array.from({ length: 400 }, (_, n) => `${sub}-${at}-${n}`);
    const sockets = await socketsOf(t, gateway, sub, 8, { namespace: '/' });
    const watch = (ws, userIds) => ask(ws, 'presence:subscribe', { userIds });
    for (let at = 0; at < 4; at += 1) assert.equal((await watch(sockets[at], users(at))).subscribed, 400);
    assert.equal((await watch(sockets[4], [...users(4).slice(0, 399), celebrity])).subscribed, 400);
    // A list costs as much as its length; the budget refills with time.
    const refused = await eventually(async () => {
      const answer = await watch(sockets[5], users(5));
      return answer.error !== 'Too many requests' && answer;
    }, { interval: 200, what: 'an answer about the number of users' });
    assert.deepEqual(refused, { success: false, error: 'Too many subscriptions (max 2000 of all your devices)' });
    assert.ok((await counter(gateway, 'muster_rate_limited_total', 'limit="watched_per_user"')) >= 1);
    // None of the refused ones is watched, and users that are watched already cost no slot.
    for (const ws of sockets.slice(5)) assert.equal((await watch(ws, [celebrity])).subscribed, 1);
    const [star] = await socketsOf(t, gateway, celebrity, 1, { namespace: '/' });
    await Promise.all(sockets.slice(4).map((ws) => receivesStatus(ws, celebrity, 'online')));
    for (const ws of sockets.slice(4, 7)) ws.destroy();
    assert.equal((await ask(star, 'presence:setStatus', { status: 'busy' })).status, 'busy');
    await receivesStatus(sockets[7], celebrity, 'busy');
    // The slots of users that only the destroyed sockets watched are free again.
    await eventually(async () => (await watch(sockets[7], users(7).slice(0, 300))).subscribed === 301, { interval: 200, timeout: 15_000, what: 'the places of closed sockets to be free' });
  });
});

describe('questions of clients', () => {
  const site = underAttack();

  row(site, 'all sockets of a user have 64 open questions, and others have theirs', async (gateway, t) => {
    const room = unique('silent');
    const silent = await joined(t, gateway);
    assert.equal((await ask(silent, 'join', { room })).success, true);
    const sockets = await socketsOf(t, gateway, unique('asker'), 8);
    const question = { room, event: 'e', ack: 3_000, self: false };
    const answers = await volleys(sockets, 20, 'publish', question);
    assert.equal(like(answers, TOO_MANY_QUESTIONS), 160 - 64);
    assert.equal(like(answers, { success: true, receivers: 1, missing: 1, answers: [] }), 64);
    const [other] = await socketsOf(t, gateway, unique('other'), 1);
    assert.equal((await ask(other, 'publish', { ...question, ack: 50 })).receivers, 1);
  });
});

describe('calls and messages of care', () => {
  const site = underAttack();

  row(site, 'a victim is rung three times by one caller, and not sixty times a second', async (gateway, t) => {
    const [caller] = await socketsOf(t, gateway, unique('caller'), 1, { namespace: '/' });
    const victim = unique('victim');
    const outcomes = [];
    for (let n = 0; n < 12; n += 1) {
      const begun = await ask(caller, 'call:initiate', { recipientId: victim });
      outcomes.push(begun.success ? 'rang' : begun.error);
      if (begun.success) assert.equal((await ask(caller, 'call:end', { callId: begun.callId })).success, true);
    }
    assert.equal(like(outcomes, 'rang'), 3);
    assert.equal(like(outcomes, 'Too many calls, try again later'), 9);
    // Users whom they have not called yet can still be called.
    assert.equal((await ask(caller, 'call:initiate', { recipientId: unique('friend') })).success, true);
  });

  row(site, 'a user sends a hundred messages at once, by however many sockets', async (gateway, t) => {
    const sockets = await socketsOf(t, gateway, unique('writer'), 4, { namespace: '/' });
    const recipientId = unique('reader');
    const answers = await volleys(sockets, 50, 'message:send', { recipientId, message: 'hello' });
    const sent = answers.filter(({ success }) => success).length;
    const refused = like(answers, { success: false, error: 'Too many requests' });
    assert.equal(sent + refused, 200);
    assert.ok(sent >= 100 && refused >= 10, `${sent} were sent`);
  });
});

for (const [name, size] of [['one node', 1], ['two nodes', 2]]) {
  describe(`the members of a room of care, on ${name}`, () => {
    let cluster;
    before(async () => { cluster = await startCluster(size); });
    after(() => cluster?.stop());

    test('a join returns the first page and the number of all members, and further pages list all of them', { timeout: 60_000 }, async (t) => {
      const roomId = `topic:${unique('hall')}`;
      const prefix = unique('guest');
      const name = (at) => `${prefix}-${String(at).padStart(3, '0')}`;
      const at = (n) => cluster.nodes[n % size];
      // A user with many devices does not fill the page.
      const guests = await bounded(130, 20, async (n) => {
        const sub = name(n < 120 ? n : 0);
        const ws = await joined(t, at(n), { namespace: '/', claims: { sub, name: sub } });
        const answer = await ask(ws, 'room:join', { roomId }, { timeout: 10_000 });
        assert.equal(answer.success, true);
        assert.ok(answer.participants.length <= 100);
        assert.ok(answer.participants.some(({ userId }) => userId === sub), 'the caller is among them');
        return ws;
      });
      const late = await joined(t, at(0), { namespace: '/', claims: { sub: name(120) } });
      const first = await ask(late, 'room:join', { roomId });
      assert.equal(first.count, 121);
      assert.equal(first.hasMore, true);
      assert.equal(first.participants.length, 100);
      assert.equal(new Set(first.participants.map(({ userId }) => userId)).size, 100);
      const found = [];
      let after;
      for (let more = true; more;) {
        const page = await ask(late, 'room:participants', { roomId, after, limit: 50 });
        assert.equal(page.count, 121);
        found.push(...page.participants.map(({ userId }) => userId));
        [after, more] = [found.at(-1), page.hasMore];
      }
      assert.deepEqual(found, Array.from({ length: 121 }, (_, n) => name(n)));
      const stranger = await joined(t, at(1), { namespace: '/' });
      assert.deepEqual(await ask(stranger, 'room:participants', { roomId }), { success: false, error: 'You must join the room first' });
      for (const ws of guests.slice(60)) assert.equal((await ask(ws, 'room:leave', { roomId })).success, true);
      const again = await ask(late, 'room:join', { roomId });
      assert.deepEqual([again.count, again.hasMore, again.participants.length], [61, false, 61]);
    });

    test('members of the relay are listed in pages', { timeout: 60_000 }, async (t) => {
      const room = unique('lobby');
      const sockets = await bounded(7, 7, (n) => joined(t, cluster.nodes[n % size], { claims: { sub: `lobby-${n % 3}` } }));
      for (const ws of sockets) assert.equal((await ask(ws, 'join', { room })).success, true);
      const found = [];
      let after;
      for (let more = true; more;) {
        const page = await ask(sockets[0], 'members', { room, after, limit: 3 });
        assert.deepEqual([page.count, page.users], [7, 3]);
        found.push(...page.members.map(({ socketId }) => socketId));
        [after, more] = [found.at(-1), page.hasMore];
      }
      assert.deepEqual(found, sockets.map(({ id }) => id).sort());
      const { body } = await internal(cluster.nodes[0], 'GET', `/internal/rooms/${room}/count?namespace=/relay`);
      assert.equal(body.data.count, 7);
    });
  });
}
