// A client is connected when it has the answer: what a backend says meanwhile takes effect, nothing overtakes the answer to
// CONNECT, and the rooms that the records give it are in effect. CONNECTED_ROUNDS says how often each race is run.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, bounded, keeper, unique } from './support/clients.mjs';
import { count, internal, startCluster } from './support/cluster.mjs';
import { citizen, emergencies, helper } from './support/emergencies.mjs';
import { startGateway } from './support/gateway.mjs';
import { load } from './support/packages.mjs';
import { delay, once } from './support/wait.mjs';

const { Emitter } = load('@socket.io/redis-emitter');

const ROUNDS = Number(process.env.CONNECTED_ROUNDS ?? 60);

/** How long what must come may take; nothing waits so long where all is well. */
const PATIENCE = 3_000;

const pause = () => delay(Math.random() * 8);

/** Runs `race` so often, some at once, and lists what went wrong. */
async function races(rounds, race) {
  const wrong = [];
  await bounded(rounds, 8, async (round) => {
    try {
      await race(round);
    } catch (error) {
      wrong.push(error.message);
    }
  });
  assert.deepEqual(wrong, [], `${wrong.length} of ${rounds} wrong`);
}

const SITES = [
  {
    name: 'one node alone',
    async start() {
      const node = await startGateway({ env: { SOCKETS_PER_USER: '0' } });
      node.clients = keeper(node);
      return { nodes: [node, node], stop: async () => { node.clients.closeAll(); await node.kill(); } };
    },
  },
  {
    name: 'one node on Redis',
    async start() {
      const cluster = await startCluster(1);
      return { ...cluster, nodes: [cluster.nodes[0], cluster.nodes[0]] };
    },
  },
  { name: 'two nodes', start: () => startCluster(2) },
];

