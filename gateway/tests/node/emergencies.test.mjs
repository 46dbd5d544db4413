// Emergencies: document 002's REST API, events and rooms, on one node and on two.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { TRANSPORTS, ask, refused, unique } from './support/clients.mjs';
import { DEGREE, ISO, NAMESPACE, SITES, UUID_V7, about, admin, citizen, emergencies, helper, north, place, refusal } from './support/emergencies.mjs';
import { once } from './support/wait.mjs';

/** The fields about the end of a record that is still open. */
const NOT_OVER = { resolvedAt: null, resolvedBy: null, resolutionType: null, resolutionNotes: null, cancelledAt: null };
const UNKNOWN = '507f1f77bcf86cd799439011';

for (const site of SITES) {
  describe(`emergencies on ${site.name}`, () => {
    let stop;
    let nodes;
    let app;
    before(async () => {
      ({ nodes, stop } = await site.start());
      app = emergencies(nodes);
    });
    after(() => stop?.());

    describe('raising', () => {
      test('the record, and the events that helpers on every node receive', async () => {
        const owner = citizen({ avatar: 'https://example.org/ann.png' });
        const [here, there, bystander] = await Promise.all([app.online(0, helper()), app.online(1, helper({ role: 'rescuer', verified: undefined })), app.online(1, citizen())]);
        const location = { ...place(), address: '123 Main St' };
        const data = await app.raise(0, owner, { type: 'medical', category: 'heart_attack', description: 'Need immediate medical assistance', location, priority: 'critical', severity: 9, anonymousMode: false });
        const { nearbyHelperCount, ...emergency } = data;
        assert.equal(nearbyHelperCount, 0);
        const { id, createdAt, updatedAt, ...rest } = emergency;
        assert.match(id, UUID_V7);
        assert.match(createdAt, ISO);
        assert.match(updatedAt, ISO);
        assert.deepEqual(rest, {
          type: 'medical',
          category: 'heart_attack',
          description: 'Need immediate medical assistance',
          location,
          priority: 'critical',
          severity: 9,
          status: 'active',
          anonymousMode: false,
          user: { id: owner.sub, displayName: 'Ann Citizen', avatar: 'https://example.org/ann.png' },
          ...NOT_OVER,
        });
        for (const { events } of [here, there]) assert.deepEqual(await events.take('emergency:created', about(id)), { emergency, nearbyHelperCount: 0 });
        await app.quiet(0, here, there, bystander);
        for (const { events } of [here, there]) assert.deepEqual([events.seen('emergency:created', about(id)), events.seen('emergency:nearby', about(id))], [[], []], 'once, and no location is known');
        assert.deepEqual(bystander.events.seen('emergency:created'), [], 'only helpers are alerted');
        for (const claims of [owner, admin(), here.claims, there.claims]) assert.deepEqual(await app.good(200, 1, 'GET', `/${id}`, claims), { ...emergency, helpers: [] });
        await app.bad(403, 1, 'GET', `/${id}`, bystander.claims);
      });

      test('left-out fields have their defaults', async () => {
        const owner = citizen();
        const location = place();
        const { id, createdAt, updatedAt, nearbyHelperCount, ...rest } = await app.raise(1, owner, { type: 'fire', location });
        assert.deepEqual(rest, {
          type: 'fire',
          category: null,
          description: null,
          location: { ...location, address: null },
          priority: 'medium',
          severity: null,
          status: 'active',
          anonymousMode: false,
          user: { id: owner.sub, displayName: 'Ann Citizen', avatar: null },
          ...NOT_OVER,
        });
        const other = await app.raise(0, owner);
        assert.notEqual(other.id, id, 'a user may raise another one');
      });

      test('a helper and an admin may raise an emergency, too', async () => {
        for (const claims of [helper(), admin()]) assert.equal((await app.raise(0, claims)).user.id, claims.sub);
      });

      test('texts of maximum length are stored', async () => {
        const location = { ...place(), address: 'é'.repeat(500) };
        const owner = citizen();
        const { id } = await app.raise(0, owner, { type: `t${'-'.repeat(126)}t`, description: '🚑'.repeat(2_000), location, severity: 1, priority: 'low' });
        const kept = await app.good(200, 1, 'GET', `/${id}`, owner);
        assert.deepEqual([kept.description, kept.location, kept.type.length], ['🚑'.repeat(2_000), location, 128]);
      });
    });

    describe('finding', () => {
      test('helpers and admins find open emergencies around a place, nearest first', async () => {
        const centre = place();
        const owner = citizen();
        const far = await app.raise(0, owner, { location: north(centre, 4_000) });
        const near = await app.raise(1, owner, { location: north(centre, -1_000) });
        const beyond = await app.raise(0, owner, { location: north(centre, 20_000) });
        const over = await app.raise(1, owner, { location: centre });
        await app.cancel(0, over.id, owner);
        const taken = helper();
        await app.respond(0, far.id, taken);
        const find = async (claims, query = '') => {
          const answer = await app.api(1, 'GET', `/nearby?latitude=${centre.latitude}&longitude=${centre.longitude}${query}`, claims);
          assert.equal(answer.status, 200, answer.text);
          assert.deepEqual(Object.keys(answer.body).sort(), ['count', 'data', 'hasMore', 'success', 'timestamp']);
          assert.equal(answer.body.count, answer.body.data.length);
          assert.match(answer.body.timestamp, ISO);
          return answer.body.data;
        };
        const found = await find(helper());
        assert.deepEqual(found.map(({ id, status }) => [id, status]), [[near.id, 'active'], [far.id, 'responding']]);
        for (const [at, metres] of [1_000, 4_000].entries()) assert.ok(Math.abs(found[at].distance - metres) < metres / 100, `${found[at].distance} for ${metres}`);
        const { distance, ...listed } = found[0];
        assert.equal(typeof distance, 'number');
        const { nearbyHelperCount, ...raised } = near;
        assert.deepEqual(listed, raised, 'as raised, without helpers');
        assert.deepEqual((await find(admin(), '&radius=2000')).map(({ id }) => id), [near.id]);
        assert.deepEqual((await find(helper({ role: 'rescuer' }), '&radius=100000')).map(({ id }) => id), [near.id, far.id, beyond.id]);
        await app.bad(403, 0, 'GET', `/nearby?latitude=${centre.latitude}&longitude=${centre.longitude}`, owner);
      });

      test('an emergency across the date line is near', async () => {
        const owner = citizen();
        const latitude = 70.5;
        const { id } = await app.raise(0, owner, { location: { latitude, longitude: 179.99 } });
        const { body } = await app.api(1, 'GET', `/nearby?latitude=${latitude}&longitude=-179.99`, helper());
        assert.deepEqual(body.data.map((found) => found.id), [id]);
        const metres = 0.02 * DEGREE * Math.cos((latitude * Math.PI) / 180);
        assert.ok(Math.abs(body.data[0].distance - metres) < metres / 50, `${body.data[0].distance} for ${metres}`);
      });
    });

    describe('the lifecycle of an emergency', () => {
      test('helpers respond and set their status, and the owner ends it: records and events on every node', async () => {
        const [first, second] = [helper(), helper({ name: 'Mary Major', firstName: 'Mary', lastName: 'Major', trustScore: undefined, helperRating: undefined })];
        const [owner, here, there, bystander] = await Promise.all([app.online(0, citizen()), app.online(1, first), app.online(0, second), app.online(1, helper())]);
        const { id } = await app.raise(1, owner.claims);
        await app.gathered(id, 1);

        const responding = await app.respond(0, id, first);
        assert.equal(responding.status, 'responding');
        const [{ joinedAt, updatedAt, ...listed }] = responding.helpers;
        for (const time of [joinedAt, updatedAt]) assert.match(time, ISO);
        const john = { id: first.sub, profile: { firstName: 'John', lastName: 'Doe' }, trustScore: 85, helperRating: { average: 4.8, count: 50 } };
        assert.deepEqual(listed, { ...john, status: 'responding', notes: null });
        assert.deepEqual(await owner.events.take('helper:joined'), { emergencyId: id, helper: { ...john, joinedAt } });
        const changed = await owner.events.take('emergency:status_changed');
        assert.match(changed.timestamp, ISO);
        assert.deepEqual(changed, { emergencyId: id, status: 'responding', emergency: { id, status: 'responding', updatedAt: responding.updatedAt }, timestamp: changed.timestamp });
        await app.gathered(id, 2);

        const both = await app.respond(1, id, second);
        assert.deepEqual(both.helpers.map((each) => [each.id, each.trustScore, each.helperRating]), [[first.sub, 85, john.helperRating], [second.sub, null, { average: null, count: 0 }]]);
        for (const { events } of [owner, here]) {
          const { helper: mary } = await events.take('helper:joined', ({ helper: each }) => each.id === second.sub);
          assert.deepEqual(mary.profile, { firstName: 'Mary', lastName: 'Major' });
          assert.deepEqual([mary.trustScore, mary.helperRating], [null, { average: null, count: 0 }]);
        }
        await app.gathered(id, 3);
        const again = await app.respond(0, id, first);
        assert.deepEqual(again.helpers, both.helpers, 'again, while responding: nothing changes');
        for (const at of [0, 1]) await app.quiet(at, owner);
        assert.deepEqual(owner.events.seen('helper:joined'), [], 'and no event comes again');
        assert.deepEqual(owner.events.seen('emergency:status_changed'), [], 'only the first helper changes it');

        const onWay = await app.setStatus(0, id, first, { status: 'on_way', notes: 'On my way, ETA 5 minutes' });
        const stands = onWay.helpers.find((each) => each.id === first.sub);
        assert.deepEqual([stands.status, stands.notes, onWay.status], ['on_way', 'On my way, ETA 5 minutes', 'responding']);
        for (const { events } of [owner, there]) {
          assert.deepEqual(await events.take('helper:status_update'), { emergencyId: id, helperId: first.sub, status: 'on_way', notes: 'On my way, ETA 5 minutes', updatedAt: stands.updatedAt });
        }
        await app.setStatus(1, id, second, { status: 'arrived' });
        const arrived = await owner.events.take('helper:status_update');
        assert.match(arrived.updatedAt, ISO);
        assert.deepEqual(arrived, { emergencyId: id, helperId: second.sub, status: 'arrived', notes: null, updatedAt: arrived.updatedAt });

        const resolved = await app.resolve(1, id, owner.claims, { resolutionNotes: 'Help arrived, situation resolved' });
        const end = { resolvedAt: resolved.resolvedAt, resolvedBy: owner.claims.sub, resolutionType: 'user_resolved', resolutionNotes: 'Help arrived, situation resolved' };
        assert.match(resolved.resolvedAt, ISO);
        assert.deepEqual({ ...resolved, helpers: [] }, { ...resolved, ...end, status: 'resolved', cancelledAt: null, helpers: [] });
        assert.deepEqual(resolved.helpers.map(({ status }) => status), ['on_way', 'arrived']);
        for (const { events } of [owner, here, there]) {
          const received = await events.take('emergency:resolved');
          assert.match(received.timestamp, ISO);
          assert.deepEqual(received, { emergencyId: id, ...end, timestamp: received.timestamp });
        }
        for (const { events } of [here, there, bystander]) {
          const received = await events.take('emergency:ended', about(id));
          assert.match(received.timestamp, ISO);
          assert.deepEqual(received, { emergencyId: id, status: 'resolved', timestamp: received.timestamp });
        }
        await app.quiet(1, owner, here, there, bystander);
        assert.deepEqual(owner.events.seen('emergency:ended'), [], 'that event is for helpers');
        for (const event of ['helper:joined', 'helper:status_update', 'emergency:status_changed', 'emergency:resolved']) assert.deepEqual(bystander.events.seen(event), [], `${event} is for the room`);
        for (const claims of [owner.claims, first]) assert.deepEqual(await app.good(200, 0, 'GET', `/${id}`, claims), resolved);
      });

      test('the owner cancels: the room and all helpers are notified', async () => {
        const [owner, responder, bystander] = await Promise.all([app.online(1, citizen()), app.online(0, helper()), app.online(1, helper())]);
        const { id } = await app.raise(0, owner.claims);
        await app.respond(1, id, responder.claims);
        await app.gathered(id, 2);
        const cancelled = await app.cancel(0, id, owner.claims);
        assert.equal(cancelled.status, 'cancelled');
        assert.match(cancelled.cancelledAt, ISO);
        assert.deepEqual([cancelled.resolvedAt, cancelled.resolvedBy, cancelled.resolutionType], [null, null, null]);
        for (const { events } of [owner, responder]) {
          const received = await events.take('emergency:cancelled', about(id));
          assert.match(received.timestamp, ISO);
          assert.deepEqual(received, { emergencyId: id, timestamp: received.timestamp });
        }
        for (const { events } of [responder, bystander]) assert.equal((await events.take('emergency:ended', about(id))).status, 'cancelled');
        await app.quiet(0, owner, responder);
        for (const { events } of [owner, responder]) assert.deepEqual(events.seen('emergency:resolved', about(id)), []);
      });

      test('an admin resolves an active emergency, and is recorded', async () => {
        const { id } = await app.raise(0, citizen());
        const boss = admin();
        const { status, resolvedBy, resolutionType, resolutionNotes } = await app.good(200, 1, 'POST', `/${id}/resolve`, boss);
        assert.deepEqual([status, resolvedBy, resolutionType, resolutionNotes], ['resolved', boss.sub, 'admin_resolved', null]);
        const other = await app.raise(1, citizen());
        assert.equal((await app.resolve(0, other.id, boss, { resolutionType: 'false_alarm' })).resolutionType, 'false_alarm');
        const third = await app.raise(1, citizen());
        assert.equal((await app.cancel(0, third.id, boss)).status, 'cancelled');
      });
    });

    describe('permissions and states', () => {
      test('a closed emergency does not change', async () => {
        for (const [end, status] of [['resolve', 'resolved'], ['cancel', 'cancelled']]) {
          const [owner, responder] = [citizen(), helper()];
          const { id } = await app.raise(0, owner);
          await app.respond(0, id, responder);
          await app.good(200, 1, 'POST', `/${id}/${end}`, owner, {});
          const ended = await app.good(200, 0, 'GET', `/${id}`, owner);
          assert.equal(ended.status, status);
          await app.bad(409, 0, 'POST', `/${id}/respond`, helper());
          await app.bad(409, 1, 'POST', `/${id}/respond`, responder);
          await app.bad(409, 0, 'PUT', `/${id}/helper-status`, responder, { status: 'completed' });
          await app.bad(409, 1, 'POST', `/${id}/resolve`, owner, {});
          await app.bad(409, 0, 'POST', `/${id}/cancel`, owner);
          await app.bad(409, 0, 'POST', `/${id}/cancel`, admin());
          assert.deepEqual(await app.good(200, 1, 'GET', `/${id}`, owner), ended);
        }
      });

      test('resolved and cancelled at once, on two nodes: one of them wins', async () => {
        for (let round = 0; round < 10; round += 1) {
          const owner = citizen();
          const watcher = await app.online(round % 2, helper());
          const { id } = await app.raise(0, owner);
          const answers = await Promise.all([app.api(0, 'POST', `/${id}/resolve`, owner, {}), app.api(1, 'POST', `/${id}/cancel`, owner)]);
          assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 409], JSON.stringify(answers.map(({ text }) => text)));
          const { status } = await app.good(200, 1, 'GET', `/${id}`, owner);
          assert.equal(status, answers[0].status === 200 ? 'resolved' : 'cancelled');
          assert.equal((await watcher.events.take('emergency:ended', about(id))).status, status);
          for (const at of [0, 1]) await app.quiet(at, watcher);
          assert.deepEqual(watcher.events.seen('emergency:ended', about(id)), [], 'it ends once');
          watcher.socket.disconnect();
        }
      });

      test('two helpers at once, on two nodes: both respond, and the status changes once', async () => {
        const owner = await app.online(0, citizen());
        for (let round = 0; round < 8; round += 1) {
          const { id } = await app.raise(1, owner.claims);
          await app.gathered(id, 1);
          const both = [helper(), helper()];
          await Promise.all(both.map((claims, at) => app.respond(at, id, claims)));
          for (const claims of both) await owner.events.take('helper:joined', ({ helper: each }) => each.id === claims.sub);
          await owner.events.take('emergency:status_changed', about(id));
          for (const at of [0, 1]) await app.quiet(at, owner);
          assert.deepEqual(owner.events.seen('emergency:status_changed', about(id)), []);
          assert.equal((await app.good(200, 0, 'GET', `/${id}`, owner.claims)).helpers.length, 2);
        }
      });

      test('a helper who cancelled is out of the room until they respond again', async () => {
        const [owner, responder] = await Promise.all([app.online(0, citizen()), app.online(1, helper())]);
        const { id } = await app.raise(0, owner.claims);
        await app.respond(1, id, responder.claims);
        await app.gathered(id, 2);
        const { helpers, status } = await app.setStatus(0, id, responder.claims, { status: 'cancelled', notes: 'Flat tyre' });
        assert.deepEqual([helpers[0].status, helpers[0].notes, status], ['cancelled', 'Flat tyre', 'responding']);
        assert.equal((await owner.events.take('helper:status_update')).status, 'cancelled');
        await app.gathered(id, 1);
        for (const next of ['arrived', 'cancelled']) await app.bad(409, 1, 'PUT', `/${id}/helper-status`, responder.claims, { status: next });
        await owner.events.take('helper:joined');
        const back = await app.respond(0, id, responder.claims);
        assert.deepEqual(back.helpers.map((each) => [each.id, each.status]), [[responder.claims.sub, 'responding']]);
        assert.equal((await owner.events.take('helper:joined')).helper.id, responder.claims.sub);
        await app.gathered(id, 2);
        await app.setStatus(1, id, responder.claims, { status: 'arrived' });
        assert.equal((await owner.events.take('helper:status_update')).status, 'arrived');
      });
    });

    describe('bad requests', () => {
      const ALL = [['POST', ''], ['GET', '/nearby?latitude=0&longitude=0'], ['GET', `/${UNKNOWN}`], ['POST', `/${UNKNOWN}/respond`], ['PUT', `/${UNKNOWN}/helper-status`], ['POST', `/${UNKNOWN}/resolve`], ['POST', `/${UNKNOWN}/cancel`], ['GET', `/${UNKNOWN}/messages`]];
      const bodyOf = { POST: {}, PUT: { status: 'arrived' } };

      test('requests without a token', async () => {
        for (const [method, path] of ALL) {
          await app.bad(401, 0, method, path, undefined, bodyOf[method]);
          const response = await fetch(`${nodes[1].url}/api/v1/emergencies${path}`, { method, headers: { Authorization: 'Bearer garbage', 'Content-Type': 'application/json' }, body: method === 'GET' ? undefined : '{}' });
          assert.deepEqual([response.status, await response.json()], [401, { success: false, error: 'Invalid token' }], `${method} ${path}`);
        }
        await app.bad(401, 0, 'GET', '/nearby?latitude=0&longitude=0', { ...helper(), exp: 1 });
      });

      test('unknown emergencies', async () => {
        for (const claims of [helper(), admin()]) await app.bad(404, 0, 'GET', `/${UNKNOWN}`, claims);
        await app.bad(404, 1, 'POST', `/${UNKNOWN}/respond`, helper());
        await app.bad(404, 1, 'PUT', `/${UNKNOWN}/helper-status`, helper(), { status: 'arrived' });
        for (const end of ['resolve', 'cancel']) await app.bad(404, 0, 'POST', `/${UNKNOWN}/${end}`, admin(), {});
        await app.bad(404, 0, 'GET', `/${UNKNOWN}/messages`, helper());
        for (const id of ['a%0Ab', '%E2%80%8B', 'x'.repeat(129)]) await app.bad(400, 0, 'GET', `/${id}`, helper());
      });

      test('invalid emergencies', async () => {
        // One user each, because the rate limit is not under test here.
        const location = { latitude: 1, longitude: 1 };
        for (const body of [
          {}, { type: 'medical' }, { location }, { type: '', location }, { type: 'a b', location }, { type: 'x'.repeat(129), location }, { type: 7, location },
          { type: 'medical', location: {} }, { type: 'medical', location: { latitude: 1 } }, { type: 'medical', location: { latitude: 91, longitude: 0 } }, { type: 'medical', location: { latitude: 0, longitude: -181 } }, { type: 'medical', location: { latitude: '1', longitude: 1 } },
          ...[
            { category: 'a b' }, { category: 7 }, { description: 'x'.repeat(2_001) }, { description: 'a\0' }, { description: 7 }, { location: { ...location, address: 'x'.repeat(501) } },
            { priority: 'urgent' }, { priority: 1 }, { severity: 0 }, { severity: 11 }, { severity: 5.5 }, { severity: '9' }, { anonymousMode: 'yes' },
          ].map((part) => ({ type: 'medical', location, ...part })),
        ]) await app.bad(400, 0, 'POST', '', citizen(), body);
        const raw = (body, type) => fetch(`${nodes[0].url}/api/v1/emergencies`, { method: 'POST', headers: { Authorization: `Bearer ${app.token(citizen())}`, 'Content-Type': type }, body });
        assert.equal((await raw('{"type":', 'application/json')).status, 400);
        assert.equal((await raw(JSON.stringify({ type: 'medical', location }), 'text/plain')).status, 415);
      });

      test('invalid locations and radii', async () => {
        for (const query of ['', '?latitude=0', '?longitude=0', '?latitude=91&longitude=0', '?latitude=x&longitude=0', '?latitude=NaN&longitude=0', '?latitude=0&longitude=0&radius=-1', '?latitude=0&longitude=0&radius=100001', '?latitude=0&longitude=0&radius=x']) {
          await app.bad(400, 0, 'GET', `/nearby${query}`, helper());
        }
      });
    });

    describe('the room', () => {
      test('owner, responding and verified helpers may join, and get the ack and the event', async () => {
        const [owner, responder, watcher] = [citizen(), helper({ verified: undefined }), helper({ role: 'rescuer' })];
        const { id } = await app.raise(0, owner);
        await app.respond(0, id, responder);
        for (const [at, claims] of [[0, owner], [1, responder], [1, watcher]]) {
          const { socket, events } = await app.online(at, claims);
          const { emergency, ...answer } = await ask(socket, 'emergency:join', { emergencyId: id });
          const received = { emergencyId: id, room: `emergency:${id}`, message: 'Successfully joined emergency room' };
          assert.deepEqual(answer, { success: true, ...received });
          assert.deepEqual([emergency.id, emergency.status, emergency.user.id], [id, 'responding', owner.sub]);
          const { emergencyId, room, message } = await events.take('emergency:joined');
          assert.deepEqual({ emergencyId, room, message }, received);
        }
        await app.gathered(id, 3);
      });

      test('other users may not, and get the reason', async () => {
        const owner = citizen();
        const { id } = await app.raise(0, owner);
        for (const claims of [citizen(), helper({ verified: undefined }), helper({ verified: false }), citizen({ verified: true })]) {
          const { socket, events } = await app.online(1, claims);
          refusal(await ask(socket, 'emergency:join', { emergencyId: id }), 'Not authorized to join this emergency room');
          socket.emit('emergency:join', { emergencyId: id });
          assert.deepEqual(await events.take('error'), { message: 'Not authorized to join this emergency room' });
          assert.deepEqual(events.seen('emergency:joined'), []);
        }
        const { socket, events } = await app.online(0, helper());
        refusal(await ask(socket, 'emergency:join', { emergencyId: UNKNOWN }), 'Emergency not found');
        socket.emit('emergency:join', { emergencyId: UNKNOWN });
        assert.deepEqual(await events.take('error'), { message: 'Emergency not found' });
        for (const payload of [undefined, null, 'text', 7, [], {}, { emergencyId: null }, { emergencyId: 7 }, { emergencyId: 'a\nb' }, { emergencyId: 'x'.repeat(129) }]) {
          refusal(await ask(socket, 'emergency:join', payload));
          refusal(await ask(socket, 'emergency:leave', payload));
        }
        assert.ok(socket.connected, 'bad input closes no connection');
        await app.gathered(id, 0);
      });

      test('a client that leaves receives no more events; one that joins does, even in a closed emergency', async () => {
        const [owner, watcher] = await Promise.all([app.online(0, citizen()), app.online(1, helper())]);
        const { id } = await app.raise(1, owner.claims);
        await ask(watcher.socket, 'emergency:join', { emergencyId: id });
        await app.gathered(id, 2);
        const responder = helper();
        await app.respond(0, id, responder);
        for (const { events } of [owner, watcher]) assert.equal((await events.take('helper:joined')).helper.id, responder.sub);
        assert.deepEqual(await ask(watcher.socket, 'emergency:leave', { emergencyId: id }), { success: true, emergencyId: id, room: `emergency:${id}` });
        assert.deepEqual(await watcher.events.take('emergency:left'), { emergencyId: id, room: `emergency:${id}` });
        await app.gathered(id, 1);
        await app.setStatus(0, id, responder, { status: 'arrived' });
        await owner.events.take('helper:status_update');
        await app.resolve(0, id, owner.claims);
        await watcher.events.take('emergency:ended', about(id));
        await app.quiet(0, watcher);
        for (const event of ['helper:status_update', 'emergency:resolved']) assert.deepEqual(watcher.events.seen(event), [], event);
        for (const { socket } of [owner, watcher]) assert.equal((await ask(socket, 'emergency:join', { emergencyId: id })).emergency.status, 'resolved');
      });
    });

    describe('connecting', () => {
      for (const transport of TRANSPORTS) {
        test(`a helper receives events, joins and leaves over ${transport.name}`, async () => {
          const { socket, events } = await app.online(1, helper(), { transport });
          const { id } = await app.raise(0, citizen());
          assert.equal((await events.take('emergency:created', about(id))).emergency.id, id);
          assert.equal((await ask(socket, 'emergency:join', { emergencyId: id })).success, true);
          assert.equal((await ask(socket, 'emergency:leave', { emergencyId: id })).success, true);
        });
      }

      test('a token in the query works, too; without one, or with a bad one, the connection is refused', async () => {
        const claims = helper();
        const socket = await nodes[0].clients.connect({ namespace: NAMESPACE, auth: {}, query: { token: app.token(claims) } });
        const updated = once(socket, 'location:updated');
        socket.emit('location:update', { latitude: 40.7128, longitude: -74.006 });
        assert.deepEqual(await updated, [{ latitude: 40.7128, longitude: -74.006, message: 'Location updated successfully' }]);
        assert.equal((await refused(nodes[1].clients.socket({ namespace: NAMESPACE, auth: {} }))).message, 'Authentication required');
        assert.equal((await refused(nodes[1].clients.socket({ namespace: NAMESPACE, token: 'garbage' }))).message, 'Invalid token');
        assert.equal((await refused(nodes[0].clients.socket({ namespace: NAMESPACE, claims: { ...claims, exp: 1 } }))).message, 'Token expired');
      });
    });
  });
}
