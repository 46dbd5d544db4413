// Pairs of commands that a backend may send through one connection to Redis, and their required effects: the clients'
// events, the members of a room, the servers that answer. The same for the gateway's nodes and for Node.js servers,
// which are the control.

import assert from 'node:assert/strict';

import { unique } from './clients.mjs';
import { load } from './packages.mjs';
import { once, within } from './wait.mjs';

const { Emitter } = load('@socket.io/redis-emitter');
const msgpack = load('notepack.io');

/** The commands of a backend. */
export const KINDS = ['join', 'leave', 'disconnect', 'close', 'emit', 'emit to another room', 'emit to two', 'ask', 'fetch', 'servers'];

/** Every ordered pair of commands. */
export const PAIRS = KINDS.flatMap((first) => KINDS.map((second) => [first, second]));

const NAMESPACE = '/relay';

/** Collects answers to requests from the channel that all servers subscribe to: `answer(id)` returns those so far. */
export async function answersOn(client) {
  const answers = new Map();
  const waiting = new Set();
  await client.subscribe(`socket.io-response#${NAMESPACE}#`, (message) => {
    const answer = message[0] === 0x7b ? JSON.parse(message.toString()) : msgpack.decode(message);
    answers.set(answer.requestId, [...(answers.get(answer.requestId) ?? []), answer]);
    for (const look of [...waiting]) look();
  }, true);
  return {
    /** Resolves with the answers to `id` when `isEnough(answers)`. */
    wait: (id, isEnough, what) => within(new Promise((resolve) => {
      const look = () => {
        const found = answers.get(id) ?? [];
        if (!isEnough(found)) return;
        waiting.delete(look);
        resolve(found);
      };
      waiting.add(look);
      look();
    }), 5_000, what),
  };
}

/**
 * The npm emitter's commands on one connection; commands that it lacks are published on that connection as a server
 * would.
 */
export function emitterSender(client, answers) {
  const emitter = new Emitter(client).of(NAMESPACE);
  const request = (body) => client.publish(`socket.io-request#${NAMESPACE}#`, body);
  return {
    name: 'the emitter',
    in: (room) => emitter.in(room),
    ask: (room, event, n) => {
      const requestId = unique('ask');
      const packet = { type: 2, data: [event, n], nsp: NAMESPACE };
      request(msgpack.encode({ uid: 'backend', requestId, type: 7, packet, opts: { rooms: [room], except: [], flags: { timeout: 5_000 } } }));
      return async (servers, receivers) => {
        const isAll = (found) => found.filter(({ type }) => type === 8).length >= servers && found.filter(({ type }) => type === 9).length >= receivers;
        const found = await answers.wait(requestId, isAll, `${receivers} answers of ${servers} servers`);
        return found.filter(({ type }) => type === 9).map(({ packet }) => (Array.isArray(packet) ? packet[0] : packet));
      };
    },
    ...requests(request, answers),
    servers: () => emitter.serverSideEmit('nothing', 1),
  };
}

/** A Node.js server's commands. `client` is the connection that its adapter publishes on. */
export function serverSender(io, client, answers) {
  const namespace = io.of(NAMESPACE);
  const request = (body) => client.publish(`socket.io-request#${NAMESPACE}#`, body);
  return {
    name: 'a Node.js server',
    in: (room) => namespace.in(room),
    ask: (room, event, n) => {
      const answered = namespace.to(room).timeout(5_000).emitWithAck(event, n);
      answered.catch(() => {});
      return () => answered;
    },
    ...requests(request, answers),
    servers: () => namespace.serverSideEmit('nothing', 1),
  };
}

/** The adapter's `fetchSockets` queries the number of servers first; this sends its request directly instead. */
function requests(request, answers) {
  return {
    fetch: (room) => {
      const requestId = unique('fetch');
      request(JSON.stringify({ uid: 'backend', requestId, type: 5, opts: { rooms: [room], except: [] } }));
      return async (servers) => {
        const found = await answers.wait(requestId, ({ length }) => length >= servers, `descriptions by ${servers} servers`);
        return found.flatMap(({ sockets }) => sockets.map(({ id }) => id));
      };
    },
  };
}