for (const site of SITES) {
  describe(`a client that connects to ${site.name}`, () => {
    let nodes;
    let stop;
    let redis;
    before(async () => ({ nodes, stop, redis } = await site.start()));
    after(() => stop?.());

    /**
     * Connects a client and calls `onConnect` in its handler of `connect`. Answers what it makes of it, and the names of
     * events that came before.
     */
    const connecting = async (at, options, onConnect) => {
      const socket = nodes[at].clients.socket(options);
      const early = [];
      socket.onAny((event) => { if (!socket.connected) early.push(event); });
      try {
        return await new Promise((resolve, reject) => {
          socket.on('connect_error', reject);
          socket.on('connect', () => { Promise.resolve(onConnect(socket)).then(resolve, reject); });
        });
      } finally {
        assert.deepEqual(early, [], 'nothing comes before connect');
        socket.disconnect();
        nodes[at].clients.open.delete(socket);
      }
    };

    /** Has the other node send to a room, and waits for it. */
    const reaches = async (socket, at, room) => {
      const event = unique('event');
      const heard = once(socket, event, { timeout: PATIENCE });
      const namespace = socket.nsp;
      const emitted = await internal(nodes[1 - at], 'POST', '/internal/emit', { namespace, to: { room }, event, data: 1 });
      assert.equal(emitted.status, 200);
      await heard;
    };

    test('gets nothing before its handler of connect runs', { timeout: 120_000 }, async () => {
      await races(ROUNDS, async (round) => {
        const at = round % 2;
        const user = unique('early');
        let isOver = false;
        const talking = (async () => {
          while (!isOver) {
            await internal(nodes[1 - at], 'POST', '/internal/emit', { namespace: '/relay', to: { user }, event: 'to the user', data: 1 });
            await internal(nodes[at], 'POST', '/internal/emit', { namespace: '/relay', to: 'all', event: 'to all', data: 1 });
          }
        })();
        await pause();
        try {
          await connecting(at, { namespace: '/relay', claims: { ...EVERYTHING, sub: user } }, (socket) => once(socket, 'to the user', { timeout: PATIENCE }));
        } finally {
          isOver = true;
          await talking;
        }
      });
    });

    test('is in the rooms of its incidents', { timeout: 120_000 }, async () => {
      await races(ROUNDS, async (round) => {
        const at = round % 2;
        const sub = unique('rescuer');
        const sosId = randomBytes(12).toString('hex');
        const response = await fetch(`${nodes[1 - at].url}/api/sos/${sosId}/participants/join`, {
          method: 'POST',
          headers: { Authorization: `Bearer ${nodes[0].token({ sub, role: 'rescuer', actor: { type: 'USER' } })}`, 'Content-Type': 'application/json' },
          body: '{}',
        });
        assert.equal(response.status, 201);
        await pause();
        await connecting(at, { claims: { sub } }, async (socket) => {
          await Promise.all([
            reaches(socket, at, `sos:${sosId}`),
            count(nodes[1 - at], `sos:${sosId}`).then((counted) => assert.equal(counted.count, 1)),
          ]);
        });
      });
    });

    test('is in the rooms of its emergencies, and among the helpers', { timeout: 120_000 }, async () => {
      const app = emergencies(nodes);
      await races(ROUNDS, async (round) => {
        const at = round % 2;
        const [owner, helps] = [citizen(), helper()];
        const raised = await app.raise(1 - at, owner);
        const { id } = raised.emergency ?? raised;
        await app.respond(at, id, helps);
        await pause();
        const namespace = '/emergencies';
        await Promise.all([
          connecting(at, { namespace, claims: owner }, (socket) => reaches(socket, at, `emergency:${id}`)),
          connecting(at, { namespace, claims: helps }, (socket) => Promise.all([
            reaches(socket, at, `emergency:${id}`),
            reaches(socket, at, 'helpers'),
          ])),
        ]);
      });
    });

    test('is online in care, and receives its notifications', { timeout: 120_000 }, async () => {
      const askers = await Promise.all(nodes.map((node) => node.clients.connect({ claims: { sub: unique('asker') } })));
      await races(ROUNDS, async (round) => {
        const at = round % 2;
        const user = unique('patient');
        await pause();
        await connecting(at, { claims: { sub: user } }, async (socket) => {
          const [{ success, presences }, own] = await Promise.all([
            askers[1 - at].timeout(PATIENCE).emitWithAck('presence:get', { userIds: [user] }),
            socket.timeout(PATIENCE).emitWithAck('presence:get', { userIds: [user] }),
            reaches(socket, at, `notifications:${user}`),
            count(nodes[1 - at], `notifications:${user}`).then((counted) => assert.equal(counted.count, 1)),
          ]);
          assert.equal(success, true);
          assert.deepEqual([presences[0].status, own.presences[0].status], ['online', 'online']);
        });
      });
    });

    if (site.name !== 'one node alone') {
      test('is disconnected by what a backend says while it connects', { timeout: 120_000 }, async () => {
        const relay = new Emitter(await redis.connect()).of('/relay');
        await races(3 * ROUNDS, async (round) => {
          const at = round % 2;
          const user = unique('banned');
          const mark = unique('mark');
          const socket = nodes[at].clients.socket({ namespace: '/relay', claims: { ...EVERYTHING, sub: user } });
          const story = [];
          const connected = new Promise((resolve, reject) => {
            socket.on('connect', () => { story.push('connect'); resolve(); });
            socket.on('connect_error', reject);
          });
          socket.on(mark, () => story.push('mark'));
          socket.on('disconnect', (reason) => story.push(reason));
          try {
            await pause();
            // Whoever gets the one is there for the other.
            relay.emit(mark);
            relay.in(`user:${user}`).disconnectSockets();
            await connected;
            const left = await leaves(socket, story);
            // It may have come between the two.
            const expected = ['connect', ...story.filter((said) => left && said === 'mark'), ...(left ? ['io server disconnect'] : [])];
            assert.deepEqual(story, expected);
          } finally {
            socket.disconnect();
            nodes[at].clients.open.delete(socket);
          }
        });

        /** Whether the client is put out, once it has got all that was said before. */
        async function leaves(socket, story) {
          if (story.includes('io server disconnect')) return true;
          const gone = once(socket, 'disconnect', { timeout: PATIENCE }).then(() => true);
          const end = unique('end');
          const heard = once(socket, end, { timeout: PATIENCE }).then(() => false);
          gone.catch(() => {});
          heard.catch(() => {});
          relay.emit(end);
          return Promise.race([gone, heard]);
        }
      });
    }
  });
}
