// Every step that waits for another process has a deadline: another node, Redis or PostgreSQL that is frozen (SIGSTOP:
// its kernel accepts connections, but nothing answers), and locks that another process holds. Each kind of request is
// timed. `bad_input_http.test.mjs` and `bad_input_engine.test.mjs` test clients that freeze.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, keeper, unique } from './support/clients.mjs';
import { LEASE_MS, count, internal, ready, startCluster } from './support/cluster.mjs';
import { startGateway } from './support/gateway.mjs';
import { holdLock, query, startPostgres } from './support/postgres.mjs';
import { startProxy } from './support/proxy.mjs';
import { pollingSession, rawWebSocket, request } from './support/raw.mjs';
import { delay, eventually, once, within } from './support/wait.mjs';

/** A node detects a lapsed lease at the next renewal, a third of a lease later; the rest is for a loaded machine. */
const NOTICED = LEASE_MS + LEASE_MS / 3 + 3_500;

/** The maximum for any step: commands to Redis 0.9 s each, a transaction 5 s, and a loaded machine. */
const ANSWERED = 9_000;

/** The ack of an event, awaited as long as `timed` waits. */
const askLong = (socket, event, ...args) => socket.emitWithAck(event, ...args);

/** Runs all `requests` (`{name: () => promise}`) at once; returns `{name: [ms, result]}`. */
async function timed(requests, deadline = 45_000) {
  const entries = Object.entries(requests).map(async ([name, run]) => {
    const start = performance.now();
    const outcome = await within(run(), deadline, name).catch((error) => error);
    return [name, [Math.round(performance.now() - start), outcome]];
  });
  return Object.fromEntries(await Promise.all(entries));
}

function show(t, times) {
  t.diagnostic(Object.entries(times).map(([name, [ms]]) => `${name} ${ms} ms`).join(', '));
}

const unknown = (answer) => answer.status === 400 && JSON.parse(answer.body).code === 1;

describe('a frozen node', () => {
  let cluster;
  before(async () => { cluster = await startCluster(2, { env: { PING_INTERVAL: '25s', PING_TIMEOUT: '20s' } }); });
  after(() => { for (const node of cluster?.nodes ?? []) node.signal('SIGCONT'); return cluster?.stop(); });

  test('requests forwarded to it end with its lease, and all others are answered meanwhile', { timeout: 120_000 }, async (t) => {
    const [alive, frozen] = cluster.nodes;
    // Sessions of the frozen node, one for each kind of request.
    const sids = [];
    for (let n = 0; n < 5; n += 1) sids.push((await pollingSession(frozen.port)).sid);
    const path = (sid, transport = 'polling') => `/socket.io/?EIO=4&transport=${transport}&sid=${sid}`;
    const tunnel = await rawWebSocket(alive.port, path(sids[4], 'websocket'));
    tunnel.send('2probe');
    assert.equal(await tunnel.nextText(), '3probe');
    const room = unique('room');
    const user = unique('user');
    const here = await alive.clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: user } });
    await ask(here, 'join', { room });

    frozen.signal('SIGSTOP');
    const times = await timed({
      'GET': () => request(alive.port, 'GET', path(sids[0]), { timeout: 45_000 }),
      'POST': () => request(alive.port, 'POST', path(sids[1]), { body: '40', headers: { 'Content-Type': 'text/plain' }, timeout: 45_000 }),
      'POST of 900 kB': () => request(alive.port, 'POST', path(sids[2]), { body: `4${'x'.repeat(900_000)}`, headers: { 'Content-Type': 'text/plain' }, timeout: 45_000 }),
      'upgrade': () => rawWebSocket(alive.port, path(sids[3], 'websocket'), { timeout: 45_000 }).then(() => { throw new Error('it was upgraded'); }, (error) => error),
      'tunnel': () => tunnel.gone,
      'count': () => internal(alive, 'GET', `/internal/rooms/${room}/count?namespace=/relay`),
      'active': () => internal(alive, 'GET', `/internal/rooms/${room}/active?namespace=/relay`),
      'emit': () => internal(alive, 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'e', data: 1 }),
      'emit to servers': () => internal(alive, 'POST', '/internal/emit', { namespace: '/relay', to: 'servers', event: 'e', data: 1 }),
      'join of a user': () => internal(alive, 'POST', '/internal/participants/joined', { sosId: unique('sos'), userId: user, userType: 'citizen', displayName: 'X' }),
      'publish': () => askLong(here, 'publish', { room, event: 'p', data: 1 }),
      'members': () => askLong(here, 'members', { room }),
    });
    frozen.signal('SIGCONT');
    show(t, times);
    for (const name of ['GET', 'POST', 'POST of 900 kB', 'upgrade']) {
      const [ms, answer] = times[name];
      assert.ok(ms < NOTICED, `${name} took ${ms} ms: ${answer}`);
      if (name === 'upgrade') assert.equal(answer.status, 400, String(answer));
      else assert.ok(unknown(answer), `${name}: ${answer.status} ${answer.body ?? answer}`);
    }
    const [ms, end] = times.tunnel;
    assert.ok(ms < NOTICED && !(end instanceof Error), `the tunnel ended after ${ms} ms: ${end}`);
    for (const [name, [took, answer]] of Object.entries(times)) {
      assert.ok(!(answer instanceof Error) || name === 'upgrade', `${name}: ${answer}`);
      assert.ok(took < NOTICED, `${name} took ${took} ms`);
    }
  });

  test('a tunnel whose client reads nothing is closed, and keeps no place', { timeout: 60_000 }, async () => {
    const [alive, owner] = cluster.nodes;
    const socket = await owner.clients.connect({ namespace: '/relay', claims: EVERYTHING });
    const room = unique('flood');
    const { sid } = await pollingSession(owner.port);
    const path = `/socket.io/?EIO=4&transport=polling&sid=${sid}`;
    const text = { 'Content-Type': 'text/plain' };
    // The other node may have registered again only now.
    await eventually(async () => (await request(alive.port, 'POST', path, { body: '6', headers: text })).status === 200, { what: 'the session to be found' });
    const said = async (body) => assert.equal((await request(alive.port, 'POST', path, { body, headers: text })).body, 'ok');
    await said(`40/relay,${JSON.stringify({ token: owner.token(EVERYTHING) })}`);
    assert.match((await request(alive.port, 'GET', path)).body, /^40\/relay/);
    await said(`42/relay,["join",{"room":"${room}"}]`);
    const lazy = await rawWebSocket(alive.port, `/socket.io/?EIO=4&transport=websocket&sid=${sid}`);
    lazy.send('2probe');
    assert.equal(await lazy.nextText(), '3probe');
    lazy.send('5');
    await eventually(async () => (await count(alive, room, '/relay')).count === 1, { what: 'the join' });
    lazy.socket.pause();
    const tunnels = async () => (await alive.metrics()).get('muster_tunnels');
    assert.equal(await tunnels(), 1);
    for (let n = 0; n < 16; n += 1) await ask(socket, 'publish', { room, event: 'x', data: 'x'.repeat(800_000) });
    // 10 s without progress, as for a client of the node itself.
    await eventually(async () => (await tunnels()) === 0, { timeout: 30_000, interval: 250, what: 'the tunnel to be given up' });
    lazy.destroy();
  });
});

