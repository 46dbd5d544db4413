// Redis dies, freezes, goes away for long or is cut off, under as many clients and rooms as one machine holds. Long, and for a
// release build: `make chaos`. Each test says what it measured.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, test } from 'node:test';

import { EVERYTHING, ask, bounded, unique } from '../support/clients.mjs';
import { count, internal, ready, startCluster } from '../support/cluster.mjs';
import { temporaryDirectory } from '../support/gateway.mjs';
import { resident } from '../support/hostile.mjs';
import { stopwatch } from '../support/measure.mjs';
import { isSubscriber, startProxy } from '../support/proxy.mjs';
import { request } from '../support/raw.mjs';
import { startRedis } from '../support/redis.mjs';
import { delay, eventually, once } from '../support/wait.mjs';

/** The lease and the hold-back that users have. */
const DEFAULTS = { LEASE: '6s', LEAVE_HOLDBACK: '3s', SOCKETS_PER_USER: '0', EVENTS_PER_SECOND: '0' };
/** What may pass from the return of Redis until everything is right. */
const HEALED_MS = 5_000;

/** Relay members: `total` sockets, dealt out to the nodes and to `rooms`; and who was disconnected. */
async function crowd(cluster, total, rooms) {
  const sockets = await bounded(total, 50, (n) => cluster.nodes[n % cluster.nodes.length].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `u${n}` } }));
  const lost = [];
  for (const socket of sockets) socket.on('disconnect', (reason) => lost.push(reason));
  await bounded(total, 50, (n) => ask(sockets[n], 'join', { room: rooms[n % rooms.length] }));
  return { sockets, lost };
}

/** Publishes to every room until all of its members have heard of it. */
async function everybodyHears(sockets, rooms, { timeout }) {
  const event = unique('heard');
  const heard = new Set();
  sockets.forEach((socket, n) => socket.on(event, () => heard.add(n)));
  await eventually(async () => {
    const missing = rooms.filter((_, at) => sockets.some((__, n) => n % rooms.length === at && !heard.has(n)));
    await Promise.all(missing.map((room) => ask(sockets[rooms.indexOf(room)], 'publish', { room, event, data: 1 })));
    return missing.length === 0;
  }, { timeout, interval: 100, what: 'everybody to hear a publish' });
  for (const socket of sockets) socket.off(event);
}

const everyCount = (cluster, rooms, expected) => async () => {
  for (const node of cluster.nodes) {
    for (const room of rooms) {
      const counted = await count(node, room, '/relay');
      if (counted.count !== expected || counted.stale) return false;
    }
  }
  return true;
};

describe('Redis is killed under 2,000 clients', () => {
  for (const [name, args] of [['and comes back empty', []], ['and comes back with what it had', ['--appendonly', 'yes']]]) {
    test(name, { timeout: 300_000 }, async (t) => {
      const redis = await startRedis({ args });
      const cluster = await startCluster(2, { redis, env: DEFAULTS });
      try {
        const rooms = Array.from({ length: 20 }, () => unique('room'));
        const { sockets, lost } = await crowd(cluster, 2_000, rooms);
        assert.ok(await everyCount(cluster, rooms, 100)());
        await redis.kill();
        const away = stopwatch();
        let first;
        let worst = 0;
        while (away() < 3_000) {
          const asked = stopwatch();
          const { success } = await ask(sockets[Math.floor(away()) % sockets.length], 'publish', { room: rooms[0], event: 'x', data: 1 });
          worst = Math.max(worst, asked());
          if (!success) first ??= away();
        }
        await redis.restart();
        const back = stopwatch();
        await everybodyHears(sockets, rooms, { timeout: HEALED_MS });
        const heard = back();
        await eventually(everyCount(cluster, rooms, 100), { timeout: HEALED_MS, what: 'every count' });
        const counted = back();
        t.diagnostic(`first error after ${first.toFixed(0)} ms, the slowest answer ${worst.toFixed(0)} ms; after the return all hear after ${heard.toFixed(0)} ms, all counts right after ${counted.toFixed(0)} ms; disconnected: ${lost.length}`);
        assert.ok(first <= 1_000 && worst <= 1_000, `${first} ms, ${worst} ms`);
        assert.ok(counted <= HEALED_MS, `${counted} ms`);
        assert.deepEqual(lost, []);
      } finally {
        await cluster.stop();
        await redis.stop();
      }
    });
  }
});

