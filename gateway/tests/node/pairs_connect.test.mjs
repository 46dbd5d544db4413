// The state when a client is connected, events before that, and events that a client sends before it closes.

import { testPairs } from './support/pairs.mjs';
import { chatter, done, emit, hearsEarly, must, order, patient, person, relay, rest, settle } from './support/pairs_people.mjs';
import { citizen, helper, place } from './support/emergencies.mjs';
import { OPCODE, encodeFrame, rawSocketIo } from './support/raw.mjs';
import { internal } from './support/cluster.mjs';
import { once } from './support/wait.mjs';

const EMERGENCIES = '/emergencies';

/** Connects a client, runs `then(socket)` in the same turn as `connect`, and returns the client. */
async function connectAnd(world, at, claims, then) {
  let outcome;
  const one = await person(world, at, { ...claims, watch: (socket) => socket.on('connect', () => { outcome = then(socket); }) });
  await outcome;
  return one;
}

/**
 * Connects a client with `claims`, emits to `room` through the other node at `connect`, and returns whether the
 * client received it.
 */
async function hearsAtConnect(world, claims, room) {
  // Parallel runs use the same room.
  const event = world.name('event');
  const one = await connectAnd(world, 0, claims, () => emit(world, 1, { room }, event, 1, claims.namespace ?? '/'));
  await settle(world, one);
  return order(one, event).length === 1;
}

testPairs('connecting', {}, {
  'events of a backend, then CONNECT\'s answer': {
    run: (world) => hearsEarly(world, (user) => emit(world, world.pick(0, 1), { user }, 'event', 1, '/relay')),
  },

  'sos: connect, then an event to an incident that the user takes part in': {
    async run(world) {
      const claims = { sub: world.name('user'), name: 'Ann' };
      const sosId = world.name('sos');
      await done(world, 1, 'POST', `/api/sos/${sosId}/participants/join`, claims);
      return (await hearsAtConnect(world, claims, `sos:${sosId}`)) ? undefined : 'the event was missed';
    },
  },

  'emergencies: connect, then an event to helpers': {
    run: async (world) => ((await hearsAtConnect(world, { ...helper(), namespace: EMERGENCIES }, 'helpers')) ? undefined : 'the event was missed'),
  },

  'emergencies: connect, then an event to an emergency of the user': {
    async run(world) {
      const owner = citizen();
      const { id } = await done(world, 1, 'POST', '/api/v1/emergencies', owner, { type: 'medical', location: place() });
      return (await hearsAtConnect(world, { ...owner, namespace: EMERGENCIES }, `emergency:${id}`)) ? undefined : 'the event was missed';
    },
  },

  'care: connected, then presence:get': {
    async run(world) {
      const asker = await patient(world, 1);
      const user = world.name('user');
      let asked;
      const one = await person(world, 0, { sub: user, watch: (socket) => socket.on('connected', () => { asked = must(asker, 'presence:get', { userIds: [user] }); }) });
      await one.events.take('connected');
      const { presences: [{ status }] } = await asked;
      return status === 'online' ? undefined : `the user is ${status}`;
    },
  },

  'care: connect, then a notification': {
    async run(world) {
      const user = world.name('user');
      const notify = () => internal(world.nodes[1], 'POST', '/internal/notifications', { userId: user, title: 't', message: 'm' });
      const one = await connectAnd(world, 0, { sub: user }, notify);
      await settle(world, one);
      return order(one, 'notification:new').length === 1 ? undefined : 'the notification was missed';
    },
  },

  'sos: a user leaves while a socket of theirs connects, then an event': {
    async run(world) {
      const claims = { sub: world.name('user'), name: 'Ann' };
      const sosId = world.name('sos');
      await done(world, 0, 'POST', `/api/sos/${sosId}/participants/join`, claims);
      const connected = person(world, 0, claims).catch((error) => error);
      await world.wait(0, 8);
      await done(world, 1, 'PATCH', `/api/sos/${sosId}/participants/${claims.sub}/leave`, claims);
      await emit(world, 1, { room: `sos:${sosId}` }, 'event', 1);
      const one = await connected;
      if (!one.socket?.connected) return undefined;
      await Promise.race([settle(world, one), once(one.socket, 'disconnect')]);
      if (order(one, 'event').length > 0) return 'the former participant got the event';
      if (!one.socket.connected) return undefined;
      await emit(world, 0, { room: `sos:${sosId}` }, 'event', 1);
      await settle(world, one);
      return order(one, 'event').length === 0 ? undefined : 'the former participant stayed in the room';
    },
  },

  'a token that loses its rooms, then an event': {
    async run(world) {
      const room = world.name('room');
      const one = await relay(world, 0, [room]);
      const token = world.nodes[0].token({ ...one.claims, rooms: [] });
      await must(one, 'auth:refresh', { token });
      await world.pause();
      await emit(world, 1, { room }, 'event', 1, '/relay');
      await settle(world, one);
      return order(one, 'event').length === 0 ? undefined : 'the socket without access got the event';
    },
  },

  'chat: three messages, a close frame and the end of the connection': {
    async run(world) {
      const roomId = world.name('room');
      const watcher = await chatter(world, 1, roomId);
      const ws = await rawSocketIo(world.nodes[0].port, { token: world.nodes[0].token({ sub: world.name('writer') }) });
      ws.send(`420${JSON.stringify(['join_room', roomId])}`);
      for (let text = ''; !text.startsWith('430');) text = String(await ws.nextText());
      const frames = [1, 2, 3].map((content) => encodeFrame({ payload: `42${JSON.stringify(['send_message', { roomId, content: String(content) }])}` }));
      const close = encodeFrame({ opcode: OPCODE.close });
      if (world.pick(true, false)) {
        ws.sendBytes(Buffer.concat([...frames, close]));
      } else {
        for (const frame of [...frames, close]) {
          ws.sendBytes(frame);
          await world.pause(2);
        }
      }
      ws.connection.end();
      const missed = await watcher.events.count('new_message', 3, { timeout: 3_000 }).then(() => 0, () => 3 - watcher.events.seen('new_message').length);
      ws.destroy();
      return missed === 0 ? undefined : `${missed} of 3 were lost`;
    },
  },
});
