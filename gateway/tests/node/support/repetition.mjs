// Which events clients receive twice after a crash, and which not at all: the events of care's messages and of sos'
// participants, which are stored with their records.

import assert from 'node:assert/strict';

import { ask, connected, keeper, unique } from './clients.mjs';
import { internal, startCluster } from './cluster.mjs';
import { startGateway } from './gateway.mjs';
import { delay, eventually, once, within } from './wait.mjs';

/** `JOBS_REPEATED_MAX`: how many finished jobs of a single node may still have rows in the database. */
export const BATCH = 32;

/**
 * How long a node needs to deliver what its predecessor left: a single node checks at its start, a cluster when the
 * lease has lapsed.
 */
const LEFT_OVER_MS = 6_000;

const IN_FLIGHT = 8;

/** A user of care may send 100 messages at once. */
const MESSAGES_EACH_MAX = 95;

/** How many messages of each user have been received when the gateway is killed; others are in flight then. */
const MESSAGES_EACH = 80;

/** Counts every event about a record that a socket receives, by id. */
function tally(socket, heard) {
  socket.onAny((event, body) => {
    if (!/^message:(new|sent|status)$/.test(event)) return;
    const id = body.eventId ?? `${event}:${body.id ?? body.messageId}:${body.status}`;
    const seen = heard.get(id) ?? { event, message: body.id, times: new Map() };
    seen.times.set(socket, (seen.times.get(socket) ?? 0) + 1);
    heard.set(id, seen);
  });
}

/**
 * Sends until the connections are lost; `acked` grows with each ack, `onHeard` gets the number of messages that the
 * reader has received.
 */
async function sendUntilCut(sockets, reader, recipient, acked, onHeard) {
  let count = 0;
  reader.on('message:new', () => {
    count += 1;
    onHeard(count);
  });
  const sent = new Map();
  const lane = async (socket) => {
    const cut = once(socket, 'disconnect', { timeout: 60_000 }).then(() => undefined);
    for (;;) {
      const number = (sent.get(socket) ?? 0) + 1;
      sent.set(socket, number);
      if (number > MESSAGES_EACH_MAX) {
        await cut;
        return;
      }
      const answer = await Promise.race([socket.emitWithAck('message:send', { recipientId: recipient, message: 'x' }), cut]).catch(() => undefined);
      if (!answer) return;
      assert.equal(answer.success, true, JSON.stringify(answer));
      acked.push(answer.message.id);
    }
  };
  await within(Promise.all(sockets.flatMap((socket) => Array.from({ length: IN_FLIGHT }, () => lane(socket)))), 60_000, 'the crash');
}

/** Whether any recipient has received a message. */
const isHeard = (heard, id) => [...heard.values()].some(({ event, message }) => event === 'message:new' && message === id);

/** How many events a socket received more than once. */
const repetitions = (heard) => [...heard.values()].filter(({ times }) => [...times.values()].some((several) => several > 1)).length;

/**
 * `senders` users write to one, whose client reconnects by itself; the gateway is killed after `killAt` messages have
 * been received, and restarted. Every acknowledged message must have been received, and no more than `BATCH` events
 * twice. Returns how many there were of both.
 */
