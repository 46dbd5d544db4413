// A real SOS cannot be hidden: one user's many incidents do not push other users' incidents off the first page,
// every list has pages, raising and searching are limited, and incidents end.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { keeper, unique } from './support/clients.mjs';
import { internal, startCluster } from './support/cluster.mjs';
import { startGateway } from './support/gateway.mjs';
import { sql, uuidOf, writeIncidents } from './support/incidents.mjs';
import { startPostgres } from './support/postgres.mjs';
import { eventually, once, record } from './support/wait.mjs';

const PLACE = { latitude: 48.85, longitude: 2.35 };
/** Degrees of latitude for this many metres. */
const north = (metres) => metres / 111_195;

const SITES = [
  {
    name: 'one node, embedded',
    async start(env) {
      const node = await startGateway({ env });
      node.clients = keeper(node);
      return { nodes: [node, node], databaseUrl: `sqlite:${node.directory}/gateway.db`, stop: async () => { node.clients.closeAll(); await node.kill(); } };
    },
  },
  {
    name: 'two nodes on PostgreSQL',
    async start(env = {}) {
      const postgres = await startPostgres();
      const cluster = await startCluster(2, { env: { DATABASE_URL: postgres.url, ...env } });
      return { cluster, nodes: cluster.nodes, databaseUrl: postgres.url, stop: async () => { await cluster.stop(); await postgres.kill(); } };
    },
  },
];

