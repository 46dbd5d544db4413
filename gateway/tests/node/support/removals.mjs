// Users who are added to rooms and removed from them while the cluster has faults: what each may receive, what each
// received, and who is in which room.

import assert from 'node:assert/strict';

import { ask, connected, unique } from './clients.mjs';
import { internal } from './cluster.mjs';
import { eventually, within } from './wait.mjs';

/** How long a request may take while a node dies or Redis is slow, in milliseconds. */
const PATIENCE = 10_000;

/** How many of a user's last operations a failure shows. */
const NOTES = 40;

/** The answer of a request or an ack; undefined if there is none. */
const attempt = (promise) => within(promise, PATIENCE, 'an answer').catch(() => undefined);

/**
 * Keeps the records of `site`, whose `living()` returns the running nodes: `{people, wrong, steps…}`. `random` returns
 * numbers from 0 up to 1. `wrong` lists the violations.
 */
export function keepBooks(site, { random, people: size = 12 }) {
  const wrong = [];
  const people = Array.from({ length: size }, (_, n) => ({ user: unique(`user${n}`), rooms: new Set(), unsure: new Set(), notes: [], socket: undefined }));
  /** Room → user → the last event that was emitted before they were certainly removed. */
  const out = new Map();
  let said = 0;
  const started = performance.now();

  /** Notes an operation of a user, for the message of a failure. */
  const note = (one, text) => {
    one.notes.push(`${((performance.now() - started) / 1_000).toFixed(2)} ${text}`);
    if (one.notes.length > NOTES) one.notes.shift();
  };

  const pick = (list) => list[Math.floor(random() * list.length)];
  const outOf = (room) => out.get(room) ?? out.set(room, new Map()).get(room);
  const isIn = ({ user }, room) => outOf(room).delete(user);
  const isOut = ({ user }, room) => outOf(room).set(user, said);

  /** Emits a numbered event to a room through a random node. */
  const emit = (room) => {
    said += 1;
    return attempt(internal(pick(site.living()), 'POST', '/internal/emit', { to: { room }, event: 'event', data: { room, n: said } }));
  };

  /** Connects a disconnected user through a random node. */
  const connect = async (one) => {
    const socket = pick(site.living()).clients.socket({ claims: { sub: one.user } });
    socket.on('event', ({ room, n }) => {
      const last = outOf(room).get(one.user);
      if (n > last) wrong.push(`${one.user} was removed from ${room} and received an event emitted ${n - last} later`);
    });
    socket.on('muster:removed', ({ room }) => {
      one.rooms.delete(room);
      note(one, `muster:removed ${room}`);
    });
    socket.on('disconnect', (reason) => {
      note(one, `disconnected: ${reason}`);
      one.socket = undefined;
      one.rooms.clear();
      one.unsure.clear();
    });
    await attempt(connected(socket));
    if (socket.connected) one.socket = socket;
    else socket.disconnect();
    note(one, `connected: ${socket.id}`);
  };

  /** Grants a room of care to these users only. Other users are removed when it resolves. */
  const grant = async (room, granted) => {
    for (const one of granted) isIn(one, room);
    const userIds = granted.map(({ user }) => user);
    const answer = await attempt(internal(pick(site.living()), 'PUT', `/internal/rooms/${room}/members`, { userIds }));
    const isDone = answer?.status === 200 && !answer.body.data.incomplete;
    for (const one of people) note(one, `${granted.includes(one) ? 'granted' : 'withdrawn'} ${room}${isDone ? '' : ', incomplete'}`);
    if (isDone) for (const one of people) if (!granted.includes(one)) isOut(one, room);
    return isDone;
  };

  /** A user joins a room of care. A user who was certainly removed must be refused. */
  const join = async (one, room) => {
    const { socket } = one;
    if (!socket) return;
    const answer = await attempt(ask(socket, 'room:join', { roomId: room }));
    note(one, `join ${room}: ${answer ? answer.success : 'no answer'}${socket === one.socket ? '' : ', of a former socket'}`);
    if (socket !== one.socket) return;
    if (answer) one.unsure.delete(room);
    else one.unsure.add(room);
    if (!answer?.success) return;
    if (outOf(room).has(one.user)) wrong.push(`${one.user} was out of ${room} and joined it`);
    one.rooms.add(room);
  };

  /** A user starts or stops taking part in an incident. */
  const participate = async (one, sosId, does) => {
    if (does) isIn(one, `sos:${sosId}`);
    const node = pick(site.living());
    const path = `/api/sos/${sosId}/participants/${does ? 'join' : `${encodeURIComponent(one.user)}/leave`}`;
    const headers = { Authorization: `Bearer ${node.token({ sub: one.user })}`, 'Content-Type': 'application/json' };
    const answer = await attempt(fetch(`${node.url}${path}`, { method: does ? 'POST' : 'PATCH', headers, body: '{}' }).then(async (response) => ({ status: response.status, body: await response.json() })));
    if (!does && answer?.status === 200 && !answer.body.incomplete) isOut(one, `sos:${sosId}`);
    return answer?.status;
  };

  /** The participants of an incident according to the database. */
  const participants = async (sosId) => {
    const node = pick(site.living());
    const response = await fetch(`${node.url}/api/sos/${sosId}/participants/active`, { headers: { Authorization: `Bearer ${node.token({ sub: 'chief', role: 'rescuer' })}` } });
    assert.equal(response.status, 200);
    return (await response.json()).data.map(({ userId }) => userId);
  };

  /** What those have done who are in one of two lists only. */
  const notesOf = (members, inside, room) => people
    .filter((one) => members.some(({ userId }) => userId === one.user) !== inside.includes(one))
    .map((one) => `\n${one.user}, socket ${one.socket?.id}:\n  ${one.notes.filter((text) => !/(visit:|sos:)/.test(text) || text.includes(room)).join('\n  ')}`)
    .join('');

  /** Waits until every node counts exactly these users' sockets in a room. `again` runs before each look. */
  const counted = (room, inside, timeout, again = async () => {}) => eventually(async () => {
    await again();
    const expected = inside().map(({ socket }) => socket?.id).sort().join();
    for (const node of site.living()) {
      const { body } = await internal(node, 'GET', `/internal/rooms/${encodeURIComponent(room)}/active`);
      const found = body.data.members.map(({ socketId }) => socketId).sort().join();
      if (found !== expected) throw new Error(`${room}: ${found} instead of ${expected}${notesOf(body.data.members, inside(), room)}`);
    }
    return true;
  }, { timeout, interval: 100, what: `the count of ${room} to be true` });

  return { people, wrong, pick, emit, connect, grant, join, participate, participants, counted };
}
