// Care's presence and notifications: one user, many devices, many nodes, and the events about them.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { ISO, SITES, UUID_V7, device, hasStatus, must, presence, quiet, refusal } from './support/care.mjs';
import { ask, bounded, unique } from './support/clients.mjs';
import { LEASE_MS, internal, startCluster } from './support/cluster.mjs';
import { delay } from './support/wait.mjs';

/** The grace period of lost users: short, but long enough to reconnect on a loaded machine. */
const GRACE_MS = 3_000;
const AWAY_MS = 2_000;
/** Time for the grace period to pass and for the nodes to act, on a loaded machine. */
const GONE_MS = GRACE_MS + 20_000;

/** The statuses of a user that a device has received and not taken, in order. */
const statuses = ({ events }, user) => events.seen('presence:changed', ({ userId }) => userId === user).map(([{ status }]) => status);

/** The next presence change of a user that a device receives. */
const change = ({ events }, user, { timeout } = {}) => events.take('presence:changed', ({ userId }) => userId === user, { timeout });

/** Subscribes to users, and returns their current presence. */
const watch = async (watcher, ...userIds) => (await must(watcher, 'presence:subscribe', { userIds })).presences;

/** Waits until users are online and no event about it is pending, so that later events are new. */
async function arrived(nodes, watcher, ...users) {
  for (const user of users) await hasStatus(watcher, user, 'online');
  await quiet(nodes, watcher);
}

