// Everything that a backend sends through one connection to Redis takes effect in one order: every ordered pair of its
// commands, from the npm emitter and from a Node.js server, on one node and on two, with Node.js servers as the
// control. ORDER_ROUNDS repeats each pair more often, ORDER_PAIR (`ask,close`) selects one.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, unique } from './support/clients.mjs';
import { count, startCluster } from './support/cluster.mjs';
import { startNodeServer, subscribed } from './support/node_server.mjs';
import { PAIRS, answersOn, emitterSender, sayPair, serverSender } from './support/order.mjs';
import { load } from './support/packages.mjs';
import { startRedis } from './support/redis.mjs';
import { eventually, once } from './support/wait.mjs';

const { Emitter } = load('@socket.io/redis-emitter');

const ROUNDS = Number(process.env.ORDER_ROUNDS ?? 2);
const SAID = PAIRS.filter((pair) => [undefined, pair.join()].includes(process.env.ORDER_PAIR));

/** Runs `work` for each of `items`, `atOnce` of them in parallel. */
async function each(items, atOnce, work) {
  const left = [...items];
  await Promise.all(Array.from({ length: atOnce }, async () => { while (left.length > 0) await work(left.shift()); }));
}

/** Sends every pair `rounds` times, many in parallel, and lists the errors. */
async function sayAll({ nodes, sender, servers, rounds }) {
  const open = (node) => node.clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: unique('u') } });
  const witnesses = await Promise.all(nodes.map(open));
  const spare = [];
  const wrong = [];
  const enter = async (socket, room) => assert.equal((await ask(socket, 'join', { room })).success, true);
  const all = Array.from({ length: rounds }, () => SAID).flat();
  await each(all, 8, async (pair) => {
    const sockets = spare.pop() ?? (await Promise.all(nodes.map(open)));
    try {
      await sayPair({ sender, pair, sockets, witnesses, enter, servers });
      if (sockets.every(({ connected }) => connected)) spare.push(sockets);
    } catch (error) {
      wrong.push(`${pair.join(', ')}: ${error.message}`);
    }
  });
  assert.deepEqual(wrong, [], `${wrong.length} of ${all.length} wrong`);
}

for (const size of [1, 2]) {
  describe(`commands of a backend to ${size === 1 ? 'one node' : 'two nodes'}`, () => {
    let cluster;
    let backend;
    let answers;
    before(async () => {
      cluster = await startCluster(size);
      backend = await startNodeServer(cluster.redis);
      answers = await answersOn(await cluster.redis.connect());
      await subscribed(backend.pub, size + 1);
    });
    after(async () => {
      await backend?.stop();
      await cluster?.stop();
    });

    test('the emitter: every pair takes effect in order', { timeout: 600_000 }, async () => {
      const sender = emitterSender(await cluster.redis.connect(), answers);
      await sayAll({ nodes: cluster.nodes, sender, servers: size + 1, rounds: ROUNDS });
    });

    test('a Node.js server: every pair takes effect in order', { timeout: 600_000 }, async () => {
      const sender = serverSender(backend.io, backend.pub, answers);
      await sayAll({ nodes: cluster.nodes, sender, servers: size + 1, rounds: ROUNDS });
    });
  });
}

describe('commands of a backend to many sockets at once', () => {
  let cluster;
  let emitter;
  before(async () => {
    cluster = await startCluster(2);
    emitter = new Emitter(await cluster.redis.connect());
  });
  after(() => cluster?.stop());

  const open = (at, options = {}) => cluster.nodes[at].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: unique('u') }, ...options });

  test('hundreds of sockets enter, leave and disconnect, each before the next command', { timeout: 60_000 }, async () => {
    const relay = emitter.of('/relay');
    const [all, room] = [unique('all'), unique('room')];
    const sockets = [];
    await each(Array.from({ length: 300 }, (_, n) => n % 2), 20, async (at) => {
      const socket = await open(at);
      await ask(socket, 'join', { room: all });
      sockets.push(socket);
    });
    const heard = sockets.map(() => []);
    for (const [n, socket] of sockets.entries()) socket.onAny((event) => heard[n].push(event));
    const ends = sockets.map((socket) => once(socket, 'end', { timeout: 20_000 }));
    // More rooms than a client may enter.
    relay.in(all).socketsJoin([room, ...Array.from({ length: 20 }, (_, n) => `${room}-${n}`)]);
    relay.to(room).emit('in');
    relay.to(`${room}-19`).emit('in the last');
    relay.in(all).except(`${room}-7`).socketsLeave(room);
    relay.to(room).emit('still in');
    relay.in(all).socketsLeave(room);
    relay.to(room).emit('out');
    relay.to(all).emit('end');
    await Promise.all(ends);
    for (const events of heard) assert.deepEqual(events, ['in', 'in the last', 'still in', 'end']);
    const gone = sockets.map((socket) => once(socket, 'disconnect', { timeout: 20_000 }));
    relay.in(`${room}-3`).disconnectSockets();
    relay.to(all).emit('too late');
    await Promise.all(gone);
    for (const events of heard) assert.deepEqual(events, ['in', 'in the last', 'still in', 'end']);
    // All nodes learn of the result.
    await eventually(async () => (await count(cluster.nodes[0], all, '/relay')).count === 0, { what: 'the room to be empty' });
  });

  test('a connection that is closed in one namespace receives nothing more in another', { timeout: 60_000 }, async () => {
    for (let round = 0; round < 30; round += 1) {
      const user = unique('both');
      const sub = { claims: { ...EVERYTHING, sub: user } };
      const relay = await open(0, sub);
      const chat = relay.io.socket('/', { auth: relay.auth });
      if (!chat.connected) await once(chat, 'connect');
      const witness = await cluster.nodes[0].clients.connect({ claims: { sub: unique('witness') } });
      const heard = [];
      relay.io.on('packet', ({ nsp, type, data }) => { if (type === 2) heard.push(`${nsp} ${data[0]}`); });
      const [end, gone] = [once(witness, 'end'), once(chat, 'disconnect')];
      emitter.to(`user:${user}`).emit('before');
      emitter.of('/relay').in(`user:${user}`).disconnectSockets(true);
      emitter.to(`user:${user}`).emit('after');
      emitter.to(witness.id).emit('end');
      await Promise.all([end, gone]);
      assert.deepEqual(heard, ['/ before'], `round ${round}`);
      witness.disconnect();
    }
  });
});

describe('commands of a backend to Node.js servers', () => {
  let redis;
  const nodes = [];
  before(async () => {
    redis = await startRedis();
    for (let at = 0; at < 3; at += 1) nodes.push(await startNodeServer(redis));
    await subscribed(nodes[0].pub, 3);
  });
  after(async () => {
    for (const node of nodes) await node.stop();
    await redis?.stop();
  });

  test('every pair takes effect in order, too', { timeout: 600_000 }, async () => {
    const answers = await answersOn(await redis.connect());
    const [backend, ...others] = nodes;
    await sayAll({ nodes: others, sender: emitterSender(await redis.connect(), answers), servers: 3, rounds: 1 });
    await sayAll({ nodes: others, sender: serverSender(backend.io, backend.pub, answers), servers: 3, rounds: 1 });
  });
});