/** Records everything that arrives for a socket, including packets after its end. */
function listen(socket) {
  const heard = [];
  const onPacket = ({ type, data }) => {
    if (type === 1) heard.push('disconnect');
    if (type === 2 || type === 5) heard.push(`${data[0]} ${data[1]}`);
  };
  socket.io.on('packet', onPacket);
  socket.on('ask', (n, ack) => ack(n));
  return { heard, stop: () => { socket.io.off('packet', onPacket); socket.off('ask'); } };
}

/**
 * Sends one pair and checks its effects. `sockets` are clients on the servers under test, `enter(socket, room)` makes
 * one enter a room by itself, `servers` is the number of servers that answer; `witnesses` are further clients, one per
 * server.
 */
export async function sayPair({ sender, pair, sockets, witnesses, enter, servers }) {
  const [all, room] = [unique('all'), unique('room')];
  const ids = sockets.map(({ id }) => id).sort();
  const joins = pair.indexOf('join');
  const isIn = !(joins === 0 || (joins === 1 && pair[0] !== 'leave'));
  for (const socket of sockets) {
    await enter(socket, all);
    if (isIn) await enter(socket, room);
  }
  const ears = sockets.map(listen);
  const gone = sockets.map((socket) => new Promise((resolve) => { socket.once('disconnect', resolve); }));
  const [state, expected, checks] = [{ isIn, isThere: true }, [], []];
  for (const [at, kind] of pair.entries()) {
    const hears = state.isThere && state.isIn;
    const endsNext = at === 0 && ['disconnect', 'close'].includes(pair[1]);
    switch (kind) {
      case 'join': sender.in(all).socketsJoin(room); state.isIn = true; break;
      case 'leave': sender.in(all).socketsLeave(room); state.isIn = false; break;
      case 'disconnect': case 'close':
        sender.in(all).disconnectSockets(kind === 'close');
        if (state.isThere) expected.push('disconnect');
        state.isThere = false;
        break;
      case 'emit': sender.in(room).emit('event', at); if (hears) expected.push(`event ${at}`); break;
      case 'emit to another room': sender.in(all).emit('event', at); if (state.isThere) expected.push(`event ${at}`); break;
      case 'emit to two': sender.in([all, room]).emit('event', at); if (state.isThere) expected.push(`event ${at}`); break;
      case 'ask': {
        const answered = sender.ask(room, 'ask', at);
        if (hears) expected.push(`ask ${at}`);
        // A client that is disconnected right after the event need not answer.
        const receivers = hears ? sockets.length : 0;
        if (!endsNext) checks.push(async () => assert.equal((await answered(servers, receivers)).length, receivers, 'answers'));
        break;
      }
      case 'fetch': {
        const found = sender.fetch(room);
        checks.push(async () => assert.deepEqual((await found(servers)).sort(), hears ? ids : [], 'the sockets found'));
        break;
      }
      default: sender.servers();
    }
  }
  // A server has handled the earlier commands when its witness receives a later event.
  const ends = witnesses.map((witness) => once(witness, 'end', { filter: (name) => name === room }));
  for (const witness of witnesses) sender.in(witness.id).emit('end', room);
  if (state.isThere) for (const id of ids) sender.in(id).emit('end', room);
  const own = state.isThere ? sockets.map((socket) => once(socket, 'end', { filter: (name) => name === room })) : gone;
  try {
    for (const check of checks) await check();
    await within(Promise.all([...ends, ...own]), 5_000, 'everything to be handled');
    for (const { heard } of ears) assert.deepEqual(heard.filter((event) => !event.startsWith('end')), expected);
  } finally {
    for (const { stop } of ears) stop();
  }
}
