// An acknowledged message is a stored message: kill -9 while clients send, restart, read everything back. Events about
// records reach clients even after a crash, and then no more than a few arrive twice.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { TRANSPORTS, ask, keeper, unique } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { startPostgres } from './support/postgres.mjs';
import { chatAcrossCrash, joinsAcrossCrash, repetitionAfterCrash } from './support/repetition.mjs';
import { within } from './support/wait.mjs';

const SENDERS = 4;
const IN_FLIGHT = 8;

/** Sends with `IN_FLIGHT` unanswered messages per sender until the connection is lost; `acked` grows with each ack. */
async function sendUntilCut(socket, room, tag, acked, onAck) {
  let next = 0;
  let open = true;
  const cut = new Promise((resolve) => { socket.once('disconnect', () => { open = false; resolve(); }); });
  const lane = async () => {
    while (open) {
      const content = `${tag}-${next}`;
      next += 1;
      const answer = await Promise.race([socket.emitWithAck('send_message', { roomId: room, content }), cut]).catch(() => undefined);
      if (!answer) return;
      assert.equal(answer.success, true, JSON.stringify(answer));
      assert.equal(answer.message.content, content);
      acked.push(answer.message);
      onAck();
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
}

/** The whole history of a room, oldest first, page by page. */
async function wholeHistory(socket, room) {
  const all = [];
  for (;;) {
    const { success, messages } = await ask(socket, 'room_history', { roomId: room, limit: 50, ...(all.length && { before: all[0].id }) });
    assert.equal(success, true);
    if (messages.length === 0) return all;
    all.unshift(...messages);
  }
}

/** `rounds` times: send, kill -9 after some acks, restart; then all acknowledged messages must exist, once and in order. */
async function killWhileSending({ rounds, env, transport }) {
  let gateway = await startGateway({ env: { EVENTS_PER_SECOND: '0', ...env } });
  const room = unique('durable');
  const acked = [];
  /** The messages that each user received live, over all rounds. */
  const heard = Array.from({ length: SENDERS }, () => []);
  try {
    for (let round = 0; round < rounds; round += 1) {
      const clients = keeper(gateway);
      let killed;
      let acksOfRound = 0;
      const killAt = 40 + round * 23;
      const onAck = () => {
        acksOfRound += 1;
        if (acksOfRound === killAt) killed = gateway.kill();
      };
      const sockets = await Promise.all(Array.from({ length: SENDERS }, (_, at) => clients.connect({ transport, claims: { sub: `sender${at}` } })));
      for (const [at, socket] of sockets.entries()) {
        socket.on('new_message', ({ id }) => heard[at].push(id));
        assert.equal((await ask(socket, 'join_room', room)).success, true);
      }
      const sending = sockets.map((socket, at) => sendUntilCut(socket, room, `r${round}s${at}`, acked, onAck));
      await within(Promise.all(sending), 30_000, `round ${round}: ${acksOfRound} acks, killed at ${killAt}`);
      await killed;
      clients.closeAll();
      gateway = await gateway.restart();
    }

    const clients = keeper(gateway);
    const reader = await clients.connect({ claims: { sub: 'reader' } });
    assert.equal((await ask(reader, 'join_room', room)).success, true);
    const history = await wholeHistory(reader, room);
    clients.closeAll();

    const position = new Map(history.map(({ id }, at) => [id, at]));
    assert.equal(position.size, history.length, 'no record twice');
    const contents = history.map(({ content }) => content);
    assert.equal(new Set(contents).size, contents.length, 'no message stored twice');
    const lost = acked.filter(({ id }) => !position.has(id));
    assert.deepEqual(lost, [], `${lost.length} of ${acked.length} acknowledged messages are lost`);
    assert.ok(acked.length >= rounds * 40);
    for (const ids of heard) {
      assert.ok(ids.length > 0);
      assert.equal(new Set(ids).size, ids.length, 'no message received twice');
    }
    for (const { id, content } of acked) assert.equal(history[position.get(id)].content, content);
    for (let round = 0; round < rounds; round += 1) {
      for (let sender = 0; sender < SENDERS; sender += 1) {
        const own = contents.filter((content) => content.startsWith(`r${round}s${sender}-`)).map((content) => Number(content.split('-')[1]));
        assert.deepEqual(own, [...own].sort((a, b) => a - b), `the order of sender ${sender} in round ${round}`);
      }
    }
    gateway.assertQuiet();
  } finally {
    await gateway.kill();
  }
}

describe('kill -9 while messages are acknowledged', { concurrency: 2 }, () => {
  for (const transport of TRANSPORTS) {
    test(`on SQLite, over ${transport.name}: no acknowledged message is lost`, { timeout: 120_000 }, () => killWhileSending({ rounds: 4, transport }));
  }

  test('on PostgreSQL: no acknowledged message is lost', { timeout: 120_000 }, async () => {
    const postgres = await startPostgres();
    try {
      await killWhileSending({ rounds: 3, transport: TRANSPORTS[0], env: { DATABASE_URL: postgres.url } });
    } finally {
      await postgres.kill();
    }
  });
});

describe('kill -9 while events about records are delivered', { concurrency: 2 }, () => {
  test('on SQLite, participants of an incident: the event of every record arrives', { timeout: 120_000 }, async (t) => {
    t.diagnostic(JSON.stringify(await joinsAcrossCrash({ lanes: 8, killAt: 60 })));
  });

  test('in a cluster, participants of an incident: the event of every record arrives once', { timeout: 120_000 }, async (t) => {
    t.diagnostic(JSON.stringify(await joinsAcrossCrash({ lanes: 8, killAt: 60, isCluster: true })));
  });

  test('in a cluster, messages of a chat room: the member on the other node receives every stored one', { timeout: 120_000 }, async (t) => {
    t.diagnostic(JSON.stringify(await chatAcrossCrash({ lanes: 16, killAt: 200 })));
  });

  for (const senders of [1, 4]) {
    test(`on SQLite, ${senders} sending: every event arrives, and no more than one batch of them twice`, { timeout: 120_000 }, () => repetitionAfterCrash({ senders }));
  }
});
