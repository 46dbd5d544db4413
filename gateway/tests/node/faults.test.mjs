// Redis killed, frozen, empty or silent; nodes frozen and drained: what keeps working, what is refused, and how soon
// the cluster recovers.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, bounded, keeper, unique } from './support/clients.mjs';
import { HOLDBACK_MS, LEASE_MS, count, internal, ready, startCluster } from './support/cluster.mjs';
import { runGateway, startGateway } from './support/gateway.mjs';
import { freePort } from './support/ports.mjs';
import { startPostgres } from './support/postgres.mjs';
import { isSubscriber, startProxy } from './support/proxy.mjs';
import { request } from './support/raw.mjs';
import { startRedis } from './support/redis.mjs';
import { eventually, once, within } from './support/wait.mjs';

/** How long a cluster may take to recover on a loaded machine. */
const HEALED = 15_000;

describe('Redis is killed and restarts empty', () => {
  let cluster;
  before(async () => { cluster = await startCluster(2); });
  after(() => cluster?.stop());

  test('no client is disconnected, sends fail fast meanwhile, and the cluster recovers', { timeout: 120_000 }, async () => {
    const [room, chatRoom] = [unique('room'), unique('chat')];
    const sockets = await bounded(40, 8, (n) => cluster.nodes[n % 2].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `u${n}` } }));
    for (const socket of sockets) await ask(socket, 'join', { room });
    const chatters = await Promise.all([0, 1].map((at) => cluster.nodes[at].clients.connect({ claims: { sub: `c${at}` } })));
    for (const socket of chatters) await ask(socket, 'join_room', chatRoom);
    const messages = chatters.map(() => []);
    chatters.forEach((socket, at) => socket.on('new_message', ({ content }) => messages[at].push(content)));
    const lost = [];
    for (const socket of [...sockets, ...chatters]) socket.on('disconnect', (reason) => lost.push(reason));
    const resynced = [...sockets.slice(2), ...chatters].map((socket) => once(socket, 'muster:resync', { timeout: 60_000, filter: (told) => told.room === null }));
    for (const each of resynced) each.catch(() => {});
    await ask(chatters[0], 'send_message', { roomId: chatRoom, content: 'before' });
    assert.equal((await count(cluster.nodes[1], room, '/relay')).count, 40);

    await cluster.redis.kill();
    await eventually(async () => (await request(cluster.nodes[0].port, 'GET', '/ready')).status === 503, { timeout: HEALED, what: '/ready to turn red' });
    assert.deepEqual(JSON.parse((await request(cluster.nodes[0].port, 'GET', '/ready')).body).failed, ['redis']);
    assert.equal((await request(cluster.nodes[0].port, 'GET', '/live')).status, 200);
    const start = performance.now();
    const refused = await ask(sockets[0], 'publish', { room, event: 'x', data: 1 });
    assert.deepEqual([refused.success, refused.error], [false, 'Service temporarily unavailable']);
    assert.ok(performance.now() - start < 3_000);
    const stale = await count(cluster.nodes[1], room, '/relay');
    assert.deepEqual([stale.count, stale.stale], [40, true]);
    assert.equal((await internal(cluster.nodes[1], 'GET', '/internal/rooms/never-asked/count')).status, 503);
    // Stored although it cannot be delivered: the sender gets an ack, and the other members receive it later.
    const stored = await ask(chatters[0], 'send_message', { roomId: chatRoom, content: 'meanwhile' });
    assert.deepEqual([stored.success, stored.realtime], [true, false]);
    const newcomer = await cluster.nodes[1].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: 'newcomer' } });
    assert.equal((await ask(newcomer, 'join', { room })).success, true);
    sockets[1].off('disconnect');
    sockets[1].disconnect();

    await cluster.redis.restart();
    for (const node of cluster.nodes) await ready(node, { timeout: HEALED });
    for (const node of cluster.nodes) await eventually(async () => (await count(node, room, '/relay')).count === 40, { timeout: HEALED, what: 'the count to be right' });
    const heard = [...sockets.filter((_, n) => n !== 1), newcomer].map((socket) => once(socket, 'after', { timeout: HEALED }));
    assert.equal((await ask(sockets[0], 'publish', { room, event: 'after', data: 1 })).success, true);
    for (const event of heard) await event;
    await ask(chatters[1], 'send_message', { roomId: chatRoom, content: 'after' });
    await eventually(() => messages.every((list) => list.length === 3), { timeout: HEALED, what: 'every message at both' });
    for (const list of messages) assert.deepEqual(list, ['before', 'meanwhile', 'after']);
    // The nodes cannot know what the clients missed meanwhile, so they notify the clients.
    await Promise.all(resynced);
    assert.deepEqual(lost, []);
  });
});

