// Other Socket.IO software on one Redis with the gateway: its events arrive as at a Node.js server, and it receives
// from the gateway what it must and nothing else. The Node.js server on the newest classic adapter is the control: its
// client gets the same events.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, keeper, unique } from './support/clients.mjs';
import { count, internal, startCluster } from './support/cluster.mjs';
import { load } from './support/packages.mjs';
import { startRedis } from './support/redis.mjs';
import { eventually, once, record, within } from './support/wait.mjs';

const { Server } = load('socket.io');
const jwt = load('jsonwebtoken');
const msgpack = load('notepack.io');
const NAMESPACE = '/relay';

/** A Node.js server with this adapter: `{io, clients, close()}`, with the two relay events that the tests use. */
async function startServer(adapter, token) {
  const http = createServer();
  const io = new Server(http, { adapter });
  const namespace = io.of(NAMESPACE);
  namespace.on('connection', (socket) => {
    socket.join(`user:${jwt.decode(socket.handshake.auth.token).sub}`);
    socket.on('join', ({ room }, ack) => {
      socket.join(room);
      ack({ success: true });
    });
  });
  await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
  const clients = keeper({ url: `http://127.0.0.1:${http.address().port}`, token });
  const close = async () => {
    clients.closeAll();
    await new Promise((resolve) => io.close(resolve));
  };
  return { io: namespace, clients, close };
}

/** JavaScript values beyond JSON, and where they appear. */
const VALUES = {
  'a date': [new Date(1_795_231_698_228)], 'the first date': [new Date(0)], 'an old date': [new Date(-1_234_567_890_123)], 'a far date': [new Date(8.64e15)], 'no date': [new Date(NaN)],
  'a date in an object': [{ at: new Date(5), list: [new Date(6)] }],
  undefined: [undefined], 'undefined in a list': [[1, undefined, 2]], 'undefined in an object': [{ a: undefined, b: 1 }, { c: undefined }],
  'a buffer': [Buffer.from([1, 2, 3])], 'an empty buffer': [Buffer.alloc(0)], 'bytes in an object': [{ deep: [{ bytes: Buffer.from('x') }] }],
  ...Object.fromEntries([0, 1, 2, 3, 4, 7, 8, 9, 16, 255, 256, 70_000].map((length) => [`an ArrayBuffer of ${length} bytes`, [new Uint8Array(length).fill(7).buffer]])),
  'a Uint8Array': [new Uint8Array([1, 2, 3])], 'of eight bytes': [new Uint8Array(8)], 'of one byte': [new Uint8Array(1)],
  'a Float64Array': [new Float64Array([1.5])], 'a DataView': [new DataView(new ArrayBuffer(4))],
  numbers: [1.5, -0, 1e21, 2 ** 53, -(2 ** 31), NaN, Infinity, 0.1 + 0.2, 5e-324], 'a text': ['\u0000\ud83d\ude00\ufeff\u2028"\\'], 'half a pair': ['a\ud83db', { '\ude00': 1 }],
  nothing: [null, [], {}], 'a number as the name of a key': [{ 7: 'seven' }],
};

const plain = (value) => {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return `bytes ${Buffer.from(value.buffer ?? value, value.byteOffset ?? 0, value.byteLength).toString('hex').slice(0, 100)} of ${value.byteLength}`;
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]));
  return value;
};

/** Lets each sender send every value to `room`; all of `sockets`, the last of which is the control's, must receive the same. */
async function compare(senders, room, sockets) {
  const wrong = [];
  for (const [name, sender] of Object.entries(senders)) {
    const recorded = sockets.map(record);
    for (const [what, args] of Object.entries(VALUES)) {
      try {
        sender.to(room).emit('value', what, ...args);
      } catch {
        // The sender's encoder cannot write it, so no client receives it.
      }
    }
    sender.to(room).emit('end', name);
    for (const events of recorded) await events.take('end');
    const all = recorded.map((events) => new Map(events.seen('value').map(([what, ...args]) => [what, JSON.stringify(plain(args))])));
    const expected = all.at(-1);
    assert.ok(expected.size > 30, `${name}: ${expected.size} values`);
    for (const what of Object.keys(VALUES)) {
      const got = all.map((values) => values.get(what));
      if (got.some((each) => each !== expected.get(what))) wrong.push({ name, what, got });
    }
  }
  assert.deepEqual(wrong, []);
}

