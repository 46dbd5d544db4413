// Nodes that die, are replaced, run out of files, of disk, or of somebody who reads their log; and callers who all come at
// once. Long, and for a release build: `make chaos`. Each test says what it measured.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { EVERYTHING, ask, bounded, unique } from '../support/clients.mjs';
import { count, internal, startCluster } from '../support/cluster.mjs';
import { keeper } from '../support/clients.mjs';
import { startGateway, temporaryDirectory } from '../support/gateway.mjs';
import { resident } from '../support/hostile.mjs';
import { stopwatch } from '../support/measure.mjs';
import { request } from '../support/raw.mjs';
import { delay, eventually } from '../support/wait.mjs';

const DEFAULTS = { LEASE: '6s', LEAVE_HOLDBACK: '3s', SOCKETS_PER_USER: '0', EVENTS_PER_SECOND: '0' };
const LEASE_MS = 6_000;
const HOLDBACK_MS = 3_000;

const percentile = (values, share) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? 0;

/** Chat members who write numbered messages and note what they hear; `check` says whether every acknowledged one was heard in order. */
async function writers(cluster, room, number) {
  const people = [];
  for (let n = 0; n < number; n += 1) {
    const socket = await cluster.nodes[n % cluster.nodes.length].clients.connect({ claims: { sub: `w${n}` } });
    const person = { socket, heard: [], acknowledged: [], waits: [] };
    socket.on('new_message', ({ content }) => person.heard.push(content));
    await ask(socket, 'join_room', room);
    people.push(person);
  }
  let running = true;
  const loops = people.map(async (person, n) => {
    for (let at = 0; running && person.socket.connected; at += 1) {
      const content = `${n}:${at}`;
      const each = stopwatch();
      const answer = await person.socket.timeout(5_000).emitWithAck('send_message', { roomId: room, content }).catch(() => ({}));
      if (answer.success) {
        person.acknowledged.push(content);
        person.waits.push(each());
      }
      await delay(20);
    }
  });
  return {
    people,
    async stop() {
      running = false;
      await Promise.all(loops);
    },
    /** Everything that was acknowledged was heard, once, and in one order, by all who stayed. */
    async check({ timeout = 15_000 } = {}) {
      const staying = people.filter(({ socket }) => socket.connected);
      const acknowledged = people.flatMap((person) => person.acknowledged);
      await eventually(() => staying.every(({ heard }) => { const set = new Set(heard); return acknowledged.every((one) => set.has(one)); }), { timeout, what: 'every acknowledged message at everybody' });
      const [first] = staying;
      for (const { heard } of staying) {
        assert.equal(new Set(heard).size, heard.length, 'nothing comes twice');
        const common = new Set(heard.filter((one) => first.heard.includes(one)));
        assert.deepEqual(heard.filter((one) => common.has(one)), first.heard.filter((one) => common.has(one)), 'one order');
      }
      return acknowledged.length;
    },
  };
}

describe('a node is killed under load', () => {
  test('the others count right soon, tell who is gone, and lose nothing', { timeout: 120_000 }, async (t) => {
    const cluster = await startCluster(3, { env: DEFAULTS });
    try {
      const room = unique('room');
      const load = await writers(cluster, room, 6);
      const left = [];
      load.people[0].socket.on('user_left', ({ userId }) => left.push([userId, performance.now()]));
      await delay(2_000);
      await cluster.nodes[1].kill();
      const [died, dead] = [performance.now(), stopwatch()];
      await eventually(async () => {
        const counts = await Promise.all([0, 2].map((at) => count(cluster.nodes[at], `room:${room}`)));
        return counts.every((counted) => counted.count === 4);
      }, { timeout: 15_000, what: 'the counts' });
      const counted = dead();
      await eventually(() => left.length === 2, { timeout: 20_000, what: 'both users to be told gone' });
      const told = left.map(([, at]) => at - died);
      await load.stop();
      const sent = await load.check();
      t.diagnostic(`counted out after ${counted.toFixed(0)} ms, user_left after ${told.map((ms) => ms.toFixed(0)).join(' and ')} ms, ${sent} acknowledged messages heard by all survivors in one order`);
      assert.ok(counted <= 7_000, `${counted} ms`);
      assert.deepEqual(left.map(([user]) => user).sort(), ['w1', 'w4']);
      for (const ms of told) assert.ok(ms <= 7_000 + HOLDBACK_MS + 1_000, `${ms} ms`);
    } finally {
      await cluster.stop();
    }
  });
});