describe('Redis is frozen', () => {
  let cluster;
  before(async () => { cluster = await startCluster(2); });
  after(() => { cluster?.redis.thaw(); return cluster?.stop(); });

  test('no request hangs, and the cluster recovers when it thaws', { timeout: 120_000 }, async () => {
    const room = unique('room');
    const sockets = await Promise.all([0, 1].map((at) => cluster.nodes[at].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `f${at}` } })));
    for (const socket of sockets) await ask(socket, 'join', { room });
    cluster.redis.freeze();
    for (let n = 0; n < 6; n += 1) {
      const start = performance.now();
      assert.equal((await ask(sockets[n % 2], 'publish', { room, event: 'x', data: n })).success, false);
      assert.ok(performance.now() - start < 3_000);
    }
    assert.equal((await request(cluster.nodes[0].port, 'GET', '/live')).status, 200);
    cluster.redis.thaw();
    for (const node of cluster.nodes) await ready(node, { timeout: HEALED });
    for (const node of cluster.nodes) await eventually(async () => (await count(node, room, '/relay')).count === 2, { timeout: HEALED, what: 'the count' });
    const heard = sockets.map((socket) => once(socket, 'thawed', { timeout: HEALED }));
    assert.equal((await ask(sockets[1], 'publish', { room, event: 'thawed', data: 1 })).success, true);
    for (const event of heard) await event;
  });
});

describe('a connection to Redis that is open but silent', () => {
  let redis;
  let proxy;
  let cluster;
  before(async () => {
    redis = await startRedis();
    proxy = await startProxy(redis.port);
    cluster = await startCluster(1, { redis, redisUrl: proxy.url });
    await cluster.start({ REDIS_URL: redis.url });
  });
  after(async () => {
    await cluster?.stop();
    await proxy?.close();
    await redis?.stop();
  });

  test('is detected and replaced, and a quiet chat room receives its last message', { timeout: 120_000 }, async () => {
    const room = unique('quiet');
    const [deaf, other] = await Promise.all([0, 1].map((at) => cluster.nodes[at].clients.connect({ claims: { sub: `d${at}` } })));
    for (const socket of [deaf, other]) await ask(socket, 'join_room', room);
    const heard = [];
    deaf.on('new_message', ({ content }) => heard.push(content));
    proxy.stall(isSubscriber);
    assert.equal((await ask(other, 'send_message', { roomId: room, content: 'only one' })).success, true);
    await eventually(() => heard.length === 1, { timeout: HEALED, what: 'the message that the deaf connection missed' });
    assert.ok(sum(await cluster.nodes[0].metrics()) > 0);
    await ask(other, 'send_message', { roomId: room, content: 'two' });
    await eventually(() => heard.length === 2, { timeout: HEALED, what: 'the next message' });
    assert.deepEqual(heard, ['only one', 'two']);
  });

  test('is reset while it subscribes, five times: in the end all subscriptions exist', { timeout: 120_000 }, async () => {
    const rooms = Array.from({ length: 90 }, () => unique('many'));
    const sockets = await bounded(10, 5, (n) => cluster.nodes[0].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `m${n}` } }));
    for (const [n, socket] of sockets.entries()) for (const room of rooms.slice(n * 9, n * 9 + 9)) await ask(socket, 'join', { room });
    const reconnects = async () => (await cluster.nodes[0].metrics()).get('muster_redis_reconnects_total');
    for (let n = 0; n < 5; n += 1) {
      const earlier = await reconnects();
      const isLive = (link) => isSubscriber(link) && !link.client.destroyed;
      await eventually(() => [...proxy.connections].some(isLive), { timeout: HEALED, what: 'it to subscribe' });
      proxy.cut(isSubscriber);
      await eventually(async () => (await reconnects()) > earlier, { timeout: HEALED, what: 'the cut to be noticed' });
    }
    await ready(cluster.nodes[0], { timeout: HEALED });
    const client = await redis.connect();
    const wanted = rooms.map((room) => `socket.io#/relay#${room}!`);
    const channels = new Set(await client.pubSubChannels('socket.io#/relay#*'));
    assert.deepEqual(wanted.filter((channel) => !channels.has(channel)), []);
  });

  const sum = (metrics) => metrics.get('muster_redis_reconnects_total');
});