describe('Redis is away for minutes', () => {
  const MINUTES = Number(process.env.CHAOS_AWAY_MINUTES ?? 5);

  test('memory stays, clients come in, counts grow stale and then are refused, messages are stored', { timeout: MINUTES * 60_000 + 300_000 }, async (t) => {
    const redis = await startRedis();
    const cluster = await startCluster(2, { redis, env: DEFAULTS });
    try {
      const rooms = [unique('room')];
      const { lost } = await crowd(cluster, 200, rooms);
      const chatRoom = unique('chat');
      const [writer, reader] = await Promise.all([0, 1].map((at) => cluster.nodes[at].clients.connect({ claims: { sub: `c${at}` } })));
      const heard = [];
      reader.on('new_message', ({ content }) => heard.push(content));
      for (const socket of [writer, reader]) await ask(socket, 'join_room', chatRoom);
      assert.ok(await everyCount(cluster, rooms, 200)());
      await redis.kill();
      const away = stopwatch();
      const before = cluster.nodes.map(({ pid }) => resident(pid));
      let sent = 0;
      let visitors = 0;
      let refusedCount;
      while (away() < MINUTES * 60_000) {
        const each = stopwatch();
        // Fifty a second come and go, and somebody writes.
        await bounded(50, 10, async (n) => {
          const visitor = await cluster.nodes[n % 2].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `v${n}` } });
          await ask(visitor, 'join', { room: rooms[0] });
          visitors += 1;
          visitor.disconnect();
        });
        const stored = await ask(writer, 'send_message', { roomId: chatRoom, content: `m${sent}` });
        assert.equal(stored.success, true);
        sent += 1;
        const counted = await internal(cluster.nodes[0], 'GET', `/internal/rooms/${rooms[0]}/count?namespace=/relay`);
        if (counted.status === 503) refusedCount ??= away();
        else assert.equal(counted.body.data.stale, true);
        assert.equal((await request(cluster.nodes[0].port, 'GET', '/live')).status, 200);
        await delay(Math.max(0, 1_000 - each()));
      }
      const grown = cluster.nodes.map((node, at) => resident(node.pid) - before[at]);
      await redis.restart();
      const back = stopwatch();
      await eventually(everyCount(cluster, rooms, 200), { timeout: 30_000, what: 'every count' });
      const counted = back();
      await eventually(() => heard.length === sent, { timeout: 30_000, what: `all ${sent} messages at the other node` });
      t.diagnostic(`${MINUTES} min, ${visitors} visitors, ${sent} messages stored and heard in the end; memory grew by ${grown.map((bytes) => (bytes / 2 ** 20).toFixed(1)).join(' and ')} MiB; counts refused after ${((refusedCount ?? 0) / 1000).toFixed(1)} s; right again ${counted.toFixed(0)} ms after the return`);
      assert.ok(refusedCount > 25_000 && refusedCount < 35_000);
      assert.deepEqual(heard, Array.from({ length: sent }, (_, n) => `m${n}`));
      assert.deepEqual(lost, []);
      for (const bytes of grown) assert.ok(bytes < 32 * 2 ** 20, `${bytes} bytes`);
    } finally {
      await cluster.stop();
      await redis.stop();
    }
  });
});