export async function repetitionAfterCrash({ senders, killAt = senders * MESSAGES_EACH, env = {} }) {
  let gateway = await startGateway({ env: { EVENTS_PER_SECOND: '0', ...env } });
  const clients = keeper(gateway);
  const back = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 };
  try {
    const recipient = unique('recipient');
    const writers = Array.from({ length: senders }, () => unique('writer'));
    const [reader, ...desks] = [recipient, ...writers].map((sub) => clients.socket({ claims: { sub }, ...back }));
    const heard = new Map();
    for (const socket of [reader, ...desks]) {
      tally(socket, heard);
      await connected(socket);
    }
    const sockets = await Promise.all(writers.map((sub) => clients.connect({ claims: { sub } })));
    const acked = [];
    let killed;
    await sendUntilCut(sockets, reader, recipient, acked, (count) => { if (count === killAt) killed = gateway.kill(); });
    await killed;

    const returned = [reader, ...desks].map((socket) => once(socket, 'connect', { timeout: 30_000 }));
    gateway = await gateway.restart();
    await Promise.all(returned);
    await eventually(() => acked.every((id) => isHeard(heard, id)), { timeout: 20_000, what: 'every acknowledged message to be heard' });
    // Duplicates arrive when the new node checks for abandoned jobs; no other event shows that it has.
    await delay(LEFT_OVER_MS);
    const last = (await ask(await clients.connect({ claims: { sub: writers[0] } }), 'message:send', { recipientId: recipient, message: 'last' })).message.id;
    await eventually(() => isHeard(heard, last), { what: 'the last message' });
    const repeated = repetitions(heard);
    assert.ok(repeated <= BATCH, `${repeated} of ${heard.size} events came twice`);
    gateway.assertQuiet();
    return { repeated, events: heard.size, acked: acked.length };
  } finally {
    clients.closeAll();
    await gateway.kill();
  }
}

/** The same with the writers' node killed while another one continues: no event may arrive twice. */
export async function repetitionInCluster({ senders, killAt = 150 }) {
  const cluster = await startCluster(2, { env: { EVENTS_PER_SECOND: '0' } });
  const [dies, lives] = cluster.nodes;
  try {
    const recipient = unique('recipient');
    const reader = lives.clients.socket({ claims: { sub: recipient } });
    const heard = new Map();
    tally(reader, heard);
    await connected(reader);
    const sockets = await Promise.all(Array.from({ length: senders }, () => dies.clients.connect({ claims: { sub: unique('writer') } })));
    const acked = [];
    await sendUntilCut(sockets, reader, recipient, acked, (count) => { if (count === killAt) dies.kill(); });
    await eventually(() => acked.every((id) => isHeard(heard, id)), { timeout: 20_000, what: 'every acknowledged message to be heard' });
    // As above.
    await delay(LEFT_OVER_MS);
    const last = (await ask(await lives.clients.connect({ claims: { sub: unique('writer') } }), 'message:send', { recipientId: recipient, message: 'last' })).message.id;
    await eventually(() => isHeard(heard, last), { what: 'the last message' });
    assert.equal(repetitions(heard), 0, 'Redis drops the second copy');
    return { events: heard.size, acked: acked.length };
  } finally {
    await cluster.stop();
  }
}

/** Users join, `lanes` of them at once, until the node ends; `onAck` is called with each whose request was answered. */
async function joinUntilCut(node, sosId, lanes, onAck) {
  const lane = async () => {
    for (;;) {
      const userId = unique('joins');
      const { status } = await internal(node, 'POST', '/internal/participants/joined', { sosId, userId, userType: 'citizen' }).catch(() => ({}));
      if (status !== 200) return;
      onAck(userId);
    }
  };
  await within(Promise.all(Array.from({ length: lanes }, lane)), 60_000, 'the crash');
}

/** The participants according to the database. */
async function recorded(node, sosId) {
  const response = await fetch(`${node.url}/api/sos/${sosId}/participants/active`, { headers: { Authorization: `Bearer ${node.token({ sub: 'boss', role: 'admin' })}` } });
  assert.equal(response.status, 200);
  return (await response.json()).data.map(({ userId }) => userId);
}

/**
 * Users join an incident until their node is killed, after `killAt` of them were acknowledged; then the node is
 * restarted (`isCluster`: another one continues). Every record must have had its event, whether or not its request was
 * answered; on a single node no more than `BATCH` events arrive twice, in a cluster none. Returns how many there were.
 */
