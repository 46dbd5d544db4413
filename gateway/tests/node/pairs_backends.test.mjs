// A backend's request or event through Redis, and its next request or event: on one node, on one node of two, over
// two nodes.

import { setTimeout as delay } from 'node:timers/promises';

import { testPairs } from './support/pairs.mjs';
import { chatter, hearsEarly, members, must, order, person, relay, settle } from './support/pairs_people.mjs';
import { once, within } from './support/wait.mjs';

const RELAY = '/relay';
const EMITTER = ({ backends }) => backends.emitter.of(RELAY);
const SERVER = ({ backends }) => backends.server.of(RELAY);

/** Two clients of relay, one on each node, in these rooms. */
const two = (world, ...rooms) => Promise.all([0, 1].map((at) => relay(world, at, rooms)));

/** Resolves when a backend's earlier events have reached these clients, and theirs each other. */
async function settledBy(backend, world, people) {
  const mark = world.name('mark');
  for (const { socket } of people) backend.to(socket.id).emit(mark);
  await Promise.all(people.map(({ events }) => events.take(mark)));
}

const joinThenEvent = (sender) => async (world) => {
  const backend = sender(world);
  const [all, room] = [world.name('all'), world.name('room')];
  const people = await two(world, all);
  backend.in(all).socketsJoin(room);
  await world.pause();
  backend.to(room).emit('event');
  await settledBy(backend, world, people);
  return people.every((one) => order(one, 'event').length === 1) ? undefined : 'a moved-in socket missed the event';
};

const leaveThenEvent = (sender) => async (world) => {
  const backend = sender(world);
  const [all, room] = [world.name('all'), world.name('room')];
  const people = await two(world, all, room);
  backend.in(all).socketsLeave(room);
  await world.pause();
  backend.to(room).emit('event');
  await settledBy(backend, world, people);
  return people.every((one) => order(one, 'event').length === 0) ? undefined : 'a removed socket got the event';
};

const disconnectThenEvent = (sender) => async (world) => {
  const backend = sender(world);
  const room = world.name('room');
  const people = await two(world, room);
  const gone = people.map(({ socket }) => once(socket, 'disconnect'));
  backend.in(room).disconnectSockets();
  await world.pause();
  backend.to(room).emit('event');
  await Promise.all(gone);
  return people.every((one) => order(one, 'event').length === 0) ? undefined : 'a disconnected socket got the event';
};

const byBoth = (what, run) => ({
  [`an emitter's ${what}`]: { run: run(EMITTER), isOnNodejs: true },
  [`a Node.js server's ${what}`]: { run: run(SERVER), isOnNodejs: true },
});

/** Sends a message to a chat room and returns it. */
const send = async (one, roomId, content) => (await must(one, 'send_message', { roomId, content })).message;