describe('10,000 rooms on each of two nodes', () => {
  /** Sockets that each are in `per` rooms of their own node. */
  async function manyRooms(cluster, per = 100) {
    const rooms = cluster.nodes.map((_, at) => Array.from({ length: 10_000 }, (__, n) => `many-${at}-${n}`));
    const sockets = [];
    for (const [at, node] of cluster.nodes.entries()) {
      const own = await bounded(10_000 / per, 20, (n) => node.clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `m${at}-${n}` } }));
      await bounded(own.length, 10, async (n) => {
        for (const room of rooms[at].slice(n * per, n * per + per)) assert.equal((await ask(own[n], 'join', { room })).success, true);
      });
      sockets.push(...own);
    }
    return { rooms, sockets };
  }

  const missing = async (redis, rooms) => {
    const client = await redis.connect();
    const channels = new Set(await client.pubSubChannels('socket.io#/relay#many-*'));
    await client.quit();
    return rooms.flat().filter((room) => !channels.has(`socket.io#/relay#${room}!`)).length;
  };

  test('are subscribed anew in batches, and all are live soon after the return of Redis', { timeout: 300_000 }, async (t) => {
    const redis = await startRedis();
    const cluster = await startCluster(2, { redis, env: DEFAULTS });
    try {
      const { rooms } = await manyRooms(cluster);
      await redis.kill();
      await delay(2_000);
      await redis.restart();
      const back = stopwatch();
      await eventually(async () => (await missing(redis, rooms)) === 0, { timeout: 30_000, interval: 100, what: 'every room to be subscribed' });
      const live = back();
      for (const node of cluster.nodes) await ready(node, { timeout: 30_000 });
      const whole = back();
      const client = await redis.connect();
      const calls = Number(/cmdstat_subscribe:calls=(\d+)/.exec(await client.info('commandstats'))[1]);
      t.diagnostic(`all 20,000 live after ${live.toFixed(0)} ms with ${calls} SUBSCRIBE commands of both nodes; everything registered after ${whole.toFixed(0)} ms`);
      assert.ok(live <= HEALED_MS, `${live} ms`);
      // 512 channels a command, and two commands for what a node always hears.
      assert.ok(calls <= 2 * (20 + 4), `${calls} commands`);
    } finally {
      await cluster.stop();
      await redis.stop();
    }
  });

  test('survive a subscriber that is cut five times, each time while it subscribes', { timeout: 300_000 }, async (t) => {
    const redis = await startRedis();
    const proxy = await startProxy(redis.port);
    const cluster = await startCluster(2, { redis, redisUrl: proxy.url, env: DEFAULTS });
    try {
      const { rooms } = await manyRooms(cluster);
      for (let n = 0; n < 5; n += 1) {
        const fresh = (link) => isSubscriber(link) && !link.client.destroyed;
        await eventually(() => [...proxy.connections].filter(fresh).length >= 2, { timeout: 30_000, interval: 5, what: 'both to subscribe' });
        await delay(50);
        proxy.cut(isSubscriber);
      }
      const cut = stopwatch();
      await eventually(async () => (await missing(redis, rooms)) === 0, { timeout: 30_000, interval: 100, what: 'every room to be subscribed' });
      t.diagnostic(`all 20,000 live ${cut().toFixed(0)} ms after the last cut`);
      assert.ok(cut() <= HEALED_MS);
    } finally {
      await cluster.stop();
      await proxy.close();
      await redis.stop();
    }
  });
});

describe('the end of a Redis that nobody hears of', () => {
  test('is found out, and everything is right again', { timeout: 120_000 }, async (t) => {
    const redis = await startRedis();
    const proxy = await startProxy(redis.port);
    const cluster = await startCluster(2, { redis, redisUrl: proxy.url, env: DEFAULTS });
    try {
      const rooms = [unique('room')];
      const { sockets, lost } = await crowd(cluster, 20, rooms);
      // The connections of before stay open and silent: what Redis' kernel says of its end is swallowed.
      proxy.stall();
      await redis.kill();
      await redis.restart();
      const back = stopwatch();
      await everybodyHears(sockets, rooms, { timeout: 15_000 });
      const heard = back();
      await eventually(everyCount(cluster, rooms, 20), { timeout: 15_000, what: 'every count' });
      t.diagnostic(`all hear again after ${heard.toFixed(0)} ms, counts right after ${back().toFixed(0)} ms`);
      assert.deepEqual(lost, []);
    } finally {
      await cluster.stop();
      await proxy.close();
      await redis.stop();
    }
  });
});