describe('a rolling deploy', () => {
  test('every node is replaced in turn: each ends in time, and nothing acknowledged is lost', { timeout: 240_000 }, async (t) => {
    const cluster = await startCluster(3, { env: { ...DEFAULTS, DRAIN: '5s' } });
    try {
      const room = unique('room');
      const watcher = await cluster.nodes[0].clients.connect({ claims: { sub: 'reader' } });
      await ask(watcher, 'join_room', room);
      // Clients of all nodes who come back by themselves, as users' do; each knows all addresses.
      const idle = await bounded(300, 20, (n) => cluster.nodes[n % 3].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `i${n}` } }));
      assert.equal(idle.filter((socket) => socket.connected).length, 300);
      const ends = [];
      const acknowledged = [];
      let running = true;
      const writer = (async () => {
        for (let n = 0; running; n += 1) {
          const node = cluster.nodes.at(-1);
          const socket = await node.clients.connect({ claims: { sub: 'writer' } }).catch(() => undefined);
          if (socket) await ask(socket, 'join_room', room).catch(() => {});
          const answer = await socket?.timeout(3_000).emitWithAck('send_message', { roomId: room, content: `m${n}` }).catch(() => ({}));
          if (answer?.success) acknowledged.push(`m${n}`);
          socket?.disconnect();
          await delay(30);
        }
      })();
      for (let at = 0; at < 3; at += 1) {
        await cluster.start({ DRAIN: '5s' });
        const each = stopwatch();
        const { code } = await cluster.nodes[at].stop();
        ends.push(each());
        assert.equal(code, 0);
      }
      running = false;
      await writer;
      const reader = await cluster.nodes.at(-1).clients.connect({ claims: { sub: 'later' } });
      const stored = new Set();
      const history = new Promise((resolve) => { reader.once('room_history', ({ messages }) => resolve(messages)); });
      await ask(reader, 'join_room', room);
      for (const { content } of await history) stored.add(content);
      let before = (await history)[0];
      while (before) {
        const { messages } = await ask(reader, 'room_history', { roomId: room, limit: 50, before: before.id });
        for (const { content } of messages) stored.add(content);
        [before] = messages;
      }
      const counted = (await count(cluster.nodes.at(-1), 'nobody', '/relay')).count;
      t.diagnostic(`the nodes ended after ${ends.map((ms) => (ms / 1000).toFixed(1)).join(', ')} s; ${acknowledged.length} messages acknowledged meanwhile, ${stored.size} in the history`);
      assert.equal(counted, 0);
      for (const ms of ends) assert.ok(ms <= 40_000);
      assert.ok(acknowledged.length > 0);
      assert.deepEqual(acknowledged.filter((content) => !stored.has(content)), []);
    } finally {
      await cluster.stop();
    }
  });
});

describe('the same user in two tabs on two nodes', () => {
  test('is there all the while when one of the nodes is killed', { timeout: 60_000 }, async (t) => {
    const cluster = await startCluster(3, { env: DEFAULTS });
    try {
      const room = unique('room');
      const watcher = await cluster.nodes[2].clients.connect({ claims: { sub: 'watcher' } });
      const tabs = await Promise.all([0, 1].map((at) => cluster.nodes[at].clients.connect({ claims: { sub: 'twice' } })));
      for (const socket of [watcher, ...tabs]) await ask(socket, 'join_room', room);
      const left = [];
      watcher.on('user_left', ({ userId }) => left.push(userId));
      await cluster.nodes[0].kill();
      const dead = stopwatch();
      let looked = 0;
      while (dead() < LEASE_MS + HOLDBACK_MS + 6_000) {
        assert.equal((await count(cluster.nodes[2], `room:${room}`)).users, 2);
        looked += 1;
        await delay(25);
      }
      t.diagnostic(`${looked} looks, two users at each; told gone: ${left.length}`);
      assert.deepEqual(left, []);
    } finally {
      await cluster.stop();
    }
  });
});

