// An answer with a state, and the events about it: what a client computes from both, in the order of arrival, is the
// true final state. SNAPSHOT_ROUNDS sets how often each race runs.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { bounded, keeper, unique } from './support/clients.mjs';
import { internal, startCluster } from './support/cluster.mjs';
import { citizen, emergencies, helper } from './support/emergencies.mjs';
import { startGateway } from './support/gateway.mjs';
import { delay, eventually, once, within } from './support/wait.mjs';

const ROUNDS = Number(process.env.SNAPSHOT_ROUNDS ?? 40);

/** The hold-back in this test. */
const HOLDBACK_MS = 120;

const pause = (ms = 8) => delay(Math.random() * ms);

/** Runs `race` repeatedly, some in parallel, and lists the errors. */
async function races(rounds, race, atOnce = 4) {
  const wrong = [];
  await bounded(rounds, atOnce, async (round) => {
    try {
      await race(round);
    } catch (error) {
      wrong.push(error.message);
    }
  });
  assert.deepEqual(wrong, [], `${wrong.length} of ${rounds} wrong`);
}

/** Emits, and passes the ack to `take` where it arrives among the events. */
function asking(socket, take, event, ...args) {
  const answered = new Promise((resolve, reject) => {
    socket.emit(event, ...args, (answer) => {
      try {
        assert.equal(answer.success, true, `${event}: ${JSON.stringify(answer)}`);
        take(answer);
        resolve(answer);
      } catch (error) {
        reject(error);
      }
    });
  });
  return within(answered, 5_000, `the answer to ${event}`);
}

/** The user of a socket. */
function userOf({ auth }) {
  const [, payload] = auth.token.split('.');
  return JSON.parse(Buffer.from(payload, 'base64url')).sub;
}

const must = (socket, event, ...args) => asking(socket, () => {}, event, ...args);

const SITES = [
  {
    name: 'one node',
    async start(env) {
      const node = await startGateway({ env });
      node.clients = keeper(node);
      return { nodes: [node, node], stop: async () => { node.clients.closeAll(); await node.kill(); } };
    },
  },
  { name: 'two nodes', start: (env) => startCluster(2, { env }) },
];