describe('one node is cut off from Redis without a word', () => {
  test('its members stop counting, it says that it does not know, the others go on, and it comes back', { timeout: 180_000 }, async (t) => {
    const redis = await startRedis();
    const proxy = await startProxy(redis.port);
    const cluster = await startCluster(2, { redis, env: DEFAULTS });
    try {
      const cut = await cluster.start({ REDIS_URL: proxy.url });
      const rooms = [unique('room')];
      const { sockets, lost } = await crowd(cluster, 30, rooms);
      const others = sockets.filter((_, n) => n % 3 !== 2);
      assert.ok(await everyCount(cluster, rooms, 30)());
      proxy.stall();
      proxy.refuse(true);
      const gone = stopwatch();
      await eventually(async () => (await count(cluster.nodes[0], rooms[0], '/relay')).count === 20, { timeout: 15_000, what: 'its members to stop counting' });
      const out = gone();
      let slowest = 0;
      let refused = false;
      while (gone() < 35_000) {
        const each = stopwatch();
        const heard = others.map((socket) => once(socket, 'on', { timeout: 5_000 }));
        assert.equal((await ask(others[0], 'publish', { room: rooms[0], event: 'on', data: 1 })).success, true);
        await Promise.all(heard);
        slowest = Math.max(slowest, each());
        const answer = await internal(cut, 'GET', `/internal/rooms/${rooms[0]}/count?namespace=/relay`);
        if (answer.status === 503) refused = true;
        else assert.deepEqual([answer.body.data.count, answer.body.data.stale], [30, true]);
        await delay(200);
      }
      assert.ok(refused);
      proxy.refuse(false);
      proxy.cut();
      const back = stopwatch();
      await eventually(everyCount(cluster, rooms, 30), { timeout: 30_000, what: 'every count' });
      t.diagnostic(`counted out after ${out.toFixed(0)} ms; the others' slowest broadcast ${slowest.toFixed(0)} ms; right again ${back().toFixed(0)} ms after the link`);
      assert.ok(out <= 7_500, `${out} ms`);
      assert.ok(back() <= 2 * HEALED_MS);
      assert.deepEqual(lost, []);
    } finally {
      await cluster.stop();
      await proxy.close();
      await redis.stop();
    }
  });
});

describe('a node sleeps while more is published than Redis keeps for it', () => {
  test('its members are told that they missed something, and its memory stays bounded', { timeout: 180_000 }, async (t) => {
    const redis = await startRedis();
    // A lease that outlasts the sleep: only the subscription is lost.
    const cluster = await startCluster(2, { redis, env: { ...DEFAULTS, LEASE: '60s' } });
    try {
      const room = unique('room');
      const member = await cluster.nodes[1].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: 'sleeper' } });
      await ask(member, 'join', { room });
      const emit = (event, data) => internal(cluster.nodes[0], 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event, data });
      let heard = 0;
      let resynced = 0;
      member.on('big', () => { heard += 1; });
      member.on('muster:resync', (told) => { if (told.room === room) resynced += 1; });
      await emit('big', 'first');
      await eventually(() => heard === 1, { what: 'the first' });
      const before = resident(cluster.nodes[1].pid);
      cluster.nodes[1].signal('SIGSTOP');
      const data = 'x'.repeat(64 << 10);
      for (let n = 0; n < 768; n += 1) assert.equal((await emit('big', data)).body.success, true);
      cluster.nodes[1].signal('SIGCONT');
      const woken = stopwatch();
      await eventually(() => resynced > 0 || heard === 769, { timeout: 20_000, what: 'all of it, or the word that something is missing' });
      const told = woken();
      await ready(cluster.nodes[1], { timeout: 20_000 });
      const grown = resident(cluster.nodes[1].pid) - before;
      await eventually(async () => { await emit('big', 'last'); return heard > 1; }, { timeout: 20_000, interval: 200, what: 'what comes after' });
      t.diagnostic(`${heard} of 769 heard, ${resynced} times told to look again, after ${told.toFixed(0)} ms; memory grew by ${(grown / 2 ** 20).toFixed(1)} MiB`);
      assert.ok(heard >= 769 || resynced > 0);
      assert.ok(grown < 64 * 2 ** 20, `${grown} bytes`);
    } finally {
      await cluster.stop();
      await redis.stop();
    }
  });
});