/** Sends a request to the citizens' API of a node: `{status, body, headers}`. */
async function api(node, method, path, claims, body) {
  const response = await fetch(`${node.url}/api/sos${path}`, {
    method,
    headers: { Authorization: `Bearer ${node.token(claims)}`, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return { status: response.status, body: await response.json(), headers: response.headers };
}

const query = (spot, more = {}) => `/nearby?${new URLSearchParams({ latitude: spot.latitude, longitude: spot.longitude, ...more })}`;

/** All pages around a place. */
async function pages(node, spot, more, claims = { sub: unique('looks'), role: 'rescuer' }) {
  const all = [];
  let cursor;
  do {
    const { status, body } = await api(node, 'GET', query(spot, { ...more, ...(cursor ? { cursor } : {}) }), claims);
    assert.equal(status, 200, JSON.stringify(body));
    assert.equal(body.hasMore, body.nextCursor !== undefined);
    all.push(body.data);
    cursor = body.nextCursor;
  } while (cursor);
  return all;
}

for (const site of SITES) {
  describe(`a real SOS on ${site.name}`, () => {
    let nodes;
    let cluster;
    let databaseUrl;
    let stop;
    before(async () => ({ nodes, cluster, databaseUrl, stop } = await site.start()));
    after(() => stop?.());

    const raise = async (at, sub, spot) => {
      const { status, body } = await api(nodes[at], 'POST', '', { sub }, spot);
      assert.equal(status, 201, JSON.stringify(body));
      return body.data.id;
    };
    const listed = async (at, spot, id) => (await pages(nodes[at], spot, { radius: 100 })).flat().some((incident) => incident.id === id);

    test('150 fakes of one user beside a rescuer hide no incident, and are all listed', async () => {
      const faker = unique('faker');
      const now = Date.now();
      const fakes = Array.from({ length: 150 }, (_, at) => ({ id: uuidOf(now), userId: faker, latitude: PLACE.latitude + north(at), longitude: PLACE.longitude, createdAt: now }));
      await writeIncidents(databaseUrl, fakes);
      const real = await raise(0, unique('real'), { latitude: PLACE.latitude - north(330), longitude: PLACE.longitude });
      const shown = (await api(nodes[1], 'GET', query(PLACE), { sub: unique('looks'), role: 'rescuer' })).body.data;
      assert.ok(shown.some(({ id }) => id === real), `the real one is not among the ${shown.length} on the first page`);
      // A node that was not notified of new records checks for them within a second or two.
      await eventually(async () => (await pages(nodes[1], PLACE)).flat().length === 151, { timeout: 15_000, interval: 500, what: 'all fakes to be found' });
      const [first, ...rest] = await pages(nodes[1], PLACE);
      const at = first.findIndex(({ id }) => id === real);
      assert.equal(at, 1, `the real one is not second, behind the nearest fake, but at ${at}`);
      assert.equal(first.length, 100);
      const all = [first, ...rest].flat();
      assert.equal(new Set(all.map(({ id }) => id)).size, 151, 'every one is listed once');
    });

    test('pages are exact: each user\'s nearest first, without repeats or gaps while incidents are raised', async () => {
      const spot = { latitude: -20.5, longitude: 179.9999 };
      const users = Array.from({ length: 30 }, (_, at) => unique(`user${at}`));
      // On both sides of the date line. Every third user raises a second one.
      const made = [];
      for (const [at, user] of users.entries()) {
        const longitude = at % 2 ? 179.9999 - at * 1e-4 : -179.9999 + at * 1e-4;
        made.push({ user, id: await raise(at % 2, user, { latitude: spot.latitude, longitude }) });
        if (at % 3 === 0) made.push({ user, id: await raise(at % 2, user, { latitude: spot.latitude + north(2_000 + at), longitude }) });
      }
      const known = new Set(made.map(({ id }) => id));
      for (const limit of [7, 100]) {
        const shown = (await pages(nodes[0], spot, { limit })).flat();
        assert.deepEqual(new Set(shown.map(({ id }) => id)), known);
        assert.equal(shown.length, known.size);
        const firsts = shown.slice(0, users.length);
        assert.equal(new Set(firsts.map(({ userId }) => userId)).size, users.length, 'one of each user before any second one');
        for (const part of [firsts, shown.slice(users.length)]) {
          const metres = part.map(({ distance }) => distance);
          assert.deepEqual(metres, [...metres].sort((a, b) => a - b));
        }
      }
      const one = (await api(nodes[0], 'GET', query(spot, { limit: 10 }), { sub: unique('r') })).body;
      assert.deepEqual([one.data.length, one.count, one.hasMore], [10, 10, true]);
      const newcomer = await raise(0, unique('newcomer'), { latitude: spot.latitude, longitude: 179.9999 });
      const two = (await api(nodes[1], 'GET', query(spot, { limit: 10, cursor: one.nextCursor }), { sub: unique('r') })).body;
      const both = [...one.data, ...two.data].map(({ id }) => id);
      assert.equal(new Set(both).size, 20);
      assert.ok(!both.includes(newcomer), 'an incident nearer than the start of the page belongs to the first page');
      for (const [parameter, error] of [['cursor=x', 'Invalid cursor'], [`cursor=${one.nextCursor.slice(0, 20)}`, 'Invalid cursor'], ['limit=many', 'Invalid limit']]) {
        const refused = await api(nodes[0], 'GET', `${query(spot)}&${parameter}`, { sub: unique('r') });
        assert.deepEqual([refused.status, refused.body.error], [400, error]);
      }
      assert.equal((await api(nodes[0], 'GET', query(spot, { limit: 0 }), { sub: unique('r') })).body.data.length, 1, 'a number is clamped');
    });

    test('the last participant to leave ends it; a backend that removes them does too', async () => {
      const spot = { latitude: 10, longitude: 10 };
      for (const last of ['user', 'backend']) {
        const [owner, helper] = [unique('owner'), unique('helper')];
        const sosId = await raise(0, owner, spot);
        const socket = await nodes[1].clients.connect({ claims: { sub: helper } });
        assert.equal((await api(nodes[1], 'POST', `/${sosId}/participants/join`, { sub: helper })).status, 201);
        assert.equal((await api(nodes[0], 'PATCH', `/${sosId}/participants/${owner}/leave`, { sub: owner })).status, 200);
        assert.ok(await listed(1, spot, sosId), 'a participant remains');
        const seen = record(socket);
        const gone = once(socket, 'disconnect');
        const left = last === 'user'
          ? await api(nodes[0], 'PATCH', `/${sosId}/participants/${helper}/leave`, { sub: helper })
          : await internal(nodes[0], 'POST', '/internal/participants/left', { sosId, userId: helper });
        assert.equal(left.status, 200);
        assert.equal((await gone)[0], 'io server disconnect');
        assert.equal(seen.seen('participant:left').length, 1);
        const [[ended]] = seen.seen('sos:ended');
        const { timestamp, endedAt, ...received } = ended;
        assert.deepEqual([received, typeof timestamp, typeof endedAt], [{ sosId, reason: 'left' }, 'number', 'string']);
        assert.ok(!(await listed(1, spot, sosId)));
        const join = { sosId, userId: owner, userType: 'citizen' };
        for (const refused of [await api(nodes[1], 'POST', `/${sosId}/participants/join`, { sub: owner }), await internal(nodes[0], 'POST', '/internal/participants/joined', join)]) {
          assert.deepEqual([refused.status, refused.body.error], [409, 'SOS has ended']);
        }
        assert.equal((await api(nodes[0], 'PATCH', `/${sosId}/participants/${owner}/leave`, { sub: owner })).status, 404);
      }
    });

    test('an incident that was not raised here cannot be ended', async () => {
      const [sosId, sub] = [unique('outside'), unique('user')];
      for (let round = 0; round < 2; round += 1) {
        assert.equal((await api(nodes[0], 'POST', `/${sosId}/participants/join`, { sub })).status, 201);
        assert.equal((await api(nodes[1], 'PATCH', `/${sosId}/participants/${sub}/leave`, { sub })).status, 200);
      }
      assert.equal((await api(nodes[0], 'POST', `/${sosId}/end`, { sub: 'boss', role: 'admin' })).status, 404);
    });

    test('only its raiser or an admin ends it; the room is notified and emptied, the sockets stay connected', async () => {
      const spot = { latitude: 11, longitude: 11 };
      for (const [role, reason] of [[undefined, 'raiser'], ['admin', 'admin']]) {
        const [owner, helper] = [unique('owner'), unique('helper')];
        const by = role ? unique('boss') : owner;
        const sosId = await raise(0, owner, spot);
        const sockets = await Promise.all([nodes[0].clients.connect({ claims: { sub: owner } }), nodes[1].clients.connect({ claims: { sub: helper } })]);
        assert.equal((await api(nodes[1], 'POST', `/${sosId}/participants/join`, { sub: helper })).status, 201);
        const stranger = await api(nodes[1], 'POST', `/${sosId}/end`, { sub: helper, role: 'rescuer' });
        assert.deepEqual([stranger.status, stranger.body.error], [403, 'Only who raised the SOS or an admin may do this']);
        const received = sockets.map((socket) => once(socket, 'sos:ended'));
        const { status, body } = await api(nodes[1], 'POST', `/${sosId}/end`, { sub: by, ...(role ? { role } : {}) });
        assert.deepEqual([status, body.data.status, body.data.endReason, body.data.endedBy], [200, 'ENDED', reason, by]);
        for (const event of received) {
          const [{ timestamp, eventId, ...ended }] = await event;
          assert.ok(timestamp > 0 && typeof eventId === 'string');
          assert.deepEqual(ended, { sosId, reason, endedBy: by, endedAt: body.data.endedAt });
        }
        await eventually(async () => (await internal(nodes[0], 'GET', `/internal/participants/${sosId}/count`)).body.data.count === 0, { what: 'the room to be empty' });
        assert.ok(sockets.every((socket) => socket.connected));
        const history = (await api(nodes[0], 'GET', `/${sosId}/participants/history`, { sub: owner })).body.data;
        assert.deepEqual(history.map((entry) => [entry.status, entry.leftAt]), [['INACTIVE', body.data.endedAt], ['INACTIVE', body.data.endedAt]]);
        const again = await api(nodes[0], 'POST', `/${sosId}/end`, { sub: owner });
        assert.deepEqual([again.status, again.body.error], [409, 'SOS has ended']);
        assert.ok(!(await listed(0, spot, sosId)));
        assert.equal((await sockets[0].emitWithAck('sos:location', { sosId, ...spot })).error, 'You must join the SOS first');
        sockets.forEach((socket) => socket.disconnect());
      }
    });

    test('a rescuer marks one as false: it ends, and its raiser is notified without participating', async () => {
      const spot = { latitude: 12, longitude: 12 };
      const [owner, helper, rescuer] = [unique('owner'), unique('helper'), unique('rescuer')];
      const sosId = await raise(1, owner, spot);
      assert.equal((await api(nodes[1], 'POST', `/${sosId}/participants/join`, { sub: helper })).status, 201);
      assert.equal((await api(nodes[0], 'PATCH', `/${sosId}/participants/${owner}/leave`, { sub: owner })).status, 200);
      const socket = await nodes[0].clients.connect({ claims: { sub: owner } });
      assert.equal((await api(nodes[0], 'POST', `/${sosId}/false-alarm`, { sub: helper })).status, 403);
      assert.equal((await api(nodes[0], 'POST', `/${unique('none')}/false-alarm`, { sub: rescuer, role: 'rescuer' })).status, 404);
      const received = once(socket, 'sos:ended');
      const { status, body } = await api(nodes[1], 'POST', `/${sosId}/false-alarm`, { sub: rescuer, role: 'rescuer' });
      assert.deepEqual([status, body.data.endReason, body.data.endedBy], [200, 'false_alarm', rescuer]);
      const [{ reason, endedBy }] = await received;
      assert.deepEqual([reason, endedBy], ['false_alarm', rescuer]);
      assert.ok(!(await listed(0, spot, sosId)));
      assert.equal((await api(nodes[0], 'POST', `/${sosId}/false-alarm`, { sub: rescuer, role: 'rescuer' })).status, 409);
      assert.equal(await sql(databaseUrl, `SELECT ended_by FROM sos_incidents WHERE id = '${sosId}';`), rescuer);
    });

    test('ends, joins and leaves at once: it ends once, and no participant remains', async () => {
      for (let round = 0; round < 10; round += 1) {
        const [owner, other] = [unique('owner'), unique('other')];
        const sosId = await raise(round % 2, owner, {});
        const answers = await Promise.all([
          api(nodes[0], 'POST', `/${sosId}/end`, { sub: owner }),
          api(nodes[1], 'POST', `/${sosId}/end`, { sub: owner }),
          api(nodes[0], 'POST', `/${sosId}/participants/join`, { sub: other }),
          api(nodes[1], 'PATCH', `/${sosId}/participants/${owner}/leave`, { sub: owner }),
        ]);
        const statuses = answers.map(({ status }) => status);
        assert.ok(statuses.every((status) => [200, 201, 404, 409].includes(status)), String(statuses));
        assert.ok(statuses.slice(0, 2).filter((status) => status === 200).length <= 1, String(statuses));
        const state = await sql(databaseUrl, `SELECT status, (SELECT COUNT(*) FROM sos_participants WHERE sos_id = '${sosId}' AND status = 'ACTIVE') FROM sos_incidents WHERE id = '${sosId}';`);
        assert.equal(state, 'ENDED|0', String(statuses));
      }
    });

    test('raising is limited per user, on all nodes together; other users are not affected', async () => {
      const sub = unique('flood');
      const answers = await Promise.all(Array.from({ length: 60 }, (_, at) => api(nodes[at % 2], 'POST', '', { sub }, {})));
      const raised = answers.filter(({ status }) => status === 201);
      const limited = answers.filter(({ status }) => status === 429);
      assert.equal(raised.length + limited.length, 60);
      assert.ok(raised.length >= 10 && raised.length <= 12, `${raised.length} raised`);
      for (const { body, headers } of limited) {
        assert.deepEqual(body, { success: false, error: 'Too many requests' });
        const wait = Number(headers.get('retry-after'));
        assert.ok(wait >= 1 && wait <= 15, `Retry-After ${wait}`);
      }
      await raise(0, unique('other'), {});
      const metrics = await (await fetch(`${nodes[0].internalUrl}/metrics`)).text();
      assert.match(metrics, /^muster_rate_limited_total\{limit="user_rate"\} [1-9]/m);
    });

    test('searching is limited per user; other users are not affected', async () => {
      const sub = unique('looker');
      const answers = await Promise.all(Array.from({ length: 200 }, () => api(nodes[0], 'GET', query(PLACE), { sub })));
      const limited = answers.filter(({ status }) => status === 429);
      assert.ok(limited.length > 50, `${limited.length} of 200 were refused`);
      assert.ok(limited.every(({ headers }) => Number(headers.get('retry-after')) >= 1));
      assert.ok(answers.filter(({ status }) => status === 200).length >= 20);
      assert.equal((await api(nodes[0], 'GET', query(PLACE), { sub: unique('other') })).status, 200);
    });

    test('150 emergencies of one user hide no emergency either', async () => {
      const centre = { latitude: -30, longitude: 30 };
      const ask = async (node, method, path, claims, body) => {
        const response = await fetch(`${node.url}/api/v1/emergencies${path}`, {
          method,
          headers: { Authorization: `Bearer ${node.token(claims)}`, 'Content-Type': 'application/json' },
          body: body && JSON.stringify(body),
        });
        return { status: response.status, body: await response.json() };
      };
      const now = Date.now();
      const rows = Array.from({ length: 150 }, (_, at) => `('${uuidOf(now)}', 'faker', 'F', 'medical', ${centre.latitude + north(at)}, ${centre.longitude}, 'high', 0, 'active', ${now}, ${now}, 1)`);
      await sql(databaseUrl, `INSERT INTO emergencies (id, user_id, user_name, kind, latitude, longitude, priority, anonymous, status, created_at, updated_at, alerted) VALUES ${rows.join(', ')};`);
      const raised = await ask(nodes[0], 'POST', '', { sub: unique('real') }, { type: 'medical', location: { latitude: centre.latitude - north(330), longitude: centre.longitude } });
      assert.equal(raised.status, 201);
      const helper = { sub: unique('helper'), role: 'helper' };
      const walk = async () => {
        const all = [];
        let cursor;
        do {
          const { status, body } = await ask(nodes[1], 'GET', query(centre, cursor ? { cursor } : {}), helper);
          assert.equal(status, 200, JSON.stringify(body));
          all.push(...body.data);
          cursor = body.nextCursor;
          assert.equal(body.hasMore, cursor !== undefined);
        } while (cursor);
        return all;
      };
      await eventually(async () => (await walk()).length === 151, { timeout: 15_000, interval: 500, what: 'all of them to be found' });
      assert.equal((await walk())[1].id, raised.body.data.id, 'the real one is second');
      const flood = await Promise.all(Array.from({ length: 30 }, (_, at) => ask(nodes[at % 2], 'POST', '', { sub: 'flood' }, { type: 'fire', location: { latitude: 0, longitude: 0 } })));
      const created = flood.filter(({ status }) => status === 201).length;
      assert.ok(created >= 10 && created <= 12, `${created} raised on all nodes together`);
    });

    if (site.name !== SITES[0].name) {
      test('an incident\'s end while Redis was away is announced when it is back, and its room emptied', { timeout: 60_000 }, async () => {
        const owner = unique('owner');
        const sosId = await raise(0, owner, {});
        const socket = await nodes[1].clients.connect({ claims: { sub: owner } });
        await eventually(async () => (await internal(nodes[0], 'GET', `/internal/participants/${sosId}/count`)).body.data.count === 1, { what: 'the raiser in the room' });
        await cluster.redis.kill();
        // If it is announced before this node has resubscribed, its clients get `muster:resync`.
        const received = Promise.any(['sos:ended', 'muster:resync'].map((event) => once(socket, event, { timeout: 30_000 })));
        assert.equal((await api(nodes[0], 'POST', `/${sosId}/end`, { sub: owner })).status, 200);
        await cluster.redis.restart();
        await received;
        await eventually(async () => (await internal(nodes[0], 'GET', `/internal/participants/${sosId}/count`)).body.data?.count === 0, { timeout: 20_000, what: 'the room to be empty' });
        assert.ok(socket.connected);
      });
    }
  });

  describe(`the age of an SOS on ${site.name}`, () => {
    test('an incident of the age SOS_AGE ends once, even if the node that raised it is dead', { timeout: 90_000 }, async () => {
      const { nodes, cluster, databaseUrl, stop } = await site.start({ SOS_AGE: '2s' });
      let alive;
      try {
        const owner = unique('owner');
        const raise = async (node) => (await api(node, 'POST', '', { sub: owner }, PLACE)).body.data.id;
        const first = await raise(nodes[0]);
        // A node alone ends it after a restart; in a cluster, the other node does.
        await nodes[0].kill();
        alive = cluster ? nodes[1] : await nodes[0].restart();
        alive.clients ??= keeper(alive);
        const age = () => sql(databaseUrl, `SELECT ended_at - created_at FROM sos_incidents WHERE id = '${first}' AND end_reason = 'age' AND ended_by IS NULL;`);
        await eventually(async () => (await age()) !== '', { timeout: 20_000, interval: 250, what: 'the incident to end' });
        assert.ok(Number(await age()) >= 2_000, `ended after ${await age()} ms`);
        assert.equal((await api(alive, 'POST', `/${first}/participants/join`, { sub: owner })).status, 409);

        const socket = await alive.clients.connect({ claims: { sub: owner } });
        const seen = record(socket);
        const second = await raise(alive);
        const { reason, endedBy } = await seen.take('sos:ended', ({ sosId }) => sosId === second, { timeout: 20_000 });
        assert.deepEqual([reason, endedBy], ['age', undefined]);
        // Later events come after any repeated ones.
        const third = await raise(alive);
        await seen.take('sos:ended', ({ sosId }) => sosId === third, { timeout: 20_000 });
        assert.deepEqual(seen.seen('sos:ended'), []);
        assert.ok(socket.connected);
      } finally {
        alive?.clients?.closeAll();
        await alive?.kill();
        await stop();
      }
    });
  });
}