describe('2,000 joins and leaves a second on three nodes', () => {
  test('for a minute, and then the count is exact and the last to join hears everything', { timeout: 240_000 }, async (t) => {
    const cluster = await startCluster(3, { env: DEFAULTS });
    try {
      const room = unique('room');
      const sockets = await bounded(60, 20, (n) => cluster.nodes[n % 3].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `j${n % 40}` } }));
      const storm = stopwatch();
      let moves = 0;
      await Promise.all(sockets.map(async (socket) => {
        while (storm() < 60_000) {
          await ask(socket, 'join', { room });
          await ask(socket, 'leave', { room });
          moves += 2;
        }
      }));
      const rate = moves / (storm() / 1000);
      const inside = sockets.filter((_, n) => n % 2 === 0);
      await Promise.all(inside.map((socket) => ask(socket, 'join', { room })));
      const users = new Set(inside.map((_, n) => (2 * n) % 40)).size;
      const quiet = stopwatch();
      await eventually(async () => {
        const counts = await Promise.all(cluster.nodes.map((node) => count(node, room, '/relay')));
        return counts.every((counted) => counted.count === inside.length && counted.users === users && !counted.stale);
      }, { timeout: 10_000, what: `${inside.length} sockets of ${users} users` });
      const exact = quiet();
      const last = sockets[1];
      await ask(last, 'join', { room });
      const heard = [];
      last.on('n', (n) => heard.push(n));
      for (let n = 0; n < 200; n += 1) await ask(sockets[n % 2 ? 2 : 4], 'publish', { room, event: 'n', data: n });
      await eventually(() => heard.length === 200, { timeout: 5_000, what: 'all 200 at the last to join' });
      t.diagnostic(`${rate.toFixed(0)} moves/s; exact ${exact.toFixed(0)} ms after the last`);
      assert.ok(exact <= 1_000, `${exact} ms`);
    } finally {
      await cluster.stop();
    }
  });
});

describe('one Idempotency-Key on two nodes at once', () => {
  test('1,000 pairs, with connections to Redis cut meanwhile: never two broadcasts', { timeout: 180_000 }, async (t) => {
    const cluster = await startCluster(2, { env: DEFAULTS });
    try {
      const room = unique('room');
      const member = await cluster.nodes[0].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: 'member' } });
      await ask(member, 'join', { room });
      const heard = new Map();
      member.on('once', (n) => heard.set(n, (heard.get(n) ?? 0) + 1));
      const killer = await cluster.redis.connect();
      let cuts = 0;
      let refused = 0;
      const answered = new Set();
      await bounded(1_000, 8, async (n) => {
        if (n % 100 === 50) {
          cuts += 1;
          await killer.sendCommand(['CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes']);
        }
        const body = { namespace: '/relay', to: { room }, event: 'once', data: n };
        const key = { 'Idempotency-Key': `pair-${n}` };
        const answers = await Promise.all(cluster.nodes.map((node) => internal(node, 'POST', '/internal/emit', body, key)));
        for (const { status, body: answer } of answers) {
          if (status === 200 && answer.success) answered.add(n);
          else refused += 1;
        }
        const places = new Set(answers.filter(({ status }) => status === 200).map(({ body: answer }) => answer.place));
        assert.ok(places.size <= 1, `${[...places]}`);
      });
      const twice = [...heard].filter(([, times]) => times > 1);
      t.diagnostic(`${heard.size} heard, ${answered.size} confirmed, ${refused} of 2,000 calls refused by ${cuts} cuts, ${twice.length} heard twice`);
      assert.deepEqual(twice, []);
      await eventually(() => [...answered].every((n) => heard.has(n)), { what: 'what was confirmed to be heard' });
    } finally {
      await cluster.stop();
    }
  });
});

