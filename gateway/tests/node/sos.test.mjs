// SOS participants: documents 000 and 001, on one node and on two.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';

import { ask, keeper, unique } from './support/clients.mjs';
import { internal, startCluster } from './support/cluster.mjs';
import { startGateway } from './support/gateway.mjs';
import { startPostgres } from './support/postgres.mjs';
import { eventually, once, record } from './support/wait.mjs';

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;

/** Starts `nodes` with clients, and stops them. */
const SITES = [
  {
    name: 'one node, embedded',
    async start() {
      const node = await startGateway();
      node.clients = keeper(node);
      return { nodes: [node, node], stop: async () => { node.clients.closeAll(); await node.kill(); } };
    },
  },
  {
    name: 'two nodes on PostgreSQL',
    async start() {
      const postgres = await startPostgres();
      const cluster = await startCluster(2, { env: { DATABASE_URL: postgres.url } });
      return { nodes: cluster.nodes, stop: async () => { await cluster.stop(); await postgres.kill(); } };
    },
  },
];

for (const site of SITES) {
  describe(`sos on ${site.name}`, () => {
    let nodes;
    let stop;
    before(async () => ({ nodes, stop } = await site.start()));
    after(() => stop?.());

    const token = (claims) => nodes[0].token({ actor: { type: 'USER' }, ...claims });
    /** Sends a request to the citizens' API of a node: `{status, body}`. */
    const api = async (at, method, path, claims, body) => {
      const response = await fetch(`${nodes[at].url}/api/sos${path}`, {
        method,
        headers: { ...(claims ? { Authorization: `Bearer ${token(claims)}` } : {}), ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
      return { status: response.status, body: await response.json() };
    };
    const client = (at, claims) => nodes[at].clients.connect({ claims });

    test('joining: the record, the sockets on every node, the event; again: the same record and no event', async () => {
      const sosId = randomBytes(12).toString('hex');
      const sub = unique('john');
      const [here, there, watcher] = await Promise.all([client(0, { sub }), client(1, { sub }), client(1, { sub: unique('watcher') })]);
      const watching = watcher.io.opts.auth;
      assert.ok(watching);
      const joined = [here, there].map((socket) => once(socket, 'participant:joined'));
      const { status, body } = await api(0, 'POST', `/${sosId}/participants/join`, { sub, role: 'rescuer', name: 'John Rescue' }, {});
      assert.equal(status, 201);
      assert.equal(body.success, true);
      assert.match(body.timestamp, ISO);
      const { id, joinedAt, ...rest } = body.data;
      assert.match(joinedAt, ISO);
      assert.deepEqual(rest, { sosId, userId: sub, userType: 'rescuer', status: 'ACTIVE', leftAt: null, actorType: 'USER' });
      const eventIds = new Set();
      for (const event of joined) {
        const [{ timestamp, eventId, ...received }] = await event;
        eventIds.add(eventId);
        assert.deepEqual(received, { sosId, userId: sub, userType: 'rescuer', displayName: 'John Rescue', joinedAt });
        assert.equal(typeof timestamp, 'number');
      }
      assert.equal(eventIds.size, 1, 'one id on every node');
      assert.match([...eventIds][0], /^[0-9a-f-]{36}$/);
      const recorded = record(here);
      const again = await api(1, 'POST', `/${sosId}/participants/join`, { sub, role: 'rescuer' }, { userType: 'citizen' });
      assert.deepEqual([again.status, again.body.data.id], [200, id]);
      const later = await client(1, { sub });
      await eventually(async () => (await internal(nodes[0], 'GET', `/internal/participants/${sosId}/count`)).body.data.count === 3, { what: 'a later socket to be in the room' });
      const active = await internal(nodes[1], 'GET', `/internal/participants/${sosId}/active`);
      assert.equal(active.status, 200);
      assert.equal(active.body.data.count, 3);
      assert.deepEqual(active.body.data.participants.map(({ socketId }) => socketId).sort(), [here.id, there.id, later.id].sort());
      for (const participant of active.body.data.participants) {
        assert.deepEqual(Object.keys(participant).sort(), ['connectedAt', 'displayName', 'socketId', 'userId', 'userType']);
        assert.deepEqual([participant.userId, participant.userType], [sub, 'rescuer']);
      }
      const located = once(there, 'participant:location');
      assert.deepEqual(await ask(here, 'sos:location', { sosId, latitude: 48.85, longitude: 2.35 }), { success: true });
      const [{ timestamp, ...location }] = await located;
      assert.deepEqual(location, { sosId, userId: sub, latitude: 48.85, longitude: 2.35 });
      assert.deepEqual(recorded.seen('participant:joined'), []);
      assert.equal((await ask(watcher, 'sos:location', { sosId, latitude: 1, longitude: 1 })).success, false);
      assert.equal((await ask(here, 'sos:location', { sosId, latitude: 91, longitude: 1 })).success, false);
    });

    test('leaving: announced to the room, then the user\'s sockets in it are disconnected; rejoining makes a new record', async () => {
      const sosId = unique('sos');
      const [sub, other] = [unique('leaver'), unique('other')];
      const sockets = await Promise.all([client(0, { sub }), client(1, { sub })]);
      const stays = await client(1, { sub: other });
      for (const user of [sub, other]) assert.equal((await api(0, 'POST', `/${sosId}/participants/join`, { sub: user }, {})).status, 201);
      const gone = sockets.map((socket) => {
        const order = [];
        socket.on('participant:left', () => order.push('left'));
        return new Promise((resolve) => socket.on('disconnect', (reason) => resolve([...order, reason])));
      });
      const left = once(stays, 'participant:left');
      assert.equal((await api(1, 'PATCH', `/${sosId}/participants/${sub}/leave`, { sub: other })).status, 403);
      const { status, body } = await api(1, 'PATCH', `/${sosId}/participants/${sub}/leave`, { sub });
      assert.deepEqual([status, body.success, body.message], [200, true, 'Participant left SOS']);
      const [{ timestamp, leftAt, eventId, ...received }] = await left;
      assert.deepEqual(received, { sosId, userId: sub });
      assert.match(eventId, /^[0-9a-f-]{36}$/);
      assert.match(leftAt, ISO);
      for (const socket of gone) assert.deepEqual(await socket, ['left', 'io server disconnect']);
      assert.deepEqual((await api(0, 'PATCH', `/${sosId}/participants/${sub}/leave`, { sub })).body, { success: false, error: 'Participant not found' });
      assert.equal((await api(0, 'PATCH', `/${sosId}/participants/nobody/leave`, { sub: 'boss', role: 'admin' })).status, 404);

      const check = async () => (await api(0, 'GET', `/${sosId}/participants/${sub}/check`, { sub })).body.data;
      assert.deepEqual(await check(), { isActive: false });
      assert.equal((await api(0, 'POST', `/${sosId}/participants/join`, { sub }, { userType: 'rescuer' })).status, 201);
      assert.deepEqual(await check(), { isActive: true });
      const history = (await api(1, 'GET', `/${sosId}/participants/history`, { sub })).body;
      assert.deepEqual(history.data.filter(({ userId }) => userId === sub).map(({ status: state, userType }) => [state, userType]), [['ACTIVE', 'rescuer'], ['INACTIVE', 'citizen']]);
      assert.equal(history.count, 3);
      const active = (await api(1, 'GET', `/${sosId}/participants/active`, { sub: other })).body;
      assert.deepEqual(active.data.map(({ userId }) => userId).sort(), [sub, other].sort());
      const page = (await api(1, 'GET', `/${sosId}/participants/history?limit=1&before=${history.data[0].id}`, { sub })).body;
      assert.deepEqual(page.data, [history.data[1]]);
      const mine = (await api(0, 'GET', `/${sosId}/participants/user/${sub}/history`, { sub })).body;
      assert.equal(mine.count, 2);
      const stranger = { sub: unique('stranger') };
      for (const path of ['active', 'history', `${sub}/check`, `user/${sub}/history`]) {
        assert.equal((await api(0, 'GET', `/${sosId}/participants/${path}`, stranger)).status, 403, path);
        assert.equal((await api(0, 'GET', `/${sosId}/participants/${path}`, { ...stranger, role: 'rescuer' })).status, 200, path);
        assert.equal((await api(0, 'GET', `/${sosId}/participants/${path}`)).status, 401, path);
      }
    });

    test('the raiser joins a raised incident, and it is found nearby', async () => {
      const sub = unique('citizen');
      const socket = await client(1, { sub });
      const joined = once(socket, 'participant:joined');
      const { status, body } = await api(0, 'POST', '', { sub }, { latitude: 45.0, longitude: 7.0, description: 'help' });
      assert.equal(status, 201);
      assert.equal((await joined)[0].sosId, body.data.id);
      const farther = (await api(0, 'POST', '', { sub }, { latitude: 45.02, longitude: 7.0 })).body.data.id;
      assert.equal((await api(0, 'POST', '', { sub })).status, 201, 'the body may be left out');
      const near = (await api(1, 'GET', '/nearby?latitude=45.001&longitude=7.0', { sub: 'r', role: 'rescuer' })).body;
      assert.deepEqual(near.data.map(({ id }) => id), [body.data.id, farther]);
      assert.ok(Math.abs(near.data[0].distance - 111) < 2 && Math.abs(near.data[1].distance - 2113) < 10, JSON.stringify(near.data));
      const close = (await api(1, 'GET', '/nearby?latitude=45.001&longitude=7.0&radius=500', { sub: 'r' })).body;
      assert.equal(close.count, 1);
    });

    test('the internal API runs the same operations', async () => {
      const sosId = randomBytes(12).toString('hex');
      const userId = randomBytes(12).toString('hex');
      const socket = await client(0, { sub: userId });
      const joined = once(socket, 'participant:joined');
      const { status, body } = await internal(nodes[1], 'POST', '/internal/participants/joined', { sosId, userId, userType: 'rescuer', displayName: 'John Rescue', joinedAt: '2026-01-07T10:30:00Z' });
      assert.equal(status, 200);
      assert.deepEqual(body, { success: true, message: 'Participant joined event broadcasted', data: { sosId, userId, userType: 'rescuer', roomName: `sos:${sosId}` } });
      const [{ timestamp, joinedAt, eventId, ...event }] = await joined;
      assert.ok(eventId);
      assert.deepEqual(event, { sosId, userId, userType: 'rescuer', displayName: 'John Rescue' });
      assert.equal(new Date(joinedAt).getTime(), Date.UTC(2026, 0, 7, 10, 30));
      assert.equal((await api(0, 'GET', `/${sosId}/participants/${userId}/check`, { sub: userId })).body.data.isActive, true);
      const count = (await internal(nodes[0], 'GET', `/internal/participants/${sosId}/count`)).body;
      assert.deepEqual([count.success, count.data.sosId, count.data.count, count.data.users], [true, sosId, 1, 1]);
      const gone = once(socket, 'disconnect');
      const left = await internal(nodes[0], 'POST', '/internal/participants/left', { sosId, userId, leftAt: '2026-01-07T10:35:00Z' });
      assert.deepEqual(left.body, { success: true, message: 'Participant left event broadcasted', data: { sosId, userId, roomName: `sos:${sosId}` } });
      assert.deepEqual(await gone.then(([reason]) => reason), 'io server disconnect');
      const empty = (await internal(nodes[1], 'GET', `/internal/participants/${sosId}/active`)).body.data;
      await eventually(async () => (await internal(nodes[1], 'GET', `/internal/participants/${sosId}/count`)).body.data.count === 0, { what: 'the room to be empty' });
      assert.ok(Array.isArray(empty.participants));
      assert.equal((await internal(nodes[0], 'POST', '/internal/participants/left', { sosId, userId })).status, 404);
    });

    test('bad input is refused', async () => {
      const sosId = unique('sos');
      const sub = 'u1';
      const join = (body, id = sosId) => api(0, 'POST', `/${id}/participants/join`, { sub }, body);
      for (const [body, id] of [[{ userType: 'doctor' }], [{ userType: 7 }], [{}, 'a%0Ab'], [{}, '%E2%80%8B'], [{}, 'x'.repeat(129)]]) assert.equal((await join(body, id)).status, 400, JSON.stringify([body, id]));
      for (const path of ['/nearby', '/nearby?latitude=91&longitude=0', '/nearby?latitude=x&longitude=0', '/nearby?latitude=0&longitude=0&radius=-1']) assert.equal((await api(0, 'GET', path, { sub })).status, 400, path);
      for (const body of [{ latitude: 1 }, { latitude: 91, longitude: 0 }, { description: 'x'.repeat(2_001) }, { description: 'a\0' }]) assert.equal((await api(0, 'POST', '', { sub }, body)).status, 400, JSON.stringify(body));
      for (const query of ['limit=abc', 'before=nonsense', 'before=%00']) assert.equal((await api(0, 'GET', `/${sosId}/participants/user/${sub}/history?${query}`, { sub })).status, 400, query);
      for (const query of ['limit=-1', 'limit=0', 'limit=1000000000', 'before=9999-01-01T00:00:00Z', `before=${encodeURIComponent("2026' OR 1=1 --")}`.slice(0, 0)]) assert.equal((await api(0, 'GET', `/${sosId}/participants/user/${sub}/history?${query}`, { sub })).status, 200, query);
      assert.equal((await api(0, 'POST', '', undefined, {})).body.error, 'Unauthorized - User ID required');
      for (const body of [{}, { sosId }, { sosId, userId: 'u', userType: 'x' }, { sosId: 'a\nb', userId: 'u', userType: 'citizen' }, { sosId, userId: 'u', userType: 'citizen', joinedAt: 'soon' }]) {
        assert.equal((await internal(nodes[0], 'POST', '/internal/participants/joined', body)).status, 400, JSON.stringify(body));
      }
      const refused = await fetch(`${nodes[0].internalUrl}/internal/participants/${sosId}/count`);
      assert.equal(refused.status, 403);
      assert.equal((await fetch(`${nodes[0].url}/internal/participants/${sosId}/count`, { headers: { 'X-Internal-Request': 'true' } })).status, 404);
      const nobody = (await internal(nodes[0], 'GET', `/internal/participants/${sosId}/active`)).body.data;
      assert.deepEqual([nobody.participants, nobody.count], [[], 0]);
    });
  });
}

describe('sos while Redis is away', () => {
  let cluster;
  before(async () => { cluster = await startCluster(2); });
  after(() => cluster?.stop());

  test('sockets of users who join or leave meanwhile are moved when it is back', { timeout: 120_000 }, async () => {
    const sosId = unique('sos');
    const [stays, leaves, joins] = ['stays', 'leaves', 'joins'].map(unique);
    const call = (what, userId) => internal(cluster.nodes[0], 'POST', `/internal/participants/${what}`, { sosId, userId, userType: 'citizen' });
    const sockets = await Promise.all([stays, leaves, joins].map((sub) => cluster.nodes[1].clients.connect({ claims: { sub } })));
    for (const user of [stays, leaves]) assert.equal((await call('joined', user)).status, 200);
    const here = async () => (await internal(cluster.nodes[1], 'GET', `/internal/participants/${sosId}/active`)).body.data?.participants.map(({ userId }) => userId).sort();
    assert.deepEqual(await here(), [stays, leaves].sort());
    await cluster.redis.kill();
    assert.equal((await call('joined', joins)).status, 200);
    assert.equal((await call('left', leaves)).status, 200);
    const gone = once(sockets[1], 'disconnect', { timeout: 30_000 });
    await cluster.redis.restart();
    assert.equal((await gone)[0], 'io server disconnect');
    await eventually(async () => JSON.stringify(await here()) === JSON.stringify([stays, joins].sort()), { timeout: 30_000, what: 'the new participant in the room' });
    const received = once(sockets[2], 'participant:joined', { timeout: 10_000 });
    assert.equal((await call('joined', unique('another'))).status, 200);
    assert.equal((await received)[0].sosId, sosId);
    assert.ok(sockets[0].connected && sockets[2].connected);
  });

  test('a join and a leave of one user at once, on two nodes, many times: the sockets match the record', { timeout: 120_000 }, async () => {
    for (let round = 0; round < 25; round += 1) {
      const [sosId, sub] = [unique('sos'), unique('restless')];
      const socket = await cluster.nodes[round % 2].clients.connect({ claims: { sub } });
      const body = { sosId, userId: sub, userType: 'citizen' };
      await internal(cluster.nodes[0], 'POST', '/internal/participants/joined', body);
      const answers = await Promise.all([
        internal(cluster.nodes[1], 'POST', '/internal/participants/left', body),
        internal(cluster.nodes[0], 'POST', '/internal/participants/joined', body),
      ]);
      assert.deepEqual(answers.map(({ status }) => status), [200, 200]);
      const admin = { Authorization: `Bearer ${cluster.nodes[0].token({ sub: 'boss', role: 'admin' })}` };
      const check = async () => (await (await fetch(`${cluster.nodes[0].url}/api/sos/${sosId}/participants/${sub}/check`, { headers: admin })).json()).data.isActive;
      const count = async () => (await internal(cluster.nodes[1], 'GET', `/internal/participants/${sosId}/count`)).body.data.count;
      // A participant's socket is in the room, unless the leave has disconnected it in between. No other socket is.
      await eventually(async () => (await count()) === ((await check()) && socket.connected ? 1 : 0), { what: 'room and record to agree' });
    }
  });

  test('times in the future are refused', async () => {
    const body = { sosId: unique('sos'), userId: 'u', userType: 'citizen', joinedAt: '9999-12-31T23:59:59Z', leftAt: '9999-12-31T23:59:59Z' };
    assert.deepEqual((await internal(cluster.nodes[0], 'POST', '/internal/participants/joined', body)).body, { success: false, error: 'Invalid joinedAt' });
    assert.deepEqual((await internal(cluster.nodes[0], 'POST', '/internal/participants/left', body)).body, { success: false, error: 'Invalid leftAt' });
  });
});