export async function joinsAcrossCrash({ lanes, killAt, isCluster = false }) {
  const cluster = isCluster ? await startCluster(2) : undefined;
  const dies = cluster?.nodes[0] ?? (await startGateway());
  let lives = cluster?.nodes[1] ?? dies;
  const clients = cluster ? lives.clients : keeper(dies);
  try {
    const [sosId, watching] = [unique('sos'), unique('watcher')];
    assert.equal((await internal(dies, 'POST', '/internal/participants/joined', { sosId, userId: watching, userType: 'citizen' })).status, 200);
    const watcher = clients.socket({ claims: { sub: watching }, reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 });
    const times = new Map();
    const users = new Set([watching]);
    watcher.on('participant:joined', ({ eventId, userId }) => {
      times.set(eventId, (times.get(eventId) ?? 0) + 1);
      users.add(userId);
    });
    await connected(watcher);
    await eventually(async () => (await internal(lives, 'GET', `/internal/participants/${sosId}/count`)).body.data?.count === 1, { what: 'the watcher in the room' });
    const acked = [];
    let killed;
    await joinUntilCut(dies, sosId, lanes, (userId) => {
      acked.push(userId);
      if (acked.length === killAt) killed = dies.kill();
    });
    await killed;
    if (!cluster) {
      const returned = once(watcher, 'connect', { timeout: 30_000 });
      lives = await dies.restart();
      await returned;
    }
    const all = await recorded(lives, sosId);
    assert.deepEqual(acked.filter((userId) => !all.includes(userId)), [], 'no acknowledged record is lost');
    await eventually(() => all.every((userId) => users.has(userId)), { timeout: 30_000, what: 'the event of every record' });
    await delay(LEFT_OVER_MS);
    const repeated = [...times.values()].filter((count) => count > 1).length;
    assert.ok(repeated <= (cluster ? 0 : BATCH), `${repeated} of ${times.size} events came twice`);
    return { repeated, records: all.length, unanswered: all.length - 1 - acked.length };
  } finally {
    clients.closeAll();
    await lives.kill();
    await cluster?.stop();
  }
}

/**
 * Users write in a chat room until their node is killed; a silent member on another node must in the end have received
 * every message of the history, each once. Returns how many there were.
 */
export async function chatAcrossCrash({ lanes, killAt }) {
  const cluster = await startCluster(2, { env: { EVENTS_PER_SECOND: '0' } });
  const [dies, lives] = cluster.nodes;
  try {
    const room = unique('room');
    const watcher = await lives.clients.connect({ claims: { sub: unique('watcher') } });
    const received = [];
    watcher.on('new_message', ({ id }) => received.push(id));
    assert.equal((await ask(watcher, 'join_room', room)).success, true);
    const writers = await Promise.all(Array.from({ length: lanes }, () => dies.clients.connect({ claims: { sub: unique('writer') } })));
    let acked = 0;
    await within(Promise.all(writers.map(async (socket) => {
      assert.equal((await ask(socket, 'join_room', room)).success, true);
      const cut = once(socket, 'disconnect', { timeout: 60_000 }).then(() => undefined);
      for (;;) {
        const answer = await Promise.race([socket.emitWithAck('send_message', { roomId: room, content: 'x' }), cut]).catch(() => undefined);
        if (!answer?.success) return;
        acked += 1;
        if (acked === killAt) dies.kill();
      }
    })), 60_000, 'the crash');
    const page = async (before) => (await ask(watcher, 'room_history', { roomId: room, limit: 50, ...(before && { before }) })).messages.map(({ id }) => id);
    await eventually(async () => received.at(-1) === (await page()).at(-1), { timeout: 30_000, interval: 500, what: 'the last message of the history' });
    const history = [];
    for (let older = await page(); older.length > 0; older = await page(history[0])) history.unshift(...older);
    assert.deepEqual(received, history, 'every message of the history, once and in its order');
    return { messages: received.length, unanswered: received.length - acked };
  } finally {
    await cluster.stop();
  }
}