describe('presence on two nodes', { concurrency: 4 }, () => {
  let cluster;
  let nodes;
  before(async () => {
    cluster = await startCluster(2, { env: { PRESENCE_GRACE: `${GRACE_MS}ms` } });
    nodes = [...cluster.nodes];
  });
  after(() => cluster?.stop());

  test('a user is online with the first device and offline after the last one is gone', { timeout: 90_000 }, async () => {
    const watcher = await device(nodes[0]);
    const user = unique('user');
    assert.deepEqual(await watch(watcher, user), [{ userId: user, status: 'offline', customStatus: null, lastSeen: null }]);
    const phone = await device(nodes[1], { user });
    const online = await change(watcher, user);
    assert.deepEqual(Object.keys(online).sort(), ['customStatus', 'lastSeen', 'status', 'userId']);
    assert.deepEqual([online.status, online.customStatus], ['online', null]);
    const desk = await device(nodes[0], { user });
    phone.socket.disconnect();
    // Keeps one of two devices disconnected for longer than the grace period.
    await delay(GRACE_MS * 1.5);
    await quiet(nodes, watcher);
    assert.deepEqual(statuses(watcher, user), []);
    assert.equal((await presence(watcher, user)).status, 'online');
    desk.socket.io.engine.close();
    const offline = await change(watcher, user, { timeout: GONE_MS });
    assert.equal(offline.status, 'offline');
    assert.match(offline.lastSeen, ISO);
    for (const node of nodes) {
      const asked = await presence(await device(node), user);
      assert.equal(asked.status, 'offline');
      assert.match(asked.lastSeen, ISO);
    }
    assert.deepEqual(statuses(watcher, user), [], 'each change is sent once');
  });

  test('a user who reconnects within the grace period, on any node, was never offline', { timeout: 90_000 }, async () => {
    const watcher = await device(nodes[0]);
    let here = await device(nodes[0]);
    await arrived(nodes, watcher, here.user);
    await watch(watcher, here.user);
    for (let round = 1; round <= 6; round += 1) {
      if (round % 2) here.socket.io.engine.close();
      else here.socket.disconnect();
      here = await device(nodes[round % 2], { user: here.user });
    }
    // No leave that was held back may come now.
    await delay(GRACE_MS * 1.5);
    await quiet(nodes, watcher);
    assert.deepEqual(statuses(watcher, here.user), []);
    assert.equal((await presence(watcher, here.user)).status, 'online');
  });

  test('a status belongs to the user, not the device, and subscribers receive it', { timeout: 60_000 }, async () => {
    const [watcher, bystander] = [await device(nodes[0]), await device(nodes[1])];
    const phone = await device(nodes[1]);
    const desk = await device(nodes[0], { user: phone.user });
    await arrived(nodes, watcher, phone.user);
    await watch(watcher, phone.user);
    const steps = [[phone, 'busy', 'In a meeting'], [desk, 'away', null], [phone, 'online', 'back']];
    for (const [from, status, customStatus] of steps) {
      const given = customStatus === null ? { status } : { status, customStatus };
      assert.deepEqual(await must(from, 'presence:setStatus', given), { success: true, status });
      const received = await change(watcher, phone.user);
      assert.deepEqual([received.status, received.customStatus], [status, customStatus]);
      await hasStatus(bystander, phone.user, status);
    }
    for (const given of [{ status: 'offline' }, { status: 'in_call' }, { status: 'asleep' }, { status: 7 }, {}, null, { status: 'busy', customStatus: 7 }]) await refusal(phone, 'presence:setStatus', given);
    await quiet(nodes, watcher, bystander);
    assert.deepEqual(statuses(watcher, phone.user), []);
    assert.deepEqual(statuses(bystander, phone.user), [], 'a client without a subscription receives nothing');
  });

  test('it may be set without an ack, and requested for many users at once', { timeout: 60_000 }, async () => {
    const [asker, busy] = [await device(nodes[0]), await device(nodes[1])];
    const nobody = unique('nobody');
    busy.socket.emit('presence:setStatus', { status: 'busy', customStatus: 'x' });
    await hasStatus(asker, busy.user, 'busy');
    const { presences } = await must(asker, 'presence:get', { userIds: [asker.user, busy.user, nobody] });
    const listed = presences.map(({ userId, status, customStatus }) => [userId, status, customStatus]).sort();
    assert.deepEqual(listed, [[asker.user, 'online', null], [busy.user, 'busy', 'x'], [nobody, 'offline', null]].sort());
  });

  test('both parties of a call are in_call until it is over', { timeout: 60_000 }, async () => {
    const [watcher, ann, bob] = [await device(nodes[0]), await device(nodes[0]), await device(nodes[1])];
    for (const { user } of [ann, bob]) await hasStatus(watcher, user, 'online');
    await watch(watcher, ann.user, bob.user);
    const { callId } = await must(ann, 'call:initiate', { recipientId: bob.user });
    await must(bob, 'call:accept', { callId });
    const changesTo = (user, status) => watcher.events.take('presence:changed', (seen) => seen.userId === user && seen.status === status);
    for (const { user } of [ann, bob]) {
      await changesTo(user, 'in_call');
      await hasStatus(watcher, user, 'in_call');
    }
    await must(bob, 'call:end', { callId });
    for (const { user } of [ann, bob]) {
      await changesTo(user, 'online');
      await hasStatus(watcher, user, 'online');
    }
  });

  test('clients can end some or all subscriptions', { timeout: 60_000 }, async () => {
    const watcher = await device(nodes[0]);
    const users = [await device(nodes[0]), await device(nodes[1]), await device(nodes[1])];
    await arrived(nodes, watcher, ...users.map(({ user }) => user));
    const { subscribed, presences } = await must(watcher, 'presence:subscribe', { userIds: users.map(({ user }) => user) });
    assert.deepEqual([subscribed, presences.length], [3, 3]);
    const expectStatus = async (status, ...of) => {
      for (const each of users) await must(each, 'presence:setStatus', { status });
      for (const { user } of of) assert.equal((await change(watcher, user)).status, status);
      await quiet(nodes, watcher);
      for (const { user } of users) assert.deepEqual(statuses(watcher, user), []);
    };
    const [one, two, three] = users;
    await expectStatus('busy', one, two, three);
    assert.deepEqual(await must(watcher, 'presence:unsubscribe', { userIds: [two.user] }), { success: true });
    await expectStatus('away', one, three);
    assert.deepEqual(await must(watcher, 'presence:unsubscribe', {}), { success: true });
    await expectStatus('online');
    for (const event of ['presence:subscribe', 'presence:get']) {
      for (const given of [{}, null, { userIds: 'x' }, { userIds: [7] }, { userIds: ['a\nb'] }]) await refusal(watcher, event, given);
    }
  });

  test('at most 500 users may be subscribed to, or requested at once', { timeout: 60_000 }, async () => {
    const watcher = await device(nodes[0]);
    const live = await device(nodes[1]);
    const many = Array.from({ length: 500 }, (_, n) => `many-${n}`);
    assert.equal((await must(watcher, 'presence:get', { userIds: many })).presences.length, 500);
    for (const event of ['presence:get', 'presence:subscribe']) await refusal(watcher, event, { userIds: [...many, 'one-more'] });
    assert.equal((await must(watcher, 'presence:subscribe', { userIds: many.slice(0, 300) })).subscribed, 300);
    assert.equal((await must(watcher, 'presence:subscribe', { userIds: many })).subscribed, 500, 'a user who is already subscribed to counts once');
    await refusal(watcher, 'presence:subscribe', { userIds: [live.user] });
    await must(watcher, 'presence:unsubscribe', { userIds: [many[0]] });
    await watch(watcher, live.user);
    await must(live, 'presence:setStatus', { status: 'busy' });
    await watcher.events.take('presence:changed', ({ userId, status }) => userId === live.user && status === 'busy');
  });

  test('the users of a dead node go offline, except those with a device on another node', { timeout: 120_000 }, async () => {
    const doomed = await cluster.start();
    const watcher = await device(nodes[0]);
    const [lost, both] = [await device(doomed), await device(doomed)];
    const other = await device(nodes[1], { user: both.user });
    await arrived([...nodes, doomed], watcher, lost.user, both.user);
    await watch(watcher, lost.user, both.user);
    await doomed.kill();
    assert.equal((await change(watcher, lost.user, { timeout: LEASE_MS + GONE_MS })).status, 'offline');
    await hasStatus(other, lost.user, 'offline');
    await quiet(nodes, watcher);
    assert.deepEqual([statuses(watcher, lost.user), statuses(watcher, both.user)], [[], []]);
    assert.equal((await presence(watcher, both.user)).status, 'online');
  });
});