describe('more is published than can be delivered', () => {
  test('5,000 members, 200 a second for 10 s: the node lives, and another room hardly notices', { timeout: 240_000 }, async (t) => {
    const node = await startGateway({ env: { ...DEFAULTS, LEASE: undefined } });
    const clients = keeper(node);
    try {
      const [big, small] = [unique('big'), unique('small')];
      const crowd = await bounded(5_000, 100, (n) => clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `b${n}` } }));
      await bounded(5_000, 100, (n) => ask(crowd[n], 'join', { room: big }));
      const pair = await Promise.all(['a', 'b'].map((sub) => clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub } })));
      for (const socket of pair) await ask(socket, 'join', { room: small });
      const load = stopwatch();
      const lags = [];
      pair[1].on('tick', (sent) => lags.push(performance.now() - sent));
      let published = 0;
      while (load() < 10_000) {
        crowd[0].emit('publish', { room: big, event: 'x', data: published });
        if (published % 20 === 0) pair[0].emit('publish', { room: small, event: 'tick', data: performance.now() });
        published += 1;
        await delay(Math.max(0, published * 5 - load()));
      }
      const over = stopwatch();
      await eventually(async () => (await ask(pair[0], 'echo', 1)) === 1, { timeout: 30_000, what: 'an answer' });
      const calm = over();
      t.diagnostic(`${published} broadcasts to 5,000; the small room's p50 ${percentile(lags, 0.5).toFixed(0)} ms, p99 ${percentile(lags, 0.99).toFixed(0)} ms (this process reads all million deliveries itself); an answer ${calm.toFixed(0)} ms after; ${(resident(node.pid) / 2 ** 20).toFixed(0)} MiB`);
      assert.equal((await request(node.port, 'GET', '/live')).status, 200);
      node.assertQuiet();
    } finally {
      clients.closeAll();
      await node.kill();
    }
  });
});

describe('300 of 500 members stop reading at once', () => {
  test('they are closed as slow, memory stays bounded and comes back, and the others hear everything', { timeout: 120_000 }, async (t) => {
    const node = await startGateway({ env: { ...DEFAULTS, LEASE: undefined } });
    const clients = keeper(node);
    try {
      const room = unique('room');
      const crowd = await bounded(500, 50, (n) => clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `r${n}` } }));
      await bounded(500, 50, (n) => ask(crowd[n], 'join', { room }));
      const reading = crowd.slice(300);
      const heard = reading.map(() => 0);
      reading.forEach((socket, at) => socket.on('m', (n) => { assert.equal(n[0], heard[at]); heard[at] += 1; }));
      const before = resident(node.pid);
      for (const socket of crowd.slice(0, 300)) socket.io.engine.transport.ws._socket.pause();
      let most = 0;
      const load = stopwatch();
      // The kernel takes some megabytes for each before anything waits here.
      const data = 'x'.repeat(4_096);
      let sent = 0;
      const lags = [];
      const slow = async () => (await node.metrics()).get('muster_sessions_closed_total{reason="slow_consumer"}') ?? 0;
      let closed;
      while (closed === undefined && load() < 60_000) {
        const each = stopwatch();
        await ask(reading[0], 'publish', { room, event: 'm', data: [sent, data] });
        sent += 1;
        lags.push(each());
        if (sent % 20 === 0) {
          most = Math.max(most, resident(node.pid) - before);
          if (closed === undefined && (await slow()) === 300) closed = load();
        }
        await delay(Math.max(0, sent * 10 - load()));
      }
      assert.notEqual(closed, undefined, `${await slow()} of 300 were closed`);
      await eventually(() => heard.every((count) => count === sent), { timeout: 20_000, what: 'everything at the others' });
      await eventually(() => resident(node.pid) - before < 64 * 2 ** 20, { timeout: 30_000, what: 'the memory to come back' });
      t.diagnostic(`${sent} broadcasts of 4 KiB; all 300 closed after ${(closed / 1000).toFixed(1)} s; memory grew by ${(most / 2 ** 20).toFixed(0)} MiB at most, ${((resident(node.pid) - before) / 2 ** 20).toFixed(0)} MiB in the end; p99 of an answer ${percentile(lags, 0.99).toFixed(1)} ms`);
      assert.ok(most < 320 * 2 ** 20, `${most} bytes`);
    } finally {
      clients.closeAll();
      await node.kill();
    }
  });
});

