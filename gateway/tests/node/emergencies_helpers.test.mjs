// Helpers around emergencies: nearby helpers, presence, locations, messages and rates.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { ask } from './support/clients.mjs';
import { HOLDBACK_MS, count } from './support/cluster.mjs';
import { ISO, NAMESPACE, SITES, UUID_V7, about, citizen, emergencies, helper, north, place, refusal } from './support/emergencies.mjs';
import { eventually, once } from './support/wait.mjs';

/** Waits for events after a hold-back. */
const LATER = { timeout: HOLDBACK_MS + 10_000 };
const UNKNOWN = '507f1f77bcf86cd799439011';
const byId = (one, other) => (one.id < other.id ? -1 : 1);

for (const site of SITES) {
  describe(`helpers on ${site.name}`, () => {
    let nodes;
    let stop;
    let app;
    before(async () => {
      ({ nodes, stop } = await site.start());
      app = emergencies(nodes);
    });
    after(() => stop?.());

    /** Sends a user's location. */
    const locate = async ({ socket }, at) => assert.deepEqual(await ask(socket, 'location:update', at), { success: true, ...at, message: 'Location updated successfully' });
    const nearby = async (at, location) => (await app.raise(at, citizen(), { location })).nearbyHelperCount;

    describe('near', () => {
      test('helpers within five kilometres receive the distance on all their sockets; other users do not', async () => {
        const centre = place();
        const twice = helper({ verified: undefined });
        const [close, also, edge, outside, silent, passer] = await Promise.all([app.online(0, twice), app.online(1, twice), app.online(1, helper({ role: 'rescuer' })), app.online(0, helper()), app.online(1, helper()), app.online(0, citizen())]);
        await locate(close, north(centre, 1_000));
        await locate(edge, north(centre, -4_800));
        await locate(outside, north(centre, 5_200));
        await locate(passer, centre);
        const { nearbyHelperCount, ...emergency } = await app.raise(1, citizen(), { location: centre });
        assert.equal(nearbyHelperCount, 2, 'helpers, not their sockets');
        for (const [person, metres] of [[close, 1_000], [also, 1_000], [edge, 4_800]]) {
          const { distance, ...received } = await person.events.take('emergency:nearby', about(emergency.id));
          assert.deepEqual(received, { emergency });
          assert.ok(Number.isInteger(distance) && Math.abs(distance - metres) < metres / 100, `${distance} for ${metres}`);
          assert.equal((await person.events.take('emergency:created', about(emergency.id))).nearbyHelperCount, 2);
        }
        await app.quiet(1, close, outside, silent, passer);
        for (const { events } of [close, outside, silent, passer]) assert.deepEqual(events.seen('emergency:nearby', about(emergency.id)), []);
        for (const { events } of [outside, silent]) assert.equal(events.seen('emergency:created', about(emergency.id)).length, 1);

        await locate(also, north(centre, 20_000));
        assert.equal(await nearby(0, centre), 1, 'a helper\'s last location counts, from any socket');
      });

      test('a disconnected helper is not near, and one with another socket still is', async () => {
        const centre = place();
        const claims = helper();
        const [one, other] = await Promise.all([app.online(0, claims), app.online(1, claims)]);
        await locate(one, centre);
        assert.equal(await nearby(1, centre), 1);
        const watcher = await app.online(1, citizen());
        const { id } = await app.raise(0, watcher.claims);
        await app.respond(0, id, claims);
        await app.gathered(id, 3);
        one.socket.disconnect();
        await app.gathered(id, 2);
        assert.equal(await nearby(0, centre), 1);
        other.socket.disconnect();
        await watcher.events.take('helper:offline', about(id), LATER);
        await eventually(async () => (await nearby(1, centre)) === 0, { timeout: 10_000, interval: 250, what: 'no helper to be near' });
      });

      test('an invalid location is refused', async () => {
        const { socket, events } = await app.online(0, helper());
        for (const payload of [undefined, null, 'here', [], {}, { latitude: 1 }, { latitude: 91, longitude: 0 }, { latitude: 0, longitude: 181 }, { latitude: '1', longitude: 1 }, { latitude: null, longitude: null }]) {
          refusal(await ask(socket, 'location:update', payload));
        }
        socket.emit('location:update', { latitude: 91, longitude: 0 });
        assert.equal(typeof (await events.take('error')).message, 'string');
        assert.deepEqual(events.seen('location:updated'), []);
      });
    });

    describe('on the way', () => {
      test('a responding helper\'s location goes to the other members of their open emergencies\' rooms', async () => {
        const claims = helper();
        const [sender, second, one, two, watcher, bystander] = await Promise.all([app.online(0, claims), app.online(1, claims), app.online(1, citizen()), app.online(0, citizen()), app.online(1, helper()), app.online(0, helper())]);
        const first = await app.raise(0, one.claims);
        const other = await app.raise(1, two.claims);
        await ask(watcher.socket, 'emergency:join', { emergencyId: first.id });
        await locate(sender, { latitude: 1, longitude: 2 });
        for (const { id } of [first, other]) await app.respond(0, id, claims);
        await app.gathered(first.id, 4);
        await app.gathered(other.id, 3);

        const at = { latitude: 40.7128, longitude: -74.006 };
        await locate(sender, at);
        assert.deepEqual((await sender.events.take('location:updated', ({ latitude }) => latitude === at.latitude)), { ...at, message: 'Location updated successfully' });
        for (const [{ events }, { id }] of [[one, first], [watcher, first], [two, other], [second, first], [second, other]]) {
          const received = await events.take('helper:location', about(id));
          assert.match(received.timestamp, ISO);
          assert.deepEqual(received, { emergencyId: id, helperId: claims.sub, ...at, timestamp: received.timestamp });
        }
        await locate(two, { latitude: 3, longitude: 4 });
        await locate(watcher, { latitude: 5, longitude: 6 });
        for (const node of [0, 1]) await app.quiet(node, sender, one, two, watcher, bystander);
        for (const { events } of [sender, one, two, watcher, bystander]) assert.deepEqual(events.seen('helper:location'), [], 'not to the sender, once to other members; only from responding helpers');

        await app.resolve(0, first.id, one.claims);
        await app.setStatus(1, other.id, claims, { status: 'cancelled' });
        await app.gathered(other.id, 1);
        await locate(sender, { latitude: 7, longitude: 8 });
        for (const node of [0, 1]) await app.quiet(node, one, two);
        for (const { events } of [one, two]) assert.deepEqual(events.seen('helper:location'), [], 'closed or left emergencies receive no more locations');
      });
    });

    describe('there', () => {
      test('a helper\'s first socket and the loss of the last are announced, once, in their emergencies', async () => {
        const [owner, watcher] = await Promise.all([app.online(0, citizen()), app.online(1, helper())]);
        const claims = helper();
        const { id } = await app.raise(1, owner.claims);
        await app.respond(1, id, claims);
        await ask(watcher.socket, 'emergency:join', { emergencyId: id });
        await app.gathered(id, 2);
        const one = await app.online(1, claims);
        const there = await owner.events.take('helper:online');
        assert.match(there.timestamp, ISO);
        assert.deepEqual(there, { helperId: claims.sub, emergencyId: id, timestamp: there.timestamp });
        assert.equal((await watcher.events.take('helper:online')).helperId, claims.sub);
        const other = await app.online(0, claims);
        await app.gathered(id, 4);
        // A helper who only watches is not announced.
        watcher.socket.disconnect();
        one.socket.disconnect();
        await app.gathered(id, 2);
        other.socket.io.engine.close();
        const gone = await owner.events.take('helper:offline', () => true, LATER);
        assert.match(gone.timestamp, ISO);
        assert.deepEqual(gone, { helperId: claims.sub, emergencyId: id, timestamp: gone.timestamp });

        const back = await app.online(0, claims);
        assert.equal((await owner.events.take('helper:online')).helperId, claims.sub);
        back.socket.disconnect();
        await owner.events.take('helper:offline', () => true, LATER);
        await app.resolve(0, id, owner.claims);
        await app.online(1, claims);
        for (const at of [0, 1]) await app.quiet(at, owner);
        assert.deepEqual([owner.events.seen('helper:online'), owner.events.seen('helper:offline')], [[], []]);
      });
    });

    describe('a renewed token', () => {
      test('adds and removes the helper\'s role', async () => {
        const [former, coming] = await Promise.all([app.online(0, helper()), app.online(1, citizen())]);
        const refresh = async ({ socket, claims }, role) => assert.equal((await ask(socket, 'auth:refresh', { token: app.token({ ...claims, role }) })).success, true);
        await Promise.all([refresh(former, 'citizen'), refresh(coming, 'helper')]);
        const { id } = await app.raise(0, citizen());
        const about = ({ emergency }) => emergency.id === id;
        await coming.events.take('emergency:created', about);
        await app.quiet(0, former);
        assert.deepEqual(former.events.seen('emergency:created', about), []);
      });
    });

    describe('back again', () => {
      test('owner and responding helper enter the room automatically, on any node', async () => {
        const [owner, responder] = [citizen(), helper()];
        const { id } = await app.raise(0, owner);
        await app.respond(1, id, responder);
        const sockets = await Promise.all([app.online(0, owner), app.online(1, owner), app.online(0, responder), app.online(1, responder)]);
        await app.gathered(id, 4);
        await app.setStatus(0, id, responder, { status: 'on_way' });
        for (const { events } of sockets) assert.equal((await events.take('helper:status_update')).status, 'on_way');
      });

      test('a user who lost the connection receives events again after reconnecting', async () => {
        const owner = await app.online(0, citizen(), { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 100 });
        const responder = helper();
        const { id } = await app.raise(1, owner.claims);
        await app.respond(0, id, responder);
        await owner.events.take('helper:joined');
        const back = once(owner.socket, 'connect');
        owner.socket.io.engine.close();
        await back;
        assert.equal((await ask(owner.socket, 'auth:refresh', { token: app.token(owner.claims) })).success, true);
        await app.setStatus(1, id, responder, { status: 'arrived' });
        assert.equal((await owner.events.take('helper:status_update')).status, 'arrived');
      });

      test('users do not enter rooms of closed emergencies, nor helpers those they cancelled', async () => {
        const [owner, responder, quitter] = [citizen(), helper(), helper()];
        const over = await app.raise(0, owner);
        await app.respond(0, over.id, responder);
        await app.cancel(0, over.id, owner);
        const open = await app.raise(1, citizen());
        await app.respond(1, open.id, quitter);
        await app.setStatus(1, open.id, quitter, { status: 'cancelled' });
        await Promise.all([app.online(0, owner), app.online(1, responder), app.online(0, quitter)]);
        for (const { id } of [over, open]) assert.equal((await count(nodes[0], `emergency:${id}`, NAMESPACE)).count, 0);
      });
    });

    describe('private messages', () => {
      const say = (person, emergencyId, message, recipientId) => ask(person.socket, 'emergency:message', { emergencyId, message, ...(recipientId ? { recipientId } : {}) });

      /** An emergency with two responding helpers and one who watches. */
      const scene = async () => {
        const caller = citizen();
        const [owner, phone, first, second, watcher] = await Promise.all([app.online(0, caller), app.online(1, caller), app.online(1, helper()), app.online(0, helper()), app.online(1, helper())]);
        const { id } = await app.raise(0, caller);
        for (const { claims } of [first, second]) await app.respond(1, id, claims);
        await ask(watcher.socket, 'emergency:join', { emergencyId: id });
        await app.gathered(id, 5);
        return { id, owner, phone, first, second, watcher };
      };

      test('they reach their recipients, and are stored for them', async () => {
        const { id, owner, phone, first, second, watcher } = await scene();
        const [caller, helperOne, helperTwo] = [owner, first, second].map(({ claims }) => claims.sub);
        const received = [];
        const check = async (sender, text, to, expected, receivers) => {
          const { success, message } = await say(sender, id, text, to);
          assert.equal(success, true);
          assert.match(message.id, UUID_V7);
          assert.match(message.timestamp, ISO);
          assert.deepEqual(message, { id: message.id, emergencyId: id, ...expected, message: text, timestamp: message.timestamp });
          for (const { events } of receivers) assert.deepEqual(await events.take('emergency:message'), message);
          received.push(message);
        };
        await check(owner, 'Which floor are you on?', helperOne, { senderId: caller, senderRole: 'owner', recipientId: helperOne }, [phone, first]);
        await check(phone, 'The door is open', undefined, { senderId: caller, senderRole: 'owner', recipientId: null }, [owner, first, second]);
        await check(first, 'The third', undefined, { senderId: helperOne, senderRole: 'helper', recipientId: caller }, [owner, phone]);
        await check(second, '🚑'.repeat(1_000), caller, { senderId: helperTwo, senderRole: 'helper', recipientId: caller }, [owner, phone]);
        for (const at of [0, 1]) await app.quiet(at, owner, phone, first, second, watcher);
        for (const { events } of [owner, phone, first, second, watcher]) assert.deepEqual(events.seen('emergency:message'), [], 'no other user, and none twice');

        const kept = async (claims, query = '') => {
          const { status, body, text } = await app.api(1, 'GET', `/${id}/messages${query}`, claims);
          assert.equal(status, 200, text);
          assert.deepEqual([body.success, body.count], [true, body.data.length]);
          assert.match(body.timestamp, ISO);
          return body.data;
        };
        const [toFirst, toAll, fromFirst, fromSecond] = received;
        assert.deepEqual((await kept(owner.claims)).sort(byId), [...received].sort(byId));
        assert.deepEqual((await kept(first.claims)).sort(byId), [toFirst, toAll, fromFirst].sort(byId));
        assert.deepEqual((await kept(second.claims)).sort(byId), [toAll, fromSecond].sort(byId));
        assert.deepEqual(await kept(owner.claims, '?limit=1'), [fromSecond]);
        assert.deepEqual(await kept(owner.claims, `?limit=1&before=${fromSecond.id}`), [fromFirst]);
        assert.deepEqual(await kept(second.claims, `?before=${fromSecond.id}`), [toAll]);
        for (const claims of [watcher.claims, citizen()]) await app.bad(403, 0, 'GET', `/${id}/messages`, claims);
        await app.bad(400, 0, 'GET', `/${id}/messages?limit=abc`, owner.claims);
      });

      test('only from and to responding helpers, and neither empty nor too long', async () => {
        const { id, owner, first, second, watcher } = await scene();
        for (const to of [watcher.claims.sub, owner.claims.sub, 'nobody', 'a\nb', 7]) refusal(await say(owner, id, 'hello', to));
        refusal(await say(first, id, 'hello', second.claims.sub));
        refusal(await say(watcher, id, 'hello'));
        refusal(await say(await app.online(1, citizen()), id, 'hello'));
        refusal(await say(owner, UNKNOWN, 'hello'));
        for (const text of ['', 'x'.repeat(1_001), '🚑'.repeat(1_001), 7, null, {}]) refusal(await say(first, id, text));
        for (const payload of [undefined, null, 'hello', {}, { emergencyId: id }, { message: 'hello' }]) refusal(await ask(second.socket, 'emergency:message', payload));
        watcher.socket.emit('emergency:message', { emergencyId: id, message: 'hello' });
        assert.equal(typeof (await watcher.events.take('error')).message, 'string');

        await app.setStatus(0, id, second.claims, { status: 'cancelled' });
        await app.gathered(id, 4);
        refusal(await say(second, id, 'hello'));
        refusal(await say(owner, id, 'hello', second.claims.sub));
        assert.equal((await say(owner, id, 'to those who come')).success, true);
        assert.equal((await first.events.take('emergency:message')).message, 'to those who come');
        for (const at of [0, 1]) await app.quiet(at, owner, first, second, watcher);
        for (const { events } of [owner, first, second, watcher]) assert.deepEqual(events.seen('emergency:message'), []);
      });
    });

    describe('rates', () => {
      /** Sends `times` requests at once: at least `burst` are accepted, and the rest are refused with this error. */
      const limited = async (times, burst, one) => {
        const answers = await Promise.all(Array.from({ length: times }, (_, at) => one(at)));
        const refused = answers.filter(({ success }) => !success);
        assert.ok(times - refused.length >= burst, `${times - refused.length} of ${times} were accepted`);
        assert.ok(refused.length > 0, `all ${times} were accepted`);
        for (const answer of refused) refusal(answer, 'Too many requests');
      };

      test('raising emergencies', async () => {
        const owner = citizen();
        const location = place();
        await limited(30, 10, async () => {
          const { status, headers, body } = await app.api(0, 'POST', '', owner, { type: 'medical', location });
          assert.equal(status, body.success ? 201 : 429);
          if (status === 429) assert.ok(Number(headers['retry-after']) >= 1, 'and it says when to retry');
          return body;
        });
        await app.raise(0, citizen());
      });

      test('messages', async () => {
        const [owner, responder] = await Promise.all([app.online(0, citizen()), app.online(0, helper())]);
        const { id } = await app.raise(0, owner.claims);
        await app.respond(0, id, responder.claims);
        await limited(80, 20, (at) => ask(responder.socket, 'emergency:message', { emergencyId: id, message: `${at}` }));
        assert.equal((await ask(owner.socket, 'emergency:message', { emergencyId: id, message: 'I am here' })).success, true, 'per user, not for all');
      });

      test('places', async () => {
        const claims = helper();
        const [one, other] = await Promise.all([app.online(0, claims), app.online(0, claims)]);
        await limited(80, 20, (at) => ask((at % 2 ? one : other).socket, 'location:update', { latitude: 1, longitude: 1 }));
        assert.equal((await ask((await app.online(0, helper())).socket, 'location:update', { latitude: 1, longitude: 1 })).success, true);
      });

      test('joins', async () => {
        const { id } = await app.raise(0, citizen());
        const { socket, events } = await app.online(0, helper());
        await limited(160, 40, () => ask(socket, 'emergency:join', { emergencyId: id }));
        assert.ok(events.seen('emergency:joined').length >= 40);
        const words = once(socket, 'error');
        // More than the burst that may have accumulated since, however long it took.
        for (let more = 0; more < 60; more += 1) socket.emit('emergency:join', { emergencyId: id });
        assert.deepEqual(await words, [{ message: 'Too many requests' }], 'without an ack, it is an error event');
        const { socket: another } = await app.online(0, helper());
        assert.equal((await ask(another, 'emergency:join', { emergencyId: id })).success, true, 'per user, not for all');
      });
    });
  });
}