describe('inactive users are away', { concurrency: 4 }, () => {
  let cluster;
  let nodes;
  before(async () => {
    cluster = await startCluster(2, { env: { PRESENCE_AWAY: `${AWAY_MS}ms` } });
    nodes = [...cluster.nodes];
  });
  after(() => cluster?.stop());

  test('after a while, and back with the first activity', { timeout: 90_000 }, async () => {
    const watcher = await device(nodes[0]);
    const user = unique('idle');
    await watch(watcher, user);
    const idle = await device(nodes[1], { user });
    assert.equal((await change(watcher, user)).status, 'online');
    assert.equal((await change(watcher, user, { timeout: AWAY_MS + 20_000 })).status, 'away');
    await must(idle, 'presence:get', { userIds: [user] });
    assert.equal((await change(watcher, user)).status, 'online');
  });

  test('but not while one of two devices is active', { timeout: 90_000 }, async () => {
    const watcher = await device(nodes[0]);
    const user = unique('active');
    await watch(watcher, user);
    const [active, idle] = [await device(nodes[0], { user }), await device(nodes[1], { user })];
    assert.equal((await change(watcher, user)).status, 'online');
    const start = performance.now();
    // Stays active for longer than the idle time, many times within each idle period.
    while (performance.now() - start < AWAY_MS * 3) {
      await must(active, 'presence:get', { userIds: [user] });
      await delay(AWAY_MS / 20);
    }
    await quiet(nodes, watcher);
    assert.deepEqual(statuses(watcher, user), []);
    assert.ok(idle.socket.connected);
  });

  test('a busy user stays busy', { timeout: 90_000 }, async () => {
    const watcher = await device(nodes[0]);
    const busy = await device(nodes[1]);
    await must(busy, 'presence:setStatus', { status: 'busy' });
    await hasStatus(watcher, busy.user, 'busy');
    await watch(watcher, busy.user);
    // Waits longer than the idle time.
    await delay(AWAY_MS * 3);
    await quiet(nodes, watcher);
    assert.equal((await presence(watcher, busy.user)).status, 'busy');
  });
});

/** Posts a notification, and returns it. */
async function notify(node, userId, given = {}, headers = {}) {
  const { status, body } = await internal(node, 'POST', '/internal/notifications', { userId, title: 'Visit', message: 'starts soon', ...given }, headers);
  assert.equal(body.success, true, JSON.stringify(body));
  assert.equal(status, 201);
  return body.data;
}

