// What clients are sent twice after a crash, and what they are not sent at all: care's messages, whose events are told with
// the record.

import assert from 'node:assert/strict';

import { ask, connected, keeper, unique } from './clients.mjs';
import { startCluster } from './cluster.mjs';
import { startGateway } from './gateway.mjs';
import { delay, eventually, once, within } from './wait.mjs';

/** `ANNOUNCEMENTS_REPEATED_MAX`: how many events a node alone has sent at most whose rows are still in its records. */
export const BATCH = 32;

/** Longer than `ANNOUNCE_AFTER_MS` and `DUE_EVERY_MS` together: then a node has looked for what its predecessor owed. */
const OWED_MS = 6_000;

const IN_FLIGHT = 8;

/** A user of care may send 100 messages at once. */
const MESSAGES_EACH_MAX = 95;

/** How many of each user have been heard when the gateway is killed: others are in flight then. */
const MESSAGES_EACH = 80;

/** Counts every event of a socket that the records owe, by its id. */
function tally(socket, heard) {
  socket.onAny((event, body) => {
    if (!/^message:(new|sent|status)$/.test(event)) return;
    const id = body.eventId ?? `${event}:${body.id ?? body.messageId}:${body.status}`;
    const seen = heard.get(id) ?? { event, message: body.id, times: new Map() };
    seen.times.set(socket, (seen.times.get(socket) ?? 0) + 1);
    heard.set(id, seen);
  });
}

/** Sends until the connections are gone; `acked` grows with each ack, `onHeard` gets how many the reader has heard. */
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

/** Whether a message has been heard by anybody it was for. */
const isHeard = (heard, id) => [...heard.values()].some(({ event, message }) => event === 'message:new' && message === id);

/** How many events came to some socket more than once. */
const repetitions = (heard) => [...heard.values()].filter(({ times }) => [...times.values()].some((several) => several > 1)).length;

/**
 * `senders` users write to one, whose client comes back by itself; the gateway is killed when `killAt` messages have been
 * heard, and started again. Every acknowledged message must have been heard, and no more than `BATCH` events twice.
 * Answers how many there were of both.
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
    // What comes twice comes when the new node looks for what is left over: there is nothing else to wait for.
    await delay(OWED_MS);
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

/** The same where the node of the writers is killed and another one goes on: nothing may come twice. */
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
    await delay(OWED_MS);
    const last = (await ask(await lives.clients.connect({ claims: { sub: unique('writer') } }), 'message:send', { recipientId: recipient, message: 'last' })).message.id;
    await eventually(() => isHeard(heard, last), { what: 'the last message' });
    assert.equal(repetitions(heard), 0, 'Redis drops what comes a second time');
    return { events: heard.size, acked: acked.length };
  } finally {
    await cluster.stop();
  }
}
