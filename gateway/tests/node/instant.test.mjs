// Clients that emit as soon as they are connected: the first event must not be lost between the CONNECT answer and the
// app's setup.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, TRANSPORTS, bounded, keeper, unique } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { OPCODE, encodeFrame, rawSocketIo } from './support/raw.mjs';
import { eventually, within } from './support/wait.mjs';

const CLIENTS = 1_000;

describe('emitting immediately on connect', () => {
  let gateway;
  before(async () => { gateway = await startGateway({ env: { SOCKETS_PER_USER: '0' } }); });
  after(() => gateway?.kill());

  for (const transport of TRANSPORTS) {
    test(`${CLIENTS} clients over ${transport.name}: each gets its acks`, { timeout: 120_000 }, async () => {
      const clients = keeper(gateway);
      try {
        await bounded(CLIENTS, 250, async (index) => {
          // A user each, because all sockets of one user share a budget of events.
          const socket = clients.socket({ namespace: '/relay', transport, claims: { ...EVERYTHING, sub: unique('user') } });
          const room = unique('instant');
          const before = socket.emitWithAck('echo', `early ${index}`);
          const atOnce = new Promise((resolve, reject) => {
            socket.on('connect_error', reject);
            socket.on('connect', () => {
              resolve(Promise.all([
                socket.emitWithAck('echo', index),
                socket.emitWithAck('join', { room }),
                socket.emitWithAck('members', { room }),
              ]));
            });
          });
          const [early, [echoed, joined, members]] = await within(Promise.all([before, atOnce]), 30_000, `the acks of client ${index}`);
          assert.equal(early, `early ${index}`);
          assert.equal(echoed, index);
          assert.deepEqual(joined, { success: true, room });
          assert.equal(members.count, 1);
          assert.equal(members.members[0].socketId, socket.id);
          if (transport.final === 'polling') {
            // A polling client costs requests as long as it is open.
            socket.disconnect();
            clients.open.delete(socket);
          }
        });
      } finally {
        clients.closeAll();
      }
    });
  }

  test('the last event of a client that disconnects at once is still delivered', async () => {
    const clients = keeper(gateway);
    const room = unique('last-words');
    try {
      const listener = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
      await listener.emitWithAck('join', { room });
      const heard = new Set();
      let enough;
      const all = new Promise((resolve) => { enough = resolve; });
      listener.on('word', (value) => {
        heard.add(value);
        if (heard.size === 300) enough();
      });
      await bounded(300, 50, (index) => new Promise((resolve, reject) => {
        const socket = clients.socket({ namespace: '/relay', claims: EVERYTHING, transport: TRANSPORTS[index % 2] });
        socket.on('connect_error', reject);
        socket.on('connect', () => {
          socket.emit('publish', { room, event: 'word', data: index });
          socket.disconnect();
          clients.open.delete(socket);
          resolve();
        });
      }));
      await within(all, 10_000, `300 last words, ${heard.size} heard`);
    } finally {
      clients.closeAll();
    }
  });

  test('packets that a client sends before it closes its WebSocket are handled', { timeout: 120_000 }, async () => {
    const clients = keeper(gateway);
    const room = unique('last-messages');
    const rounds = 120;
    try {
      const listener = await clients.connect({ claims: { sub: unique('listener') } });
      await listener.emitWithAck('join_room', room);
      const heard = [];
      listener.on('new_message', ({ content }) => { heard.push(content); });
      await bounded(rounds, 4, async (round) => {
        const socket = await rawSocketIo(gateway.port, { token: gateway.token({ sub: unique('speaker') }) });
        socket.send(`420["join_room",${JSON.stringify(room)}]`);
        await socket.nextText();
        // The answers to these reach a connection that the client has ended.
        const events = [1, 2, 3].map((at) => encodeFrame({ payload: `42${at}["send_message",${JSON.stringify({ roomId: room, content: `${round}.${at}` })}]` }));
        socket.socket.write(Buffer.concat([...events, encodeFrame({ opcode: OPCODE.close, payload: Buffer.from([0x03, 0xe8]) })]));
        socket.socket.destroySoon();
        await socket.gone;
      });
      await eventually(() => heard.length === 3 * rounds, { timeout: 10_000, what: `${3 * rounds} messages` }).catch(() => {});
      const expected = Array.from({ length: rounds }, (_, round) => [1, 2, 3].map((at) => `${round}.${at}`)).flat();
      assert.deepEqual(expected.filter((content) => !heard.includes(content)), []);
      for (let round = 0; round < rounds; round += 1) {
        assert.deepEqual(heard.filter((content) => content.startsWith(`${round}.`)), [1, 2, 3].map((at) => `${round}.${at}`));
      }
    } finally {
      clients.closeAll();
    }
  });
});