for (const { name, start } of SITES) {
  describe(`notifications on ${name}`, { concurrency: 4 }, () => {
    let site;
    let nodes;
    before(async () => {
      site = await start();
      nodes = site.nodes;
    });
    after(() => site?.stop());

    test('are stored and reach every device of their user, and no other user', { timeout: 60_000 }, async () => {
      const [phone, other] = [await device(nodes[0]), await device(nodes[0])];
      const desk = await device(nodes[1], { user: phone.user });
      const made = await notify(nodes[0], phone.user, { type: 'visit', data: { visitId: 'v', n: [1, null] } });
      const { id, createdAt, ...rest } = made;
      assert.match(id, UUID_V7);
      assert.match(createdAt, ISO);
      assert.deepEqual(rest, { userId: phone.user, title: 'Visit', message: 'starts soon', type: 'visit', data: { visitId: 'v', n: [1, null] }, read: false });
      for (const { events } of [phone, desk]) assert.deepEqual(await events.take('notification:new'), made);
      const list = await must(desk, 'notification:list', {});
      assert.deepEqual(list, { success: true, notifications: [made], hasMore: false, unreadCount: 1 });
      await quiet(nodes, phone, desk, other);
      for (const { events } of [phone, desk, other]) assert.deepEqual(events.seen('notification:new'), []);
      assert.equal((await must(other, 'notification:getUnreadCount')).unreadCount, 0);
    });

    test('of a disconnected user are found later', { timeout: 60_000 }, async () => {
      const user = unique('later');
      const made = [await notify(nodes[0], user), await notify(nodes[1], user, { title: 'Second' })];
      const late = await device(nodes[1], { user });
      const { notifications, unreadCount } = await must(late, 'notification:list', {});
      assert.deepEqual([notifications, unreadCount], [[made[1], made[0]], 2]);
    });

    test('can be read one by one or all at once, and are counted on every device', { timeout: 60_000 }, async () => {
      const phone = await device(nodes[0]);
      const desk = await device(nodes[1], { user: phone.user });
      const eve = await device(nodes[1]);
      const made = [];
      for (let n = 0; n < 4; n += 1) made.push(await notify(nodes[n % 2], phone.user));
      const [{ id }] = made;
      for (const each of [phone, desk]) assert.deepEqual(await must(each, 'notification:read', { notificationId: id }), { success: true, unreadCount: 3 });
      await refusal(eve, 'notification:read', { notificationId: made[1].id });
      for (const given of [{}, null, { notificationId: 7 }, { notificationId: 'a\nb' }, { notificationId: unique('none') }]) await refusal(phone, 'notification:read', given);
      assert.deepEqual(await must(desk, 'notification:getUnreadCount', {}), { success: true, unreadCount: 3 });
      assert.deepEqual(await must(desk, 'notification:readAll', {}), { success: true, unreadCount: 0, updated: 3 });
      assert.deepEqual(await ask(phone.socket, 'notification:readAll'), { success: true, unreadCount: 0, updated: 0 });
      const { notifications, unreadCount } = await must(phone, 'notification:list', {});
      assert.deepEqual([notifications.map(({ read }) => read), unreadCount], [[true, true, true, true], 0]);
    });

    test('are listed in pages, newest first, optionally unread ones only', { timeout: 60_000 }, async () => {
      const user = await device(nodes[1]);
      const ids = [];
      for (let n = 0; n < 12; n += 1) ids.unshift((await notify(nodes[n % 2], user.user, { title: `n${n}` })).id);
      const list = async (given) => {
        const { notifications, hasMore } = await must(user, 'notification:list', given);
        return [notifications.map(({ id }) => id), hasMore];
      };
      assert.deepEqual(await list({ limit: 5 }), [ids.slice(0, 5), true]);
      assert.deepEqual(await list({ limit: 5, before: ids[4] }), [ids.slice(5, 10), true]);
      assert.deepEqual(await list({ limit: 5, before: ids[9] }), [ids.slice(10), false]);
      for (const notificationId of [ids[0], ids[6]]) await must(user, 'notification:read', { notificationId });
      assert.deepEqual(await list({ unreadOnly: true, limit: 6 }), [[1, 2, 3, 4, 5, 7].map((n) => ids[n]), true]);
      assert.deepEqual(await list({ unreadOnly: true, before: ids[7] }), [ids.slice(8), false]);
      for (const given of [{ before: 7 }, { limit: 'all' }, { unreadOnly: 'yes' }]) await refusal(user, 'notification:list', given);
    });

    test('the unread count stays correct when many are created and read at once', { timeout: 60_000 }, async () => {
      const phone = await device(nodes[0]);
      const desk = await device(nodes[1], { user: phone.user });
      const made = await bounded(24, 8, (n) => notify(nodes[n % 2], phone.user, { title: `n${n}` }));
      await bounded(20, 10, (n) => must(n % 2 ? phone : desk, 'notification:read', { notificationId: made[n % 10].id }));
      for (const each of [phone, desk]) {
        const { notifications, unreadCount } = await must(each, 'notification:list', { unreadOnly: true, limit: 100 });
        assert.deepEqual(notifications.map(({ id }) => id).sort(), made.slice(10).map(({ id }) => id).sort());
        assert.equal(unreadCount, 14);
        assert.equal((await must(each, 'notification:getUnreadCount')).unreadCount, 14);
      }
      assert.equal((await phone.events.count('notification:new', 24)).length, 24);
    });

    test('posting again with the same Idempotency-Key returns the first one and sends no event', { timeout: 60_000 }, async () => {
      const user = await device(nodes[0]);
      const body = { userId: user.user, title: 'Once', message: 'x' };
      const headers = { 'Idempotency-Key': unique('key') };
      const answers = await Promise.all([0, 1, 0, 1].map((at) => internal(nodes[at], 'POST', '/internal/notifications', body, headers)));
      answers.push(await internal(nodes[1], 'POST', '/internal/notifications', body, headers));
      const kept = answers.filter(({ body: { success } }) => success);
      for (const { status } of kept) assert.ok([200, 201].includes(status), `${status}`);
      assert.equal(kept.length, answers.length, JSON.stringify(answers));
      assert.equal(new Set(kept.map(({ body: { data } }) => data.id)).size, 1);
      const { notifications, unreadCount } = await must(user, 'notification:list', {});
      assert.deepEqual([notifications.length, unreadCount], [1, 1]);
      const other = await internal(nodes[0], 'POST', '/internal/notifications', { ...body, message: 'another' }, headers);
      assert.equal(other.status, 422, 'the key was used for something else');
      await quiet(nodes, user);
      assert.equal(user.events.seen('notification:new').length, 1);
    });

    test('only backends may post them, and only well-formed ones', { timeout: 60_000 }, async () => {
      const good = { userId: 'u', title: 't', message: 'm' };
      for (const bad of [{}, [], { ...good, userId: undefined }, { ...good, userId: 'a\nb' }, { ...good, title: undefined }, { ...good, title: 7 }, { ...good, message: null }, { ...good, type: 7 }]) {
        const { status, body } = await internal(nodes[0], 'POST', '/internal/notifications', bad);
        assert.deepEqual([status, body.success], [400, false], JSON.stringify(bad));
      }
      const post = (url, headers) => fetch(`${url}/internal/notifications`, { method: 'POST', headers: { 'Content-Type': 'application/json', ...headers }, body: JSON.stringify(good) });
      assert.equal((await post(nodes[0].internalUrl, {})).status, 403);
      assert.equal((await post(nodes[0].url, { 'X-Internal-Request': 'true' })).status, 404);
    });
  });
}

describe('presence on one node, embedded', () => {
  let site;
  before(async () => { site = await SITES[0].start({ PRESENCE_GRACE: `${GRACE_MS}ms` }); });
  after(() => site?.stop());

  test('works as in a cluster', { timeout: 60_000 }, async () => {
    const [node] = site.nodes;
    const watcher = await device(node);
    const user = unique('user');
    await watch(watcher, user);
    const phone = await device(node, { user });
    assert.equal((await change(watcher, user)).status, 'online');
    phone.socket.disconnect();
    assert.equal((await change(watcher, user, { timeout: GONE_MS })).status, 'offline');
  });
});