/** The checksum of gzip and PNG. */
function crc32(text) {
  let crc = 0xffffffff;
  for (const byte of Buffer.from(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

describe('PostgreSQL', () => {
  let postgres;
  before(async () => { postgres = await startPostgres(); });
  after(async () => { postgres?.thaw(); await postgres?.kill(); });

  test('a lock of another process delays a start no longer than the deadline, and no statement stays behind', { timeout: 120_000 }, async (t) => {
    // The lock of the migrations, as the library computes its id.
    const lock = 0x3d32ad9en * BigInt(crc32('postgres'));
    const migrating = await holdLock(postgres.url, `SELECT pg_advisory_lock(${lock})`);
    const start = performance.now();
    const node = await startGateway({ env: { DATABASE_URL: postgres.url } });
    const clients = keeper(node);
    try {
      t.diagnostic(`up after ${Math.round(performance.now() - start)} ms`);
      const answer = await request(node.port, 'GET', '/ready');
      assert.deepEqual([answer.status, JSON.parse(answer.body).failed], [503, ['records']]);
      await migrating.end();
      await ready(node, { timeout: 20_000 });

      const socket = await clients.connect();
      await ask(socket, 'join_room', 'r');
      const locked = await holdLock(postgres.url, 'LOCK TABLE chat_rooms IN ACCESS EXCLUSIVE MODE');
      const times = await timed({ send: () => askLong(socket, 'send_message', { roomId: 'r', content: 'x' }) });
      show(t, times);
      assert.equal(times.send[1].success, false);
      assert.ok(times.send[0] < ANSWERED);
      const waiting = () => Number(query(postgres.url, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`));
      await eventually(() => waiting() === 0, { timeout: 5_000, interval: 200, what: 'no statement to wait in the server' });
      await locked.end();
      await eventually(async () => (await ask(socket, 'send_message', { roomId: 'r', content: 'y' })).success, { timeout: 10_000, what: 'a message to be stored' });
    } finally {
      clients.closeAll();
      await node.kill();
    }
  });

  test('a node that freezes within a transaction does not keep its locks', { timeout: 120_000 }, async (t) => {
    const proxy = await startProxy(postgres.port);
    const slow = await startGateway({ env: { DATABASE_URL: `postgres://postgres@127.0.0.1:${proxy.port}/postgres` } });
    const other = await startGateway({ env: { DATABASE_URL: postgres.url, JWT_SECRET: slow.secret } });
    const [theirs, ours] = [keeper(slow), keeper(other)];
    try {
      const [a, b] = [await theirs.connect({ claims: { sub: 'a' } }), await ours.connect({ claims: { sub: 'b' } })];
      for (const socket of [a, b]) await ask(socket, 'join_room', 'held');
      // Statements arrive one by one, so that the transaction is open most of the time. Its second one locks the room's
      // row.
      proxy.delay(150);
      const open = () => Number(query(postgres.url, `SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE 'INSERT INTO chat_messages%'`));
      await eventually(async () => {
        askLong(a, 'send_message', { roomId: 'held', content: 'x' }).catch(() => {});
        await delay(250);
        slow.signal('SIGSTOP');
        await delay(400);
        // Twice: by then everything in transit through the proxy has arrived.
        if (open() > 0 && (await delay(500), open() > 0)) return true;
        slow.signal('SIGCONT');
        return false;
      }, { timeout: 60_000, what: 'the node to be caught within a transaction' });
      const start = performance.now();
      await eventually(async () => (await askLong(b, 'send_message', { roomId: 'held', content: 'y' })).success, { timeout: 30_000, what: 'a message to be stored' });
      t.diagnostic(`stored after ${Math.round(performance.now() - start)} ms`);
      assert.ok(performance.now() - start < 12_000);
    } finally {
      slow.signal('SIGCONT');
      theirs.closeAll();
      ours.closeAll();
      await Promise.all([slow.kill(), other.kill()]);
      await proxy.close();
    }
  });

  test('if the server is frozen, requests are answered within the deadline of a transaction', { timeout: 120_000 }, async (t) => {
    const node = await startGateway({ env: { DATABASE_URL: postgres.url } });
    const clients = keeper(node);
    try {
      const socket = await clients.connect();
      await ask(socket, 'join_room', 'frozen');
      postgres.freeze();
      const token = { Authorization: `Bearer ${node.token()}` };
      const times = await timed({
        'send_message': () => askLong(socket, 'send_message', { roomId: 'frozen', content: 'x' }),
        'room_history': () => askLong(socket, 'room_history', { roomId: 'frozen' }),
        'GET nearby': () => request(node.port, 'GET', '/api/sos/nearby?latitude=1&longitude=1', { headers: token, timeout: 45_000 }),
        'login': () => request(node.port, 'POST', '/api/v1/auth/login', { headers: { 'Content-Type': 'application/json' }, body: '{"email":"a@b.c","password":"x"}', timeout: 45_000 }),
        'ready': () => request(node.port, 'GET', '/ready', { timeout: 45_000 }),
        'live': () => request(node.port, 'GET', '/live', { timeout: 45_000 }),
      });
      show(t, times);
      for (const [name, [ms, answer]] of Object.entries(times)) {
        assert.ok(!(answer instanceof Error), `${name}: ${answer}`);
        assert.ok(ms < ANSWERED, `${name} took ${ms} ms`);
      }
      // The node can still be stopped.
      const stopping = performance.now();
      const ended = await node.stop({ timeout: 45_000 });
      t.diagnostic(`stopped after ${Math.round(performance.now() - stopping)} ms`);
      assert.equal(ended.code, 0);
      assert.ok(performance.now() - stopping < 20_000);
    } finally {
      postgres.thaw();
      clients.closeAll();
      await node.kill();
    }
  });
});

describe('Redis', () => {
  let cluster;
  before(async () => { cluster = await startCluster(2); });
  after(() => { cluster?.redis.thaw(); return cluster?.stop(); });

  test('if it is frozen, requests are answered within the time of a few commands', { timeout: 120_000 }, async (t) => {
    const [node, owner] = cluster.nodes;
    const { sid } = await pollingSession(owner.port);
    const room = unique('room');
    const socket = await node.clients.connect({ namespace: '/relay', claims: EVERYTHING });
    await ask(socket, 'join', { room });
    cluster.redis.freeze();
    const times = await timed({
      'forwarded GET': () => request(node.port, 'GET', `/socket.io/?EIO=4&transport=polling&sid=${sid}`, { timeout: 45_000 }),
      'count': () => internal(node, 'GET', `/internal/rooms/${room}/count?namespace=/relay`),
      'active': () => internal(node, 'GET', `/internal/rooms/${room}/active?namespace=/relay`),
      'emit': () => internal(node, 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'e', data: 1 }),
      'join of a user': () => internal(node, 'POST', '/internal/participants/joined', { sosId: unique('sos'), userId: 'u', userType: 'citizen', displayName: 'X' }),
      'publish': () => askLong(socket, 'publish', { room, event: 'x', data: 1 }),
      'join': () => askLong(socket, 'join', { room: unique('new') }),
      'connect': () => node.clients.connect({ namespace: '/relay', claims: EVERYTHING }),
      'ready': () => request(node.port, 'GET', '/ready', { timeout: 45_000 }),
    });
    show(t, times);
    for (const [name, [ms, answer]] of Object.entries(times)) {
      assert.ok(!(answer instanceof Error), `${name}: ${answer}`);
      assert.ok(ms < ANSWERED, `${name} took ${ms} ms`);
    }
    const stopping = performance.now();
    assert.equal((await owner.stop({ timeout: 45_000 })).code, 0);
    t.diagnostic(`stopped after ${Math.round(performance.now() - stopping)} ms`);
    assert.ok(performance.now() - stopping < 20_000);
  });
});
