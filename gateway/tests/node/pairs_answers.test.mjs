// An answer reflects the state of every node: a removed socket receives nothing more and is no longer counted.

import assert from 'node:assert/strict';

import { testPairs } from './support/pairs.mjs';
import { done, emit, members, must, order, patient, person, relay, rest, settle } from './support/pairs_people.mjs';
import { internal } from './support/cluster.mjs';
import { citizen, helper, place } from './support/emergencies.mjs';
import { eventually, once } from './support/wait.mjs';

/** Grants a room of care, and retries while a node has not confirmed in time. */
const grant = (world, at, roomId, people) => eventually(async () => {
  const { status, body } = await internal(world.nodes[at], 'PUT', `/internal/rooms/${roomId}/members`, { userIds: people.map(({ user }) => user) });
  assert.equal(status, 200, JSON.stringify(body));
  return !body.data.incomplete;
}, { timeout: 15_000 });

const joinSos = (world, at, sosId, { claims }) => done(world, at, 'POST', `/api/sos/${sosId}/participants/join`, claims);
const leaveSos = (world, at, sosId, { claims }) => done(world, at, 'PATCH', `/api/sos/${sosId}/participants/${claims.sub}/leave`, claims);

/** A participant of an incident with a socket on each node, and another participant. */
async function takingPart(world) {
  const sosId = world.name('sos');
  const one = await person(world, 0);
  const more = await person(world, 1, one.claims);
  const other = await person(world, 1);
  for (const each of [one, other]) await joinSos(world, 0, sosId, each);
  await eventually(async () => (await members(world, 0, `sos:${sosId}`)).length === 3, { what: 'all to be in the room' });
  return { sosId, one, more, other };
}

testPairs('an answer, and the next request or event', {}, {
  'care: a grant withdrawn beside a busy backend, then an event': {
    async run(world) {
      const roomId = `visit:${world.name('v')}`;
      const [stays, goes] = [await patient(world, 0), await patient(world, 1)];
      await grant(world, 0, roomId, [stays, goes]);
      for (const one of [stays, goes]) await must(one, 'room:join', { roomId });
      let [said, isOver] = [0, false];
      const backend = async (at) => {
        while (!isOver) await emit(world, at, { room: roomId }, 'event', said += 1);
      };
      const busy = [backend(0), backend(1)];
      await world.pause();
      await grant(world, world.pick(0, 1), roomId, [stays]);
      const withdrawn = said;
      await world.pause();
      isOver = true;
      await Promise.all(busy);
      await emit(world, world.pick(0, 1), { room: roomId }, 'event', said += 1);
      await settle(world, goes);
      const late = goes.events.seen('event').filter(([n]) => n > withdrawn).length;
      return late === 0 ? undefined : 'a socket without access got an event';
    },
  },

  'care: a grant withdrawn and given back, join acked, then an event': {
    async run(world) {
      const roomId = `visit:${world.name('v')}`;
      const [stays, goes] = [await patient(world, 0), await patient(world, 1)];
      await grant(world, 0, roomId, [stays, goes]);
      for (const one of [stays, goes]) await must(one, 'room:join', { roomId });
      await grant(world, 0, roomId, [stays]);
      await world.pause();
      await grant(world, 0, roomId, [stays, goes]);
      await must(goes, 'room:join', { roomId });
      await world.pause();
      await emit(world, 0, { room: roomId }, 'event', 1);
      const here = await members(world, 0, roomId);
      await settle(world, goes);
      if (order(goes, 'event').length === 0) return 'the new member missed the event';
      return here.includes(goes.socket.id) ? undefined : 'the new member is not counted';
    },
  },

  'sos: leave, then the count': {
    async run(world) {
      const { sosId, one } = await takingPart(world);
      await leaveSos(world, 0, sosId, one);
      await world.pause(1);
      const { body } = await internal(world.nodes[1], 'GET', `/internal/participants/${sosId}/count`);
      return body.data.count === 1 ? undefined : `${body.data.count} sockets were counted instead of 1`;
    },
  },

  'sos: a socket that its user\'s leave disconnects, then the members': {
    async run(world) {
      const { sosId, one, more, other } = await takingPart(world);
      const ended = [one, more].map(async ({ socket }) => {
        const { id } = socket;
        await once(socket, 'disconnect');
        return (await members(world, 1, `sos:${sosId}`)).includes(id);
      });
      const leaving = leaveSos(world, 0, sosId, one);
      const counted = (await Promise.all(ended)).filter(Boolean).length;
      await leaving;
      if (!(await members(world, 1, `sos:${sosId}`)).includes(other.socket.id)) return 'a member was not counted';
      return counted === 0 ? undefined : 'a disconnected socket was counted';
    },
  },

  'emergencies: a helper cancels, then the members': {
    async run(world) {
      const claims = helper();
      const namespace = '/emergencies';
      const owner = await person(world, 0, { namespace, ...citizen() });
      const helping = await Promise.all([0, 1].map((at) => person(world, at, { namespace, ...claims })));
      const { id } = await done(world, 0, 'POST', '/api/v1/emergencies', owner.claims, { type: 'medical', location: place() });
      await done(world, 1, 'POST', `/api/v1/emergencies/${id}/respond`, claims);
      await eventually(async () => (await members(world, 0, `emergency:${id}`, namespace)).length === 3, { what: 'all to be in the room' });
      await done(world, 0, 'PUT', `/api/v1/emergencies/${id}/helper-status`, claims, { status: 'cancelled' });
      await world.pause(1);
      const here = await members(world, 1, `emergency:${id}`, namespace);
      if (helping.some(({ socket }) => here.includes(socket.id))) return 'a helper who had cancelled was counted';
      return here.includes(owner.socket.id) ? undefined : 'the owner was not counted';
    },
  },

  'relay: a token that loses a room, then the members': {
    async run(world) {
      const room = world.name('room');
      const one = await relay(world, 0, [room]);
      await must(one, 'auth:refresh', { token: world.nodes[0].token({ ...one.claims, rooms: [] }) });
      await world.pause(1);
      return (await members(world, 1, room, '/relay')).length === 0 ? undefined : 'a socket without access was counted';
    },
  },

  'sos: join, then an event': {
    async run(world) {
      const sosId = world.name('sos');
      const one = await person(world, 0);
      const more = await person(world, 1, one.claims);
      await joinSos(world, 1, sosId, one);
      await emit(world, world.pick(0, 1), { room: `sos:${sosId}` }, 'event', 1);
      await settle(world, one, more);
      return [one, more].every((each) => order(each, 'event').length === 1) ? undefined : 'the new participant missed the event';
    },
  },

  'emergencies: respond, then an event': {
    async run(world) {
      const claims = helper();
      const namespace = '/emergencies';
      const helping = await Promise.all([0, 1].map((at) => person(world, at, { namespace, ...claims })));
      const { id } = await done(world, 0, 'POST', '/api/v1/emergencies', citizen(), { type: 'medical', location: place() });
      await done(world, 1, 'POST', `/api/v1/emergencies/${id}/respond`, claims);
      await emit(world, world.pick(0, 1), { room: `emergency:${id}` }, 'event', 1, namespace);
      await settle(world, ...helping);
      return helping.every((each) => order(each, 'event').length === 1) ? undefined : 'the responding helper missed the event';
    },
  },
});
