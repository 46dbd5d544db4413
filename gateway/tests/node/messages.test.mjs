// The Redis cost of an event from a backend: messages, calls, and stored keys.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, bounded, unique } from './support/clients.mjs';
import { internal, startCluster } from './support/cluster.mjs';
import { eventually, record } from './support/wait.mjs';

const EVENTS = 200;
/** How often each node publishes its canary, which checks its own subscription. */
const CANARY_MS = 1_000;

/** How often each command was called, including by scripts. */
async function calls(redis) {
  const text = await redis.sendCommand(['INFO', 'commandstats']);
  return Object.fromEntries([...text.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)].map(([, name, count]) => [name, Number(count)]));
}

const emit = (node, room, data, more = {}) =>
  internal(node, 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'news', data, ...more });

describe('an event that a backend emits', () => {
  let cluster;
  let redis;
  before(async () => {
    cluster = await startCluster(2);
    redis = await cluster.redis.connect();
  });
  after(() => cluster?.stop());

  /** A member on each of the first two nodes. */
  const members = async (room) => {
    const sockets = await Promise.all(cluster.nodes.slice(0, 2).map((node) => node.clients.connect({ namespace: '/relay', claims: EVERYTHING })));
    for (const socket of sockets) await ask(socket, 'join', { room });
    return sockets;
  };

  test('is one message, for any number of nodes', { timeout: 240_000 }, async (t) => {
    const room = unique('room');
    const events = (await members(room)).map(record);
    for (const size of [2, 5, 10]) {
      while (cluster.nodes.length < size) await cluster.start();
      const [before, began] = [await calls(redis), Date.now()];
      await bounded(EVENTS, 20, async (n) => {
        const { status, body } = await emit(cluster.nodes[0], room, n);
        assert.deepEqual([status, body.sockets], [200, null]);
      });
      const counted = await calls(redis);
      const publishes = counted.publish - before.publish;
      t.diagnostic(`${size} nodes: ${publishes} publishes for ${EVENTS} events`);
      // The nodes also publish on their own.
      const others = size * ((Date.now() - began) / CANARY_MS + 2);
      assert.ok(publishes >= EVENTS && publishes <= EVENTS + others, `${publishes} publishes, of which ${others} may be others`);
    }
    for (const each of events) for (let sent = 0; sent < 3 * EVENTS; sent += 1) await each.take('news');
  });

  test('is counted if the backend requests a receipt', async () => {
    const room = unique('room');
    await members(room);
    for (const node of cluster.nodes.slice(0, 2)) {
      assert.deepEqual([(await emit(node, room, 1, { receipt: true })).body.sockets, (await emit(node, room, 1, { receipt: false })).body.sockets], [2, null]);
    }
    const { status, body } = await emit(cluster.nodes[0], room, 1, { receipt: 1 });
    assert.equal(status, 400, JSON.stringify(body));
  });

  test('shares a Redis call with other pending events', async () => {
    const [node] = cluster.nodes;
    const rooms = [unique('room'), unique('room')];
    const recorded = [record((await members(rooms[0]))[1]), record((await members(rooms[1]))[0])];
    const published = async () => (await node.metrics()).get('muster_redis_published_total');
    const [posted, before] = [await published(), await calls(redis)];
    cluster.redis.freeze();
    const emitted = Promise.all(Array.from({ length: 40 }, (_, n) => emit(node, rooms[n % 2], n)));
    try {
      await eventually(async () => (await published()) >= posted + 40, { what: 'all to be on their way' });
    } finally {
      cluster.redis.thaw();
    }
    const places = new Map(rooms.map((room) => [room, new Set()]));
    for (const [n, { status, body }] of (await emitted).entries()) {
      assert.equal(status, 200, JSON.stringify(body));
      places.get(rooms[n % 2]).add(body.place);
    }
    assert.deepEqual([...places.values()].map(({ size }) => size), [20, 20], 'each has its own place');
    // A call reads the epoch of each of its rooms once.
    const reads = (await calls(redis)).hmget - before.hmget;
    assert.ok(reads < 20, `${reads} reads for 40 events`);
    for (const each of recorded) for (let n = 0; n < 20; n += 1) await each.take('news');
  });

  test('is emitted even if another room\'s keys cannot be written', async () => {
    const [node] = cluster.nodes;
    const [broken, whole] = [unique('room'), unique('room')];
    assert.equal((await emit(node, broken, 0)).status, 200);
    await redis.set(`muster:{/relay#${broken}}:stream`, 'no stream');
    const answers = await Promise.all(Array.from({ length: 40 }, (_, n) => emit(node, n % 2 ? whole : broken, n)));
    assert.deepEqual(answers.map(({ status }) => status), Array.from({ length: 40 }, (_, n) => (n % 2 ? 200 : 503)));
  });

  test('renews the lifetimes of its room\'s keys now and then', async () => {
    const [node] = cluster.nodes;
    const room = unique('room');
    const [meta, stream] = ['meta', 'stream'].map((name) => `muster:{/relay#${room}}:${name}`);
    const { body: { place } } = await emit(node, room, 1);
    const kept = async () => [await redis.ttl(meta), await redis.ttl(stream)];
    const [metaS, streamS] = await kept();
    assert.ok(metaS > 6 * 86_400 && streamS > 180 && streamS <= 210, `${metaS} s, ${streamS} s`);
    await redis.expire(stream, 100);
    await emit(node, room, 2);
    assert.ok((await redis.ttl(stream)) <= 100, 'not with each event');
    await redis.del(stream);
    const { body: { place: last } } = await emit(node, room, 3);
    assert.ok((await redis.ttl(stream)) > 180, 'a new stream has a lifetime');
    assert.deepEqual(last.split(':'), [place.split(':')[0], '3']);
    // Another node does not know when the lifetimes were last renewed.
    await redis.expire(stream, 100);
    await emit(cluster.nodes[1], room, 4);
    assert.ok((await redis.ttl(stream)) > 180);
  });

  test('is kept among the last events of its room', async () => {
    const room = unique('room');
    await bounded(700, 50, (n) => emit(cluster.nodes[n % 2], room, n));
    const kept = Number(await redis.xLen(`muster:{/relay#${room}}:stream`));
    assert.ok(kept >= 512 && kept < 650, String(kept));
  });
});