/** An exception of a listener would end the process, as it ends that of an unguarded server. */
const careful = (listener) => (...args) => {
  try {
    listener(...args);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
};

/**
 * Two clients for a classic adapter. The subscribing one is guarded, because the adapter throws on messages of servers on
 * streams and on half of the messages of the test about spellings.
 */
async function clientsFor(redis) {
  const [pub, sub] = await Promise.all([redis.connect(), redis.connect()]);
  const subscribe = sub.pSubscribe.bind(sub);
  sub.pSubscribe = (patterns, listener, ...rest) => subscribe(patterns, careful(listener), ...rest);
  return [pub, sub];
}

describe('beside the gateway on one Redis', { timeout: 60_000 }, () => {
  let redis;
  let cluster;
  let look;
  let control;
  const servers = {};
  const emitters = {};
  const ends = [];

  before(async () => {
    redis = await startRedis();
    look = await redis.connect();
    const streams = load('@socket.io/redis-streams-adapter');
    const olderStreams = load('streams-adapter-0.2');
    const newest = load('@socket.io/redis-adapter');
    const token = (...args) => cluster.nodes[0].token(...args);
    const start = async (name, adapter) => {
      servers[name] = await startServer(adapter, token);
      ends.push(servers[name].close);
    };
    for (const name of ['streams', 'streams-too']) await start(name, streams.createAdapter(await redis.connect()));
    for (const name of ['sharded', 'sharded-too']) await start(name, newest.createShardedAdapter(await redis.connect(), await redis.connect()));
    await start('streams-0.2', olderStreams.createAdapter(await redis.connect()));
    cluster = await startCluster(2, { redis });
    for (const name of ['classic-8', 'classic-8-too']) await start(name, newest.createAdapter(...(await clientsFor(redis))));
    await start('classic-7', load('redis-adapter-7').createAdapter(...(await clientsFor(redis))));
    control = servers['classic-8'];
    const { Emitter } = load('@socket.io/redis-emitter');
    emitters['emitter 5.1'] = new Emitter(await redis.connect()).of(NAMESPACE);
    emitters['emitter 4.1.1'] = new (load('redis-emitter-4').Emitter)(await redis.connect()).of(NAMESPACE);
    const oldest = load('socket.io-emitter')({ host: '127.0.0.1', port: redis.port });
    ends.push(() => oldest.redis.end(false));
    emitters['emitter 3.2'] = oldest.of(NAMESPACE);
    // Adapters do not report when their subscriptions are complete.
    const subscribers = async () => Number(Object.values(await look.pubSubNumSub(`socket.io-request#${NAMESPACE}#`))[0]);
    await eventually(async () => (await subscribers()) === 5, { what: 'all to be subscribed' });
  });
  after(async () => {
    for (const end of ends) await end();
    await cluster?.stop();
    await redis?.stop();
  });

  const at = (where, sub = unique('u')) => {
    const clients = where in servers ? servers[where].clients : cluster.nodes[where].clients;
    return clients.connect({ namespace: NAMESPACE, claims: { ...EVERYTHING, sub } });
  };

  /** A client of each gateway node, and the control's. */
  const three = (sub) => Promise.all([0, 1, 'classic-8'].map((where) => at(where, sub)));

  test('servers on streams and on sharded Pub/Sub count each other, but not the gateway', async () => {
    for (const [one, two] of [['streams', 'streams-too'], ['sharded', 'sharded-too']]) {
      const sockets = await Promise.all([at(one), at(two)]);
      for (const [n, socket] of sockets.entries()) socket.on('ask', (ack) => ack(n));
      servers[two].io.on('question', (ack) => ack('answer'));
      const { io } = servers[one];
      const found = await within(io.fetchSockets(), 4_000, `${one}: fetchSockets`);
      assert.deepEqual(found.map(({ id }) => id).sort(), sockets.map(({ id }) => id).sort());
      const answers = await within(io.timeout(4_000).emitWithAck('ask'), 6_000, `${one}: emitWithAck`);
      assert.deepEqual(answers.sort(), [0, 1]);
      assert.deepEqual(await within(io.serverSideEmitWithAck('question'), 4_000, `${one}: serverSideEmit`), ['answer']);
      for (const socket of sockets) socket.disconnect();
    }
    assert.deepEqual({ ...(await look.pubSubNumSub(`socket.io#${NAMESPACE}#`)) }, { [`socket.io#${NAMESPACE}#`]: 2 });
  });

  test('each node names them in one warning', async () => {
    for (const node of cluster.nodes) {
      const told = await node.waitLog(({ adapters }) => adapters?.includes('streams') && adapters.includes('harded'));
      assert.equal(told.level, 'WARN');
      assert.equal(node.logs.filter(({ adapters }) => adapters).length, 1);
    }
    // Their requests to each other on channels that the gateway subscribes to are no error.
    assert.deepEqual(await Promise.all(cluster.nodes.map(async (node) => (await node.metrics()).get('muster_redis_malformed_total'))), [0, 0]);
  });

  test('every server on a classic adapter finds, queries and reaches all others, each once', async () => {
    const where = [0, 1, 'classic-8', 'classic-7'];
    const room = unique('room');
    const sockets = await Promise.all(where.map((each) => at(each)));
    for (const socket of sockets) assert.equal((await ask(socket, 'join', { room })).success, true);
    for (const [n, socket] of sockets.entries()) socket.on('ask', (ack) => ack(n));
    for (const name of ['classic-8', 'classic-7']) {
      const { io } = servers[name];
      // The newest sends no such request.
      if (name !== 'classic-8') assert.equal((await within(io.in(room).allSockets(), 4_000, name)).size, sockets.length, name);
      assert.equal((await within(io.in(room).fetchSockets(), 4_000, name)).length, sockets.length, name);
      const answers = await within(io.in(room).except(sockets[3].id).timeout(4_000).emitWithAck('ask'), 6_000, name);
      assert.deepEqual(answers.sort(), [0, 1, 2], name);
      const recorded = sockets.map(record);
      io.emit('to-all', name);
      io.to(room).emit('to-room', name);
      io.to(room).to(unique('other')).emit('to-two', name);
      io.to(room).emit('end');
      for (const events of recorded) {
        await events.take('end');
        for (const event of ['to-all', 'to-room', 'to-two']) assert.deepEqual(events.seen(event), [[name]], `${name}: ${event}`);
      }
    }
    const recorded = sockets.map(record);
    await ask(sockets[0], 'publish', { room, event: 'ours', data: new Uint8Array([1, 2]) });
    await internal(cluster.nodes[1], 'POST', '/internal/emit', { namespace: NAMESPACE, to: 'all', event: 'ours-to-all', data: 1 });
    await ask(sockets[0], 'publish', { room, event: 'end' });
    for (const events of recorded) {
      await events.take('ours-to-all');
      await events.take('end');
      assert.deepEqual(events.seen('ours').map(([data]) => [...Buffer.from(data)]), [[1, 2]]);
    }
    for (const socket of sockets) socket.disconnect();
  });

  test('events of emitters and servers of every version arrive as at a client of Node.js', async () => {
    const room = unique('room');
    const sockets = await three();
    for (const socket of sockets) await ask(socket, 'join', { room });
    const senders = { ...emitters, ...Object.fromEntries(['classic-7', 'classic-8-too'].map((name) => [name, servers[name].io])) };
    await compare(senders, room, sockets);
    for (const socket of sockets) socket.disconnect();
  });

  test('wire fields are read in every spelling that Node.js reads', async () => {
    const [room, other] = [unique('r'), unique('o')];
    const sockets = await three();
    // Single letters are rooms, too: Node.js makes a room of each character of a text.
    for (const socket of sockets) for (const name of [room, 'x']) await ask(socket, 'join', { room: name });
    const recorded = sockets.map(record);
    const channel = (name) => `socket.io#${NAMESPACE}#${name === undefined ? '' : `${name}#`}`;
    const publish = (message, name) => look.publish(channel(name), msgpack.encode(message));
    const packet = (what, extra = {}) => ({ type: 2, data: ['got', what], nsp: NAMESPACE, ...extra });
    const spellings = {
      'rooms of the empty text': ['py', { rooms: '', flags: {} }], 'rooms of null': ['py', { rooms: null, except: null, flags: null }],
      'no rooms': ['e', {}], 'options that are a list': ['e', []], 'flags that are a list': ['e', { rooms: [], except: [], flags: [] }],
      'rooms of a text': ['e', { rooms: 'ax' }], 'rooms of a text that nobody is in': ['e', { rooms: 'qz' }],
      'except of a text': ['e', { rooms: [], except: 'x' }], 'volatile of 1': ['e', { rooms: [room], flags: { volatile: 1 } }],
      'a list of four': ['e', { rooms: [room] }, 'more'], 'a sender of null': [null, { rooms: [room, other] }], 'a sender that is a number': [7, { rooms: [room] }],
      'a room twice': ['e', { rooms: [room, room] }], 'a room and a number': ['e', { rooms: [room, 7] }], 'a list of nobody': ['e', { rooms: [other] }],
      'rooms that are a map': ['e', { rooms: { 0: room } }], 'rooms that are a number': ['e', { rooms: 7 }],
    };
    for (const [what, [uid, options, ...more]] of Object.entries(spellings)) await publish([uid, packet(what), options, ...more]).catch(() => {});
    await publish(['e', packet('no namespace', { nsp: undefined }), { rooms: [room] }]);
    await publish(['e', packet('a field more', { id: undefined, options: { compress: true } }), { rooms: [room] }], room);
    await publish(['e', { type: 2, data: ['end', 1], nsp: NAMESPACE }, { rooms: [room] }], room);
    for (const events of recorded) await events.take('end');
    const got = recorded.map((events) => events.seen('got').map(([what]) => what));
    assert.ok(got[2].length > 10 && !got[2].some((what) => what.startsWith('rooms that are')), JSON.stringify(got[2]));
    assert.deepEqual(got[0], got[2]);
    assert.deepEqual(got[1], got[2]);
    for (const socket of sockets) socket.disconnect();
  });

  test('so are requests', async () => {
    const base = unique('r');
    const sockets = await three();
    for (const socket of sockets) await ask(socket, 'join', { room: base });
    const spellings = {
      'a text for a list': (name) => ({ type: 2, opts: { rooms: [base], except: [] }, rooms: name }),
      'no except': (name) => ({ type: 2, opts: { rooms: [base] }, rooms: [name] }),
      'rooms of the empty text': (name) => ({ type: 2, opts: { rooms: '', except: '' }, rooms: [name] }),
      'rooms of null': (name) => ({ type: 2, opts: { rooms: null }, rooms: [name] }),
      'options that are a list': (name) => ({ type: 2, opts: [], rooms: [name] }),
      'a sender that is a number, and a field more': (name) => ({ uid: 7, type: 2, opts: { rooms: [base], flags: {} }, rooms: [name], more: 1 }),
    };
    for (const write of [JSON.stringify, msgpack.encode]) {
      for (const [what, make] of Object.entries(spellings)) {
        const name = unique('team');
        await look.publish(`socket.io-request#${NAMESPACE}#`, write(make(name)));
        await eventually(async () => (await control.io.in(name).fetchSockets()).length === 3, { what: `all to join by ${what}` });
      }
    }
    // The oldest form names one socket; only that socket's server answers.
    const answers = [];
    const listener = await redis.connect();
    await listener.subscribe(`socket.io-response#${NAMESPACE}#`, (message) => answers.push(message));
    const [one, two] = [unique('team'), unique('team')];
    await look.publish(`socket.io-request#${NAMESPACE}#`, JSON.stringify({ type: 2, requestId: 'old', sid: sockets[0].id, room: [one, two] }));
    for (const name of [one, two]) await eventually(async () => (await count(cluster.nodes[1], name, NAMESPACE)).count === 1, { what: 'it to join' });
    await look.publish(`socket.io-request#${NAMESPACE}#`, JSON.stringify({ type: 3, requestId: 'old-too', sid: sockets[0].id, room: one }));
    await eventually(() => answers.some((message) => message.includes('old-too')), { what: 'the answer' });
    await eventually(async () => (await count(cluster.nodes[1], one, NAMESPACE)).count === 0, { what: 'it to leave' });
    assert.deepEqual(answers.filter((message) => message.includes('"old')).map((message) => JSON.parse(message)), [{ requestId: 'old' }, { requestId: 'old-too' }]);
    const gone = once(sockets[1], 'disconnect');
    await look.publish(`socket.io-request#${NAMESPACE}#`, JSON.stringify({ type: 4, opts: { rooms: [sockets[1].id] }, close: 1 }));
    assert.equal((await gone)[0], 'io server disconnect');
    for (const socket of sockets) socket.disconnect();
  });
});

describe('beside the gateway and a server on socket.io-redis 6.1', { timeout: 60_000 }, () => {
  let cluster;
  const ends = [];
  let older;
  let control;

  before(async () => {
    cluster = await startCluster(1);
    // It needs clients of its time.
    const { createClient } = createRequire(createRequire(import.meta.url).resolve('socket.io-redis-6'))('redis');
    const [pubClient, subClient] = [0, 1].map(() => createClient(cluster.redis.port, '127.0.0.1'));
    for (const client of [pubClient, subClient]) client.on('error', () => {});
    ends.push(() => [pubClient, subClient].forEach((client) => client.end(false)));
    const { token } = cluster.nodes[0];
    older = await startServer(load('socket.io-redis-6').createAdapter({ pubClient, subClient }), token);
    control = await startServer(load('@socket.io/redis-adapter').createAdapter(...(await clientsFor(cluster.redis))), token);
    ends.unshift(older.close, control.close);
    const look = await cluster.redis.connect();
    await eventually(async () => Number(Object.values(await look.pubSubNumSub(`socket.io-request#${NAMESPACE}#`))[0]) === 3, { what: 'all to be subscribed' });
  });
  after(async () => {
    for (const end of ends) await end();
    await cluster?.stop();
  });

  test('it finds all, and its events arrive as at a client of Node.js', async () => {
    const room = unique('room');
    const sockets = await Promise.all([cluster.nodes[0], older, control].map(({ clients }) => clients.connect({ namespace: NAMESPACE, claims: EVERYTHING })));
    for (const socket of sockets) assert.equal((await ask(socket, 'join', { room })).success, true);
    assert.equal((await within(older.io.in(room).allSockets(), 4_000, 'allSockets')).size, 3);
    const team = unique('team/');
    older.io.in(room).socketsJoin(team);
    await eventually(async () => (await control.io.in(team).fetchSockets()).length === 3, { what: 'all to join' });
    await compare({ 'socket.io-redis 6.1': older.io }, team, [sockets[0], sockets[2]]);
    older.io.in(room).socketsLeave(team);
    await eventually(async () => (await control.io.in(team).fetchSockets()).length === 0, { what: 'all to leave' });
    const gone = once(sockets[0], 'disconnect');
    older.io.in(sockets[0].id).disconnectSockets(true);
    assert.equal((await gone)[0], 'io server disconnect');
  });
});
