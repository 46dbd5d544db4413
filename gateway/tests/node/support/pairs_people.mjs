// The clients in the runs of pairs, for each app, and how to know that no further event is coming to them.

import assert from 'node:assert/strict';

import { EVERYTHING, ask, connected } from './clients.mjs';
import { internal } from './cluster.mjs';
import { once, record } from './wait.mjs';

/**
 * A connected client on node `at`: `{user, claims, at, socket, events}`. `watch` gets the socket before it connects.
 */
export async function person(world, at, { namespace = '/', watch = () => {}, ...claims } = {}) {
  const own = { sub: world.name('user'), name: 'Ann', ...claims };
  const socket = world.socket(at, { namespace, claims: own });
  const events = record(socket);
  watch(socket);
  await connected(socket);
  return { user: own.sub, claims: own, namespace, at, socket, events };
}

/** Emits with an ack, asserts success and returns the ack. */
export async function must({ socket }, event, ...args) {
  const answer = await ask(socket, event, ...args);
  assert.equal(answer.success, true, `${event}: ${JSON.stringify(answer)}`);
  return answer;
}

/** A client of relay that may do everything, in these rooms. */
export async function relay(world, at, rooms = [], claims = {}) {
  const one = await person(world, at, { namespace: '/relay', ...EVERYTHING, ...claims });
  for (const room of rooms) await must(one, 'join', { room });
  return one;
}

/** A client of chat in a room, after it has received the history. */
export async function chatter(world, at, roomId, claims = {}) {
  const one = await person(world, at, claims);
  await must(one, 'join_room', roomId);
  await one.events.take('room_history');
  return one;
}

/** A client of care, after `connected`, in these rooms. */
export async function patient(world, at, rooms = [], claims = {}) {
  const one = await person(world, at, claims);
  await one.events.take('connected');
  for (const roomId of rooms) await must(one, 'room:join', { roomId });
  return one;
}

/** A request to the REST API of node `at` by a user with these claims: `{status, body}`. */
export async function rest(world, at, method, path, claims, body = {}) {
  const response = await fetch(`${world.nodes[at].url}${path}`, {
    method,
    headers: { Authorization: `Bearer ${world.nodes[at].token(claims)}`, 'Content-Type': 'application/json' },
    body: method === 'GET' ? undefined : JSON.stringify(body),
  });
  return { status: response.status, body: await response.json() };
}

/** The same for a 2xx answer: its `data`. */
export async function done(...request) {
  const { status, body } = await rest(...request);
  assert.ok(status >= 200 && status < 300, `${request[2]} ${request[3]}: ${status} ${JSON.stringify(body)}`);
  return body.data;
}

/** Emits to `to` through node `at`, like a backend. */
export async function emit(world, at, to, event, data, namespace = '/') {
  const { status, body } = await internal(world.nodes[at], 'POST', '/internal/emit', { namespace, to, event, data });
  assert.equal(status, 200, JSON.stringify(body));
}

/**
 * Waits until everything that the nodes have sent to these clients has arrived: a later event of each node arrives
 * after it.
 */
export async function settle(world, ...people) {
  for (const at of new Set(world.nodes).size === 1 ? [0] : [0, 1]) {
    const mark = world.name('mark');
    for (const one of people) {
      const { nodes, backends } = world;
      if (nodes[at].internalUrl) await emit(world, at, { user: one.user }, mark, null, one.namespace);
      else backends.emitter.of(one.namespace).to(`user:${one.user}`).emit(mark);
    }
    await Promise.all(people.map(({ events }) => events.take(mark)));
  }
}

/** The names of the received events in order, restricted to `names`. */
export function order({ events }, ...names) {
  return events.events.map(({ event }) => event).filter((event) => names.includes(event));
}

/** The ids of the sockets in a room, as node `at` counts them. */
export async function members(world, at, room, namespace = '/') {
  const { status, body } = await internal(world.nodes[at], 'GET', `/internal/rooms/${encodeURIComponent(room)}/active?namespace=${namespace}`);
  assert.equal(status, 200, JSON.stringify(body));
  return body.data.members.map(({ socketId }) => socketId);
}

/**
 * Connects a user to relay while `emitTo(user)` emits `event` to them repeatedly until one arrives after `connect`.
 * Returns whether an event arrived before CONNECT's answer, or a handler ran before `connect`.
 */
export async function hearsEarly(world, emitTo) {
  const user = world.name('user');
  const socket = world.socket(0, { namespace: '/relay', claims: { sub: user, rooms: ['*'] } });
  let isConnected = false;
  let early = 0;
  let isOver = false;
  const packets = [];
  socket.io.on('packet', ({ type }) => packets.push(type));
  socket.on('connect', () => { isConnected = true; });
  socket.on('event', () => { if (!isConnected) early += 1; });
  const heard = once(socket, 'event', { filter: () => isConnected }).finally(() => { isOver = true; });
  heard.catch(() => {});
  while (!isOver) await emitTo(user);
  await heard;
  if (packets[0] !== 0) return `a packet of type ${packets[0]} came before the answer`;
  return early === 0 ? undefined : 'a handler ran before connect';
}