describe('a node that is frozen beyond its lease', () => {
  let cluster;
  before(async () => { cluster = await startCluster(2); });
  after(() => cluster?.stop());

  test('is not counted, registers again before it answers, and its users return', { timeout: 120_000 }, async () => {
    const room = unique('frozen');
    const [frozen, watcher] = await Promise.all([1, 0].map((at) => cluster.nodes[at].clients.connect({ claims: { sub: `z${at}` } })));
    const moves = [];
    watcher.on('user_left', ({ userId }) => moves.push(`-${userId}`));
    watcher.on('user_joined', ({ userId }) => moves.push(`+${userId}`));
    for (const socket of [watcher, frozen]) await ask(socket, 'join_room', room);
    await eventually(() => moves.length === 1, { what: 'the join' });
    cluster.nodes[1].signal('SIGSTOP');
    await eventually(async () => (await count(cluster.nodes[0], `room:${room}`)).count === 1, { timeout: LEASE_MS + 10_000, what: 'the frozen node to be counted out' });
    await eventually(() => moves.length === 2, { timeout: LEASE_MS * 2 + HOLDBACK_MS + 10_000, what: 'the leave' });
    cluster.nodes[1].signal('SIGCONT');
    assert.equal((await count(cluster.nodes[1], `room:${room}`)).count, 2);
    assert.equal((await count(cluster.nodes[0], `room:${room}`)).count, 2);
    await eventually(() => moves.length === 3, { timeout: HEALED, what: 'the return' });
    assert.deepEqual(moves, ['+z1', '-z1', '+z1']);
  });

  test('drained by SIGTERM, leaves no stale member, and its clients move to another node unnoticed', { timeout: 120_000 }, async () => {
    const room = unique('drained');
    const third = await cluster.start({ DRAIN: '200ms' });
    const watcher = await cluster.nodes[0].clients.connect({ claims: { sub: 'watcher' } });
    await ask(watcher, 'join_room', room);
    const moves = [];
    watcher.on('user_left', ({ userId }) => moves.push(`-${userId}`));
    const moving = await third.clients.connect({ claims: { sub: 'moving' } });
    const leaving = await third.clients.connect({ claims: { sub: 'leaving' } });
    for (const socket of [moving, leaving]) await ask(socket, 'join_room', room);
    const elsewhere = await cluster.nodes[0].clients.connect({ claims: { sub: 'moving' } });
    const gone = once(moving, 'disconnect', { timeout: 10_000 });
    const ended = third.stop();
    assert.equal((await gone)[0], 'transport close');
    await ask(elsewhere, 'join_room', room);
    assert.equal((await ended).code, 0);
    await eventually(() => moves.length > 0, { timeout: LEASE_MS * 2 + HOLDBACK_MS + 10_000, what: 'the leave' });
    assert.deepEqual(moves, ['-leaving']);
    assert.equal((await count(cluster.nodes[0], `room:${room}`)).count, 2);
  });
});

describe('a node that starts without Redis', () => {
  test('runs, reports what is missing, and becomes ready when Redis starts', { timeout: 120_000 }, async () => {
    const port = await freePort();
    const node = await startGateway({ env: { REDIS_HOST: '127.0.0.1', REDIS_PORT: port, LEASE: `${LEASE_MS}ms` } });
    let redis;
    try {
      assert.equal((await request(node.port, 'GET', '/live')).status, 200);
      const answer = await request(node.port, 'GET', '/ready');
      assert.deepEqual([answer.status, JSON.parse(answer.body).failed], [503, ['redis']]);
      redis = await startRedis({ port });
      await ready(node, { timeout: HEALED });
      assert.equal((await node.metrics()).get('muster_redis_up'), 1);
      assert.deepEqual(await within(node.stop(), 15_000, 'its end'), { code: 0, signal: null });
    } finally {
      await node.kill();
      await redis?.stop();
    }
  });
});