describe('100,000 messages a second on the channel of one room', () => {
  for (const [name, message] of [['of nonsense', 'x'.repeat(100)], ['that can be read', undefined]]) {
    test(`${name}: they cost the other rooms little`, { timeout: 120_000 }, async (t) => {
      const redis = await startRedis();
      const cluster = await startCluster(1, { redis, env: DEFAULTS });
      try {
        const [flooded, other] = [unique('flooded'), unique('other')];
        const [sender, reader] = await Promise.all(['s', 'r'].map((sub) => cluster.nodes[0].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub } })));
        // The member who gets the flood reads it on a thread of its own, so that the others' time is not its.
        const victim = new Worker(new URL('./flooded.mjs', import.meta.url), { workerData: { url: `${cluster.nodes[0].url}/relay`, token: cluster.nodes[0].token({ ...EVERYTHING, sub: 'v' }), room: flooded } });
        await once(victim, 'message', { timeout: 10_000, filter: (what) => what === 'joined' });
        for (const socket of [sender, reader]) await ask(socket, 'join', { room: other });
        // `[uid, {type: 2, data: ["e"], nsp: "/relay"}, {rooms: [room], except: [], flags: {}}]`
        const str = (value) => String.fromCharCode(0xa0 | value.length) + value;
        const good = `\x93${str('flood')}\x83${str('type')}\x02${str('data')}\x91${str('e')}${str('nsp')}${str('/relay')}\x83${str('rooms')}\x91${str(flooded)}${str('except')}\x90${str('flags')}\x80`;
        const file = join(temporaryDirectory(), 'message');
        writeFileSync(file, Buffer.from(message ?? good, 'latin1'));
        const flood = spawn('redis-benchmark', ['-p', String(redis.port), '-c', '1', '-P', '16', '-n', '600000', '-q', '-x', 'PUBLISH', `socket.io#/relay#${flooded}#`], { stdio: [openSync(file, 'r'), 'ignore', 'inherit'] });
        const ended = once(flood, 'exit', { timeout: 60_000 });
        const running = stopwatch();
        const waits = [];
        let over = false;
        ended.then(() => { over = true; });
        while (!over) {
          const each = stopwatch();
          const heard = once(reader, 'tick', { timeout: 10_000 });
          await ask(sender, 'publish', { room: other, event: 'tick', data: 1 });
          await heard;
          waits.push(each());
        }
        await ended;
        await victim.terminate();
        const rate = 600_000 / (running() / 1000);
        waits.sort((a, b) => a - b);
        const p99 = waits[Math.floor(waits.length * 0.99)];
        await ready(cluster.nodes[0], { timeout: 15_000 });
        const metrics = await cluster.nodes[0].metrics();
        t.diagnostic(`${rate.toFixed(0)} messages/s; the other room's p50 ${waits[Math.floor(waits.length / 2)].toFixed(1)} ms, p99 ${p99.toFixed(1)} ms over ${waits.length} broadcasts; ${metrics.get('muster_redis_malformed_total')} counted as malformed, ${metrics.get('muster_redis_reconnects_total')} reconnects`);
        assert.ok(p99 <= 250, `${p99} ms`);
        if (message) assert.ok(metrics.get('muster_redis_malformed_total') >= 500_000);
      } finally {
        await cluster.stop();
        await redis.stop();
      }
    });
  }
});