describe('few files', () => {
  test('1,000 may be open and 1,500 come: refused, the node goes on, and takes more when some have gone', { timeout: 120_000 }, async (t) => {
    const node = await startGateway({ env: { ...DEFAULTS, LEASE: undefined } });
    const clients = keeper(node);
    try {
      execFileSync('prlimit', ['--pid', String(node.pid), '--nofile=1000:1000']);
      const sockets = Array.from({ length: 1_500 }, (_, n) => clients.socket({ namespace: '/relay', claims: { ...EVERYTHING, sub: `f${n}` }, timeout: 3_000 }));
      const connected = () => sockets.filter((socket) => socket.connected).length;
      await eventually(() => connected() > 900, { timeout: 30_000, what: 'most to connect' });
      await delay(4_000);
      const most = connected();
      const first = sockets.find((socket) => socket.connected);
      assert.equal(await ask(first, 'echo', 1), 1);
      const writer = sockets.filter((socket) => socket.connected).slice(0, 600);
      for (const socket of writer) socket.disconnect();
      const closed = stopwatch();
      let answered;
      await eventually(async () => {
        const late = clients.socket({ namespace: '/relay', claims: { ...EVERYTHING, sub: 'late' }, timeout: 1_000 });
        await new Promise((resolve) => { late.once('connect', resolve); late.once('connect_error', resolve); });
        answered = late.connected;
        return answered;
      }, { timeout: 10_000, what: 'a place' });
      t.diagnostic(`${most} of 1,500 connected; taken again ${closed().toFixed(0)} ms after 600 had gone`);
      assert.equal((await request(node.port, 'GET', '/live')).status, 200);
    } finally {
      clients.closeAll();
      await node.kill();
    }
  });
});

describe('a full disk', () => {
  test('messages are refused, everything else goes on, nothing is corrupt, and it heals by itself', { timeout: 120_000 }, async (t) => {
    const disk = join(temporaryDirectory(), 'small');
    mkdirSync(disk);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk]);
    let node;
    let clients;
    try {
      node = await startGateway({ env: { ...DEFAULTS, LEASE: undefined, DATABASE_URL: `sqlite:${disk}/records.db` } });
      clients = keeper(node);
      const room = unique('room');
      const [writer, reader] = await Promise.all(['w', 'r'].map((sub) => clients.connect({ claims: { sub } })));
      for (const socket of [writer, reader]) await ask(socket, 'join_room', room);
      const heard = [];
      reader.on('new_message', ({ content }) => heard.push(content));
      assert.equal((await ask(writer, 'send_message', { roomId: room, content: 'before' })).success, true);
      let filled = true;
      for (let size = 1 << 20; size >= 4_096; size /= 2) {
        for (let n = 0; filled && n < 8; n += 1) {
          try { writeFileSync(join(disk, `ballast-${size}-${n}`), Buffer.alloc(size)); } catch { break; }
        }
      }
      let refused = 0;
      const stored = ['before'];
      for (let n = 0; n < 400 && refused < 5; n += 1) {
        const content = `full-${n}-${'x'.repeat(1_000)}`;
        const answer = await ask(writer, 'send_message', { roomId: room, content });
        if (answer.success) stored.push(content);
        else refused += 1;
      }
      assert.equal(refused, 5);
      const relay = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
      assert.equal(await ask(relay, 'echo', 'still here'), 'still here');
      filled = false;
      for (let size = 1 << 20; size >= 4_096; size /= 2) for (let n = 0; n < 8; n += 1) rmSync(join(disk, `ballast-${size}-${n}`), { force: true });
      const freed = stopwatch();
      await eventually(async () => (await ask(writer, 'send_message', { roomId: room, content: 'after' })).success, { timeout: 10_000, what: 'a message to be stored' });
      const healed = freed();
      await eventually(() => heard.includes('after'), { what: 'it to be heard' });
      assert.deepEqual(heard.filter((content) => content !== 'after'), stored);
      await node.stop();
      const { code } = await node.exited;
      t.diagnostic(`${stored.length - 1} stored until full, then refused; stored again ${healed.toFixed(0)} ms after there was room`);
      assert.equal(code, 0);
      assert.ok(healed <= 2_000, `${healed} ms`);
    } finally {
      clients?.closeAll();
      await node?.kill();
      execFileSync('umount', [disk]);
    }
  });
});