describe('a node that starts without its database', () => {
  test('runs, reports what is missing, refuses requests that it would have to store, and becomes ready when it starts', { timeout: 120_000 }, async () => {
    const port = await freePort();
    const node = await startGateway({ env: { DATABASE_URL: `postgres://postgres@127.0.0.1:${port}/postgres` } });
    const clients = keeper(node);
    let postgres;
    try {
      assert.equal((await request(node.port, 'GET', '/live')).status, 200);
      const answer = await request(node.port, 'GET', '/ready');
      assert.deepEqual([answer.status, JSON.parse(answer.body).failed], [503, ['records']]);
      const [early, relay] = await Promise.all([clients.connect(), clients.connect({ namespace: '/relay', claims: EVERYTHING })]);
      assert.deepEqual(await ask(early, 'join_room', 'r'), { success: false, error: 'Service temporarily unavailable' });
      assert.equal(await ask(relay, 'echo', 'here'), 'here');
      postgres = await startPostgres({ port });
      await ready(node, { timeout: HEALED });
      assert.equal((await ask(early, 'join_room', 'r')).success, true);
      assert.equal((await ask(early, 'send_message', { roomId: 'r', content: 'stored' })).success, true);
    } finally {
      clients.closeAll();
      await node.kill();
      await postgres?.kill();
    }
  });

  test('but exits with an error if the database can never work', async () => {
    const { code, stderr } = await runGateway([], { env: { LISTEN: '127.0.0.1:0', INTERNAL_LISTEN: '127.0.0.1:0', DATABASE_URL: 'postgres://127.0.0.1:port/x' } });
    assert.notEqual(code, 0);
    assert.match(stderr, /database/i);
  });
});

describe('keys that were written into Redis by hand', () => {
  let cluster;
  before(async () => { cluster = await startCluster(1); });
  after(() => cluster?.stop());

  test('members without a lease, or with one that no node writes, are not counted', async () => {
    const room = unique('forged');
    const socket = await cluster.nodes[0].clients.connect({ namespace: '/relay', claims: EVERYTHING });
    await ask(socket, 'join', { room });
    const client = await cluster.redis.connect();
    for (const [name, lapses] of [['ghost-1'], ['ghost-2', Date.UTC(9999, 0)]]) {
      await client.sAdd(`muster:{/relay#${room}}:n`, name);
      await client.hSet(`muster:{/relay#${room}}:m:${name}`, 'ghostsocket', 'ghost\n{}');
      await client.hSet(`muster:{/relay#${room}}:u:${name}`, 'ghost', '1');
      if (lapses) await client.zAdd('muster:{nodes}:leases', { score: lapses, value: name });
    }
    const counted = await count(cluster.nodes[0], room, '/relay');
    assert.deepEqual([counted.count, counted.users], [1, 1]);
    assert.equal((await ask(socket, 'members', { room })).count, 1);
  });
});

describe('members who join and leave on three nodes', () => {
  let cluster;
  before(async () => { cluster = await startCluster(3); });
  after(() => cluster?.stop());

  test('are counted exactly when no one moves, and the last to join receives everything', { timeout: 120_000 }, async () => {
    const room = unique('storm');
    const sockets = await bounded(12, 6, (n) => cluster.nodes[n % 3].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `w${n % 5}` } }));
    await Promise.all(sockets.map(async (socket, n) => {
      for (let round = 0; round < 25; round += 1) {
        await ask(socket, 'join', { room });
        if (round < 24 || n % 2) await ask(socket, 'leave', { room });
      }
    }));
    const inside = sockets.filter((_, n) => n % 2 === 0);
    const users = new Set([0, 2, 4, 6, 8, 10].map((n) => n % 5)).size;
    for (const node of cluster.nodes) {
      const counted = await count(node, room, '/relay');
      assert.deepEqual([counted.count, counted.users], [inside.length, users]);
    }
    const last = sockets[11];
    await ask(last, 'join', { room });
    const heard = [...inside, last].map((socket) => once(socket, 'end'));
    await ask(sockets[1], 'publish', { room, event: 'end', data: 1 });
    for (const event of heard) await event;
  });
});