for (const site of SITES) {
  describe(`answers and events on ${site.name}`, () => {
    let nodes;
    let stop;
    before(async () => ({ nodes, stop } = await site.start({ LEAVE_HOLDBACK: `${HOLDBACK_MS}ms`, PRESENCE_GRACE: '200ms' })));
    after(() => stop?.());

    const user = (at, name) => nodes[at].clients.connect({ claims: { sub: unique(name) } });

    /** Waits until everything sent to these clients has arrived. */
    const settled = async (...sockets) => {
      for (const node of new Set(nodes)) {
        const event = unique('mark');
        const heard = sockets.map((socket) => once(socket, event));
        for (const namespace of new Set(sockets.map(({ nsp }) => nsp))) {
          const { status } = await internal(node, 'POST', '/internal/emit', { namespace, to: 'all', event, data: 1 });
          assert.equal(status, 200);
        }
        await Promise.all(heard);
      }
    };

    test('an emergency has the state of its answer and its events', { timeout: 120_000 }, async () => {
      const app = emergencies(nodes);
      await races(ROUNDS, async (round) => {
        const [watches, helps] = [helper(), helper()];
        const watcher = await nodes[0].clients.connect({ namespace: '/emergencies', claims: watches });
        const raised = await app.raise(1, citizen());
        const { id } = raised.emergency ?? raised;
        let status;
        watcher.on('emergency:status_changed', (body) => { if (body.emergencyId === id) status = body.status; });
        watcher.on('emergency:resolved', (body) => { if (body.emergencyId === id) status = 'resolved'; });
        const joining = pause().then(() => asking(watcher, ({ emergency }) => { status = emergency.status; }, 'emergency:join', { emergencyId: id }));
        await pause();
        const responded = await app.respond(round % 2, id, helps);
        await joining;
        await settled(watcher);
        watcher.disconnect();
        nodes[0].clients.open.delete(watcher);
        assert.equal(status, (responded.emergency ?? responded).status);
      });
    });

    test('a room has the users of its answer and its events', { timeout: 120_000 }, async () => {
      const others = await Promise.all(Array.from({ length: 6 }, (_, n) => user(n % 2, 'other')));
      await races(ROUNDS, async (round) => {
        const watcher = await user(round % 2, 'watcher');
        const roomId = `topic:${unique('room')}`;
        const seen = new Set();
        watcher.on('room:userJoined', (body) => { if (body.roomId === roomId) seen.add(body.userId); });
        watcher.on('room:userLeft', (body) => { if (body.roomId === roomId) seen.delete(body.userId); });
        const take = ({ participants }) => {
          seen.clear();
          for (const { userId } of participants) seen.add(userId);
        };
        const moving = others.map(async (socket) => {
          for (let step = 0; step < 4; step += 1) {
            await pause();
            await must(socket, step % 2 === 0 ? 'room:join' : 'room:leave', { roomId });
          }
          if (Math.random() < 0.5) await must(socket, 'room:join', { roomId });
        });
        await pause(20);
        await asking(watcher, take, 'room:join', { roomId });
        await pause();
        await asking(watcher, take, 'room:participants', { roomId });
        await Promise.all(moving);
        await settled(watcher);
        const { participants } = await must(watcher, 'room:participants', { roomId });
        const there = participants.map(({ userId }) => userId).sort();
        assert.deepEqual([...seen].sort(), there);
        await Promise.all(others.map((socket) => must(socket, 'room:leave', { roomId })));
        watcher.disconnect();
        nodes[round % 2].clients.open.delete(watcher);
      }, 1);
    });

    test('a user has the presence of the answer to presence:subscribe and the events', { timeout: 120_000 }, async () => {
      const watcher = await user(0, 'watcher');
      await races(ROUNDS, async (round) => {
        const watched = await user(1 - (round % 2), 'watched');
        const userId = userOf(watched);
        let status;
        const onChange = (body) => { if (body.userId === userId) status = body.status; };
        watcher.on('presence:changed', onChange);
        const changing = (async () => {
          for (const next of ['busy', 'away', 'online', 'busy']) {
            await pause(4);
            await must(watched, 'presence:setStatus', { status: next });
          }
        })();
        await pause();
        await asking(watcher, ({ presences: [found] }) => { status = found.status; }, 'presence:subscribe', { userIds: [userId] });
        await asking(watcher, ({ presences: [found] }) => { status = found.status; }, 'presence:get', { userIds: [userId] });
        await changing;
        // The last change is announced a moment after the one before it.
        await eventually(() => status === 'busy', { what: 'the last status', timeout: 3_000 });
        await settled(watcher);
        assert.equal(status, 'busy');
        watcher.off('presence:changed', onChange);
        await must(watcher, 'presence:unsubscribe', { userIds: [userId] });
        watched.disconnect();
      });
    });

    test('a page of a history contains every message that arrived before it', { timeout: 120_000 }, async () => {
      const [reader, writer] = [await user(0, 'reader'), await user(1, 'writer')];
      await races(ROUNDS, async () => {
        const roomId = unique('room');
        await Promise.all([must(reader, 'join_room', roomId), must(writer, 'join_room', roomId)]);
        let messages = [];
        const onMessage = (message) => { if (message.roomId === roomId) messages.push(message.content); };
        reader.on('new_message', onMessage);
        const writing = (async () => {
          for (let n = 0; n < 6; n += 1) await must(writer, 'send_message', { roomId, content: String(n) });
        })();
        await pause();
        // The page replaces the earlier list.
        const take = (answer) => { messages = answer.messages.map(({ content }) => content); };
        await asking(reader, take, 'room_history', { roomId, limit: 50 });
        await writing;
        await settled(reader);
        reader.off('new_message', onMessage);
        assert.deepEqual([...new Set(messages)].sort(), ['0', '1', '2', '3', '4', '5']);
      }, 2);
    });

    test('a user who reconnects at the end of the hold-back has not left', { timeout: 120_000 }, async () => {
      const watchers = await Promise.all(nodes.map((_, at) => user(at, 'watcher')));
      const [chat, care] = [unique('room'), `topic:${unique('room')}`];
      const there = watchers.map(() => new Map());
      for (const [at, watcher] of watchers.entries()) {
        const note = (room, id, is) => there[at].set(`${room} ${id}`, is);
        watcher.on('user_joined', ({ userId }) => note('chat', userId, true));
        watcher.on('user_left', ({ userId }) => note('chat', userId, false));
        watcher.on('room:userJoined', ({ userId }) => note('care', userId, true));
        watcher.on('room:userLeft', ({ userId }) => note('care', userId, false));
        await must(watcher, 'join_room', chat);
        await must(watcher, 'room:join', { roomId: care });
      }
      await races(2 * ROUNDS, async (round) => {
        const at = round % 2;
        const sub = unique('back');
        const come = (where) => nodes[where].clients.connect({ claims: { sub } });
        const enter = (socket) => Promise.all([must(socket, 'join_room', chat), must(socket, 'room:join', { roomId: care })]);
        const first = await come(at);
        await enter(first);
        const second = await come(1 - at);
        first.disconnect();
        nodes[at].clients.open.delete(first);
        await delay(HOLDBACK_MS - 8 + Math.random() * 16);
        await enter(second);
        await delay(50);
        await settled(...watchers);
        for (const seen of there) {
          assert.notEqual(seen.get(`chat ${sub}`), false, 'gone from the room of chat');
          assert.notEqual(seen.get(`care ${sub}`), false, 'gone from the room of care');
        }
        second.disconnect();
        nodes[1 - at].clients.open.delete(second);
      });
    });
  });
}