describe('nobody reads the log', () => {
  test('the pipe is full: nothing waits for it', { timeout: 120_000 }, async (t) => {
    const node = await startGateway({ env: { ...DEFAULTS, LEASE: undefined, LOG: 'trace,sqlx=debug' } });
    const clients = keeper(node);
    try {
      const socket = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
      const round = async () => {
        const waits = [];
        for (let n = 0; n < 500; n += 1) {
          const each = stopwatch();
          await ask(socket, 'echo', n);
          waits.push(each());
        }
        return percentile(waits, 0.99);
      };
      await round();
      const before = await round();
      node.child.stderr.pause();
      const dropped = async () => (await node.metrics()).get('muster_log_lines_dropped_total');
      // Every statement of the records is a line.
      const writer = await clients.connect({ claims: { sub: 'writer' } });
      const room = unique('room');
      await ask(writer, 'join_room', room);
      await eventually(async () => {
        await bounded(1_000, 50, (n) => ask(writer, 'send_message', { roomId: room, content: `m${n}` }));
        return (await dropped()) > 0;
      }, { timeout: 60_000, what: 'the pipe and the queue to be full' });
      const during = await round();
      const lines = await dropped();
      node.child.stderr.resume();
      t.diagnostic(`p99 of an echo ${before.toFixed(2)} ms before, ${during.toFixed(2)} ms with a full pipe; ${lines} lines dropped`);
      assert.equal((await request(node.port, 'GET', '/live')).status, 200);
    } finally {
      node.child.stderr.resume();
      clients.closeAll();
      await node.kill();
    }
  });
});

describe('300 tokens end within one second while Redis is away', () => {
  test('all of their sockets are closed in time', { timeout: 120_000 }, async (t) => {
    const cluster = await startCluster(2, { env: DEFAULTS });
    try {
      const exp = Math.floor(Date.now() / 1000) + 12;
      const reasons = [];
      const sockets = await bounded(300, 30, (n) => cluster.nodes[n % 2].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: `e${n}`, exp } }));
      for (const socket of sockets) socket.on('disconnect', (reason) => reasons.push([reason, Date.now()]));
      const staying = await cluster.nodes[0].clients.connect({ namespace: '/relay', claims: EVERYTHING });
      await cluster.redis.kill();
      await eventually(() => reasons.length === 300, { timeout: 30_000, what: 'all to be closed' });
      const late = Math.max(...reasons.map(([, at]) => at)) - exp * 1000;
      t.diagnostic(`all closed, the last ${late} ms after the tokens' end (${new Set(reasons.map(([reason]) => reason)).size} kind of reason: ${reasons[0][0]})`);
      assert.ok(late <= 5_000, `${late} ms`);
      assert.ok(staying.connected);
      await cluster.redis.restart();
    } finally {
      await cluster.stop();
    }
  });
});