testPairs('a backend on Redis', { hasBackends: true }, {
  ...byBoth('socketsJoin, then an event', joinThenEvent),
  ...byBoth('socketsLeave, then an event', leaveThenEvent),
  ...byBoth('disconnectSockets, then an event', disconnectThenEvent),

  'a Node.js server\'s emitWithAck, then an event': {
    isOnNodejs: true,
    async run(world) {
      const backend = SERVER(world);
      const room = world.name('room');
      const people = await two(world, room);
      for (const { socket } of people) socket.on('question', (answer) => answer(1));
      const answered = backend.to(room).timeout(5_000).emitWithAck('question');
      await world.pause();
      backend.to(room).emit('event');
      await within(answered, 6_000, 'the answers');
      await settledBy(backend, world, people);
      return people.every((one) => order(one, 'question', 'event').join() === 'question,event') ? undefined : 'the event overtook the question';
    },
  },

  'a Node.js server\'s disconnectSockets, then fetchSockets': {
    isOnNodejs: true,
    async run(world) {
      const backend = SERVER(world);
      const room = world.name('room');
      await two(world, room);
      backend.in(room).disconnectSockets();
      await world.pause();
      const found = await within(backend.in(room).fetchSockets(), 6_000, 'fetchSockets');
      return found.length === 0 ? undefined : 'a disconnected socket is listed';
    },
  },

  'a backend\'s disconnectSockets as the client sees it, then the members': {
    async run(world) {
      const room = world.name('room');
      const [one, other] = await two(world, room);
      const gone = once(one.socket, 'disconnect');
      const { id } = one.socket;
      EMITTER(world).in(id).disconnectSockets();
      await gone;
      await world.pause(1);
      const here = await members(world, world.pick(0, 1), room, RELAY);
      if (here.includes(id)) return 'a disconnected socket is counted';
      return here.includes(other.socket.id) ? undefined : 'a member is not counted';
    },
  },

  'a ban while a socket connects': {
    isOnNodejs: true,
    async run(world) {
      const user = world.name('banned');
      const room = `user:${user}`;
      const { requests, servers } = world.backends;
      const socket = world.socket(0, { namespace: RELAY, claims: { sub: user, rooms: ['*'] } });
      let isGone = false;
      const gone = new Promise((resolve) => { socket.on('disconnect', () => { isGone = true; resolve(); }); });
      await once(socket.io, 'open');
      await world.pause(4);
      // A request just before the ban shows which sockets the nodes know at that moment.
      for (;;) {
        const wasConnected = socket.connected;
        const find = requests.fetch(room);
        requests.in(room).disconnectSockets();
        const found = await find(servers);
        if (found.length > 0) break;
        if (wasConnected) return 'it is connected, and not found';
        await world.pause(1);
      }
      await within(gone, 3_000, 'the end').catch(() => {});
      return isGone ? undefined : 'it stayed connected';
    },
  },

  'events of a backend, then CONNECT\'s answer': {
    isOnNodejs: true,
    run: (world) => hearsEarly(world, async (user) => {
      EMITTER(world).to(`user:${user}`).emit('event');
      await delay(1);
    }),
  },

  'chat: socketsLeave of a node\'s only member, other users\' messages, then room_history': {
    async run(world) {
      const roomId = world.name('room');
      const [one, other] = [await chatter(world, 0, roomId), await chatter(world, 1, roomId)];
      const { emitter } = world.backends;
      await send(other, roomId, 'before');
      emitter.in(one.socket.id).socketsLeave(`room:${roomId}`);
      emitter.to(one.socket.id).emit('out');
      await one.events.take('out');
      await world.pause();
      const sent = [await send(other, roomId, 'first'), await send(other, roomId, 'second')];
      await world.pause();
      await must(one, 'join_room', roomId);
      const { messages } = await one.events.take('room_history');
      const missing = sent.filter(({ id }) => !messages.some((message) => message.id === id)).length;
      if (missing > 0) return `${missing} of ${sent.length} are missing in the history`;
      const last = await send(other, roomId, 'last');
      await one.events.take('new_message', ({ id }) => id === last.id);
      await settle(world, one);
      return one.events.seen('new_message', ({ id }) => sent.some((each) => each.id === id)).length === 0 ? undefined : 'messages of the history came again';
    },
  },

  'chat: a backend\'s socketsJoin and socketsLeave, and the messages of steady members': {
    async run(world) {
      const roomId = world.name('room');
      const steady = await Promise.all([0, 1].map((at) => chatter(world, at, roomId)));
      const moved = await Promise.all([0, 1].map((at) => person(world, at)));
      const { emitter } = world.backends;
      const sent = [];
      for (let n = 0; n < 8; n += 1) {
        for (const { socket } of moved) {
          if (n % 2 === 0) emitter.in(socket.id).socketsJoin(`room:${roomId}`);
          else emitter.in(socket.id).socketsLeave(`room:${roomId}`);
        }
        await world.pause();
        sent.push((await send(steady[n % 2], roomId, String(n))).id);
      }
      await Promise.all(steady.map(({ events }) => events.take('new_message', ({ id }) => id === sent.at(-1))));
      await settle(world, ...steady);
      for (const { events } of steady) {
        const got = events.seen('new_message').map(([{ id }]) => id);
        if (new Set(got).size < got.length) return 'a message came twice';
        if (got.join() !== sent.slice(0, -1).join()) return got.length < sent.length - 1 ? 'a message was lost' : 'messages came in another order';
      }
      return undefined;
    },
  },

  'chat: members whom a backend moves are announced like other members': {
    async run(world) {
      const roomId = world.name('room');
      const steady = await chatter(world, 0, roomId);
      const moved = await person(world, 1);
      const { emitter } = world.backends;
      const isMoved = ({ userId }) => userId === moved.user;
      emitter.in(moved.socket.id).socketsJoin(`room:${roomId}`);
      if (!(await steady.events.take('user_joined', isMoved, { timeout: 2_000 }).catch(() => false))) return 'no user_joined';
      await world.pause();
      emitter.in(moved.socket.id).socketsLeave(`room:${roomId}`);
      return (await steady.events.take('user_left', isMoved, { timeout: 2_000 }).catch(() => false)) ? undefined : 'no user_left';
    },
  },
});
