// The life of a connection as the official client observes it: connecting, refusals, events, losing the connection in
// every possible way, reconnecting.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, TRANSPORTS, ask, connected, keeper, refused, unique } from './support/clients.mjs';
import { rawToken, startGateway, sumMetric } from './support/gateway.mjs';
import { load, packageFile } from './support/packages.mjs';
import { pollingSession, rawEngine, rawSocketIo, rawWebSocket, request } from './support/raw.mjs';
import { delay, eventually, once, record, until, within } from './support/wait.mjs';

const jwt = load('jsonwebtoken');
const now = () => Math.floor(Date.now() / 1000);

/** Short delays, so that tests of reconnecting are fast. */
const RECONNECTING = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 100 };

/** A gateway and clients for the tests of one `describe`. */
function setUp(env = {}) {
  const context = {};
  before(async () => {
    context.gateway = await startGateway({ env });
    context.clients = keeper(context.gateway);
  });
  after(async () => {
    context.clients?.closeAll();
    await context.gateway?.kill();
  });
  return context;
}

for (const transport of TRANSPORTS) {
  describe(`a connection over ${transport.name}`, () => {
    const context = setUp();
    const connect = (options = {}) => context.clients.connect({ transport, ...options });
    const socket = (options = {}) => context.clients.socket({ transport, ...options });
    const relay = (options = {}) => connect({ namespace: '/relay', claims: EVERYTHING, ...options });

    // -- connecting

    test('it connects, with a separate Socket.IO id', async () => {
      const client = await connect();
      assert.match(client.id, /^[A-Za-z0-9_-]{20}$/);
      assert.match(client.io.engine.id, /^[A-Za-z0-9_-]{20}$/);
      assert.notEqual(client.id, client.io.engine.id, 'the engine id is a secret');
      assert.ok(!client.recovered);
      assert.equal(client.io.engine.transport.name, transport.final);
    });

    test('two namespaces share a connection and end separately', async () => {
      const chat = await connect();
      const other = await context.clients.also(chat, '/relay', { claims: EVERYTHING });
      assert.notEqual(chat.id, other.id);
      assert.deepEqual(await ask(other, 'echo', 1), 1);
      other.disconnect();
      const room = unique('room');
      assert.equal((await ask(chat, 'join_room', room)).success, true, 'the other namespace continues');
      const again = await context.clients.also(chat, '/relay', { claims: EVERYTHING });
      assert.deepEqual(await ask(again, 'echo', 2), 2, 'a namespace that was left can be joined again');
    });

    test('an unknown namespace is refused and the connection continues', async () => {
      const chat = await connect();
      const unknown = chat.io.socket('/nowhere', { auth: { token: context.gateway.token() } });
      context.clients.open.add(unknown);
      const error = await refused(unknown);
      assert.equal(error.message, 'Invalid namespace');
      assert.equal((await ask(chat, 'join_room', unique('room'))).success, true);
    });

    test('it can disconnect and connect again', async () => {
      const client = await connect();
      const first = client.id;
      client.disconnect();
      client.connect();
      await connected(client, { transport });
      assert.notEqual(client.id, first);
    });

    test('events emitted before the connection is open arrive, in order', async () => {
      const client = socket({ namespace: '/relay', claims: EVERYTHING });
      const answers = [];
      const all = Promise.all(Array.from({ length: 20 }, (_, at) => client.emitWithAck('echo', at).then((value) => answers.push(value))));
      await within(all, 5_000, 'the acks of what was emitted before the connection');
      assert.deepEqual(answers, Array.from({ length: 20 }, (_, at) => at));
    });

    // -- tokens

    test('no token', async () => {
      const client = socket({ auth: {} });
      const error = await refused(client);
      assert.equal(error.message, 'Authentication required');
      assert.deepEqual(error.data, { code: 'auth_required' });
      assert.equal(client.active, false, 'the client does not try again by itself');
    });

    test('bad tokens', async () => {
      const { secret } = context.gateway;
      const good = { sub: 'u1', exp: now() + 3600 };
      const [head, body] = rawToken(good, secret).split('.');
      const bad = {
        'no token at all': 'not-a-token',
        'two dots': 'a.b.c',
        'signed with another secret': rawToken(good, 'another secret'),
        'no signature': `${head}.${body}.`,
        'alg none': `${rawToken(good, secret, { alg: 'none', typ: 'JWT' }).split('.').slice(0, 2).join('.')}.`,
        'alg none in capitals': rawToken(good, secret, { alg: 'nOnE', typ: 'JWT' }),
        'another HMAC than the configured one': jwt.sign(good, secret, { algorithm: 'HS512' }),
        'no exp': rawToken({ sub: 'u1' }, secret),
        'exp is a text': rawToken({ sub: 'u1', exp: 'tomorrow' }, secret),
        'no user id': rawToken({ exp: good.exp }, secret),
        'an empty user id': rawToken({ ...good, sub: '' }, secret),
        'a user id with a line break': rawToken({ ...good, sub: 'a\nb' }, secret),
        'a user id of 256 bytes': rawToken({ ...good, sub: 'a'.repeat(256) }, secret),
        'a payload that is not JSON': rawToken('no json', secret),
        'not valid yet': rawToken({ ...good, nbf: now() + 600 }, secret),
      };
      for (const [name, token] of Object.entries(bad)) {
        const error = await refused(socket({ token }));
        assert.equal(error.message, 'Invalid token', name);
        assert.deepEqual(error.data, { code: 'invalid_token' }, name);
      }
    });

    test('an expired token', async () => {
      const error = await refused(socket({ claims: { exp: now() - 60 } }));
      assert.equal(error.message, 'Token expired');
      assert.deepEqual(error.data, { code: 'token_expired' });
    });

    test('a token may also come from the query or the Authorization header', async () => {
      const token = context.gateway.token(EVERYTHING);
      const byQuery = await connect({ namespace: '/relay', auth: {}, query: { token } });
      assert.equal(await ask(byQuery, 'echo', 'q'), 'q');
      const byHeader = await connect({ namespace: '/relay', auth: {}, extraHeaders: { Authorization: `Bearer ${token}` } });
      assert.equal(await ask(byHeader, 'echo', 'h'), 'h');
    });

    test('the CONNECT payload takes precedence over the query, the query over the header', async () => {
      const good = context.gateway.token();
      const first = await refused(socket({ token: 'bad', query: { token: good } }));
      assert.equal(first.message, 'Invalid token');
      const second = await refused(socket({ auth: {}, query: { token: 'bad' }, extraHeaders: { Authorization: `Bearer ${good}` } }));
      assert.equal(second.message, 'Invalid token');
    });

    test('the user id is userId, else id, else sub; the name is displayName, else name, else email, else the id', async () => {
      const cases = [
        [{ userId: 'a', id: 'b', sub: 'c', displayName: 'D', name: 'N', email: 'e@x' }, { userId: 'a', displayName: 'D' }],
        [{ id: 'b', sub: 'c', name: 'N', email: 'e@x' }, { userId: 'b', displayName: 'N' }],
        [{ sub: 'c', email: 'e@x' }, { userId: 'c', displayName: 'e@x' }],
        [{ sub: 'd' }, { userId: 'd', displayName: 'd' }],
      ];
      for (const [claims, expected] of cases) {
        const client = await relay({ claims: { ...EVERYTHING, ...claims } });
        const room = unique('room');
        await ask(client, 'join', { room });
        const { members } = await ask(client, 'members', { room });
        assert.equal(members.length, 1);
        assert.deepEqual({ userId: members[0].userId, displayName: members[0].displayName }, expected);
      }
    });

    // -- talking

    test('acks return the sent values', async () => {
      const client = await relay();
      const values = [0, -1.5, true, null, '', 'text', [], {}, [1, [2, [3]]], { z: 1, a: { b: [null, false] } }];
      for (const value of values) assert.deepEqual(await ask(client, 'echo', value), value);
      const together = await Promise.all(Array.from({ length: 50 }, (_, at) => ask(client, 'echo', at)));
      assert.deepEqual(together, Array.from({ length: 50 }, (_, at) => at));
    });

    test('unicode passes unharmed', async () => {
      const client = await relay();
      const texts = ['é€😀', '👩‍👩‍👧‍👦', 'مرحبا', '漢字', 'e\u0301', '\u2028\u2029', '\u0000\u001e\u001f\u007f', '\ufeffx', '\uffff', '\ud83d', 'a\ude00b', '"\\/\b\f\n\r\t'];
      for (const text of texts) assert.equal(await ask(client, 'echo', text), text, JSON.stringify(text));
      const object = { 'ключ 🔑': 'значение' };
      assert.deepEqual(await ask(client, 'echo', object), object);
    });

    test('binary is echoed: buffers, typed arrays, nested, empty, ten of them', async () => {
      const client = await relay();
      const every = Buffer.from(Array.from({ length: 256 }, (_, value) => value));
      assert.deepEqual(Buffer.from(await ask(client, 'echo', every)), every);
      assert.equal(Buffer.from(await ask(client, 'echo', Buffer.alloc(0))).length, 0);
      assert.deepEqual(Buffer.from(await ask(client, 'echo', new Uint8Array([9, 8]))), Buffer.from([9, 8]));
      assert.deepEqual(Buffer.from(await ask(client, 'echo', new Uint8Array([7]).buffer)), Buffer.from([7]));
      const nested = { a: [Buffer.from('x'), { b: { c: Buffer.from('y') } }], d: 'text', e: [[Buffer.from('z')]] };
      assert.deepEqual(buffers(await ask(client, 'echo', nested)), nested);
      const ten = Array.from({ length: 10 }, (_, at) => Buffer.alloc(at * 100, at));
      assert.deepEqual(buffers(await ask(client, 'echo', ten)), ten);
    });

    test('binary reaches other clients, between texts and in order', async () => {
      const [sender, receiver] = await Promise.all([relay(), relay({ claims: { ...EVERYTHING, sub: 'u2' } })]);
      const room = unique('room');
      await ask(receiver, 'join', { room });
      const events = record(receiver);
      const sent = [];
      for (let at = 0; at < 30; at += 1) {
        const data = at % 3 === 0 ? { at } : { at, bytes: Array.from({ length: (at % 10) + 1 }, (_, n) => Buffer.from([at, n])) };
        sent.push(data);
        sender.emit('publish', { room, event: 'mixed', data });
      }
      const received = await events.count('mixed', sent.length);
      assert.deepEqual(buffers(received), sent);
    });

    test('an eleventh attachment ends the connection', async () => {
      const client = await relay();
      const gone = once(client, 'disconnect');
      client.emit('echo', Array.from({ length: 11 }, () => Buffer.from([1])));
      assert.equal((await gone)[0], 'transport close');
    });

    test('large payloads pass', async () => {
      const client = await relay();
      for (const size of [30_000, 66_000, 300_000, 900_000]) {
        const text = 'x'.repeat(size);
        assert.ok(await ask(client, 'echo', text) === text, `${size} characters`);
      }
      for (const size of [30_000, 66_000, 700_000]) {
        const bytes = Buffer.alloc(size, size % 251);
        assert.ok(bytes.equals(Buffer.from(await ask(client, 'echo', bytes))), `${size} bytes`);
      }
      const list = Array.from({ length: 5_000 }, (_, id) => ({ id, name: `n${id}é` }));
      assert.deepEqual(await ask(client, 'echo', list), list);
    });

    test('a volatile emit arrives on a quiet connection, and is dropped without one', async () => {
      const client = socket({ namespace: '/relay', claims: EVERYTHING });
      const room = unique('room');
      const events = record(client);
      client.volatile.emit('join', { room });
      await connected(client, { transport });
      const { count } = await ask(client, 'members', { room });
      assert.equal(count, 0, 'a volatile emit without a connection is dropped');
      await ask(client, 'join', { room });
      // The ack may arrive before its POST has ended; until then the transport is not writable.
      const { engine } = client.io;
      await until(engine, 'drain', () => engine.transport.writable && engine.writeBuffer.length === 0, { what: 'a writable transport' });
      client.volatile.emit('publish', { room, event: 'quick', data: 1 });
      assert.equal(await events.take('quick'), 1);
    });

    test('an unsolicited ack is ignored', async () => {
      const client = await relay();
      client.packet({ type: 3, id: 4711, data: ['x'] });
      client.packet({ type: 3, id: 4711, data: [] });
      assert.equal(await ask(client, 'echo', 'still here'), 'still here');
    });

    // -- ending

    test('the client disconnects: "io client disconnect", and the rooms know', async () => {
      const [client, watcher] = await Promise.all([relay(), relay({ claims: { ...EVERYTHING, sub: 'w' } })]);
      const room = unique('room');
      await ask(client, 'join', { room });
      assert.equal((await ask(watcher, 'members', { room })).count, 1);
      const gone = once(client, 'disconnect');
      client.disconnect();
      assert.equal((await gone)[0], 'io client disconnect');
      assert.equal(client.active, false);
      await eventually(async () => (await ask(watcher, 'members', { room })).count === 0, { what: 'the room is empty' });
    });

    test('the client closes its engine: "forced close", and it reconnects', async () => {
      const client = await relay(RECONNECTING);
      const gone = once(client, 'disconnect');
      client.io.engine.close();
      assert.equal((await gone)[0], 'forced close');
      await connected(client, { transport });
      assert.equal(await ask(client, 'echo', 1), 1);
    });

    test('a bad packet from the client: "transport close", and it reconnects', async () => {
      for (const bad of ['abc', '7', '2{}', '2["disconnect"]', '2/unknown,["e"]', '50-["e"]', '0/relay,']) {
        const client = await relay(RECONNECTING);
        const gone = once(client, 'disconnect');
        client.io.engine.write(bad);
        assert.equal((await gone)[0], 'transport close', `after 4${bad}`);
        await connected(client, { transport });
        client.disconnect();
      }
    });

    test('the last socket with an expired token: "transport close" within 5 s of exp, and it reconnects with a fresh one', { timeout: 20_000 }, async () => {
      const exp = now() + 2;
      const tokens = [{ exp }, {}].map((more) => context.gateway.token({ ...EVERYTHING, ...more }));
      const client = await relay({ ...RECONNECTING, auth: (give) => give({ token: tokens.shift() }) });
      const [reason] = await once(client, 'disconnect', { timeout: 10_000 });
      const late = Date.now() / 1000 - exp;
      assert.equal(reason, 'transport close');
      assert.ok(late > -0.5 && late < 5, `${late} s after exp`);
      await connected(client, { transport });
      assert.equal(await ask(client, 'echo', 1), 1);
    });

    test('a client without a fresh token is refused when it reconnects', { timeout: 25_000 }, async () => {
      const client = await relay({ ...RECONNECTING, claims: { ...EVERYTHING, exp: now() + 1 } });
      assert.equal((await once(client, 'connect_error', { timeout: 15_000 }))[0].message, 'Token expired');
      assert.equal(client.active, false);
    });
  });
}

/** Converts binary of any kind to Buffers, for deepEqual. */
function buffers(value) {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return Buffer.from(value.buffer ?? value, value.byteOffset ?? 0, value.byteLength);
  if (Array.isArray(value)) return value.map(buffers);
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, buffers(inner)]));
  return value;
}

describe('AUTH_ERRORS=prefixed', () => {
  const context = setUp({ AUTH_ERRORS: 'prefixed' });
  for (const transport of TRANSPORTS) {
    test(`the three messages over ${transport.name}`, async () => {
      const cases = [
        [{ auth: {} }, 'Authentication error: Authentication required', 'auth_required'],
        [{ token: 'bad' }, 'Authentication error: Invalid token', 'invalid_token'],
        [{ claims: { exp: now() - 60 } }, 'Authentication error: Token expired', 'token_expired'],
      ];
      for (const [options, message, code] of cases) {
        const error = await refused(context.clients.socket({ transport, ...options }));
        assert.equal(error.message, message);
        assert.deepEqual(error.data, { code });
      }
    });
  }
});

describe('auth:refresh', { concurrency: true }, () => {
  const context = setUp();

  test('a token that expires earlier than the previous one ends the socket then', { timeout: 30_000 }, async () => {
    const client = await context.clients.connect({ claims: { sub: 'u1', exp: now() + 3600 } });
    const exp = now() + 2;
    assert.equal((await ask(client, 'auth:refresh', { token: context.gateway.token({ sub: 'u1', exp }) })).success, true);
    const [reason] = await once(client, 'disconnect', { timeout: 10_000 });
    assert.equal(reason, 'transport close');
    assert.ok(Date.now() >= exp * 1000 && Date.now() < (exp + 5) * 1000);
  });

  for (const transport of TRANSPORTS) {
    for (const namespace of ['/', '/relay']) {
      test(`a fresh token of the same user extends a socket on ${namespace} over ${transport.name}`, { timeout: 60_000 }, async () => {
        const exp = now() + 10;
        const open = () => context.clients.connect({ transport, namespace, claims: { sub: 'u1', exp } });
        const [extended, left] = await Promise.all([open(), open()]);
        const later = now() + 3600;
        const answer = await ask(extended, 'auth:refresh', { token: context.gateway.token({ sub: 'u1', exp: later }) });
        assert.equal(answer.success, true);
        assert.equal(new Date(answer.expiresAt).getTime(), later * 1000, `expiresAt is ${answer.expiresAt}`);

        let lost;
        extended.on('disconnect', (reason) => { lost = reason; });
        const [reason] = await once(left, 'disconnect', { timeout: 30_000 });
        assert.equal(reason, 'transport close');
        await delay(Math.max(0, (exp + 5.5) * 1000 - Date.now()));
        assert.equal(lost, undefined, 'the extended socket outlives its first token');
        assert.equal(extended.connected, true);
      });
    }

    test(`it refuses another user's token, an expired one and a bad one over ${transport.name}`, async () => {
      const client = await context.clients.connect({ transport, claims: { sub: 'u1' } });
      const tokens = {
        'another user': context.gateway.token({ sub: 'u2' }),
        expired: context.gateway.token({ sub: 'u1', exp: now() - 60 }),
        'signed by someone else': rawToken({ sub: 'u1', exp: now() + 60 }, 'another secret'),
        'no token': 'x',
      };
      for (const [name, token] of Object.entries(tokens)) {
        const answer = await ask(client, 'auth:refresh', { token });
        assert.equal(answer.success, false, name);
        assert.equal(typeof answer.error, 'string', name);
      }
      for (const argument of [{}, null, 'text', { token: 7 }]) {
        const answer = await ask(client, 'auth:refresh', argument);
        assert.equal(answer.success, false, JSON.stringify(argument));
      }
      assert.equal(client.connected, true);
    });
  }

  test('a refused refresh leaves the old lifetime', { timeout: 20_000 }, async () => {
    const exp = now() + 2;
    const client = await context.clients.connect({ claims: { sub: 'u1', exp } });
    const answer = await ask(client, 'auth:refresh', { token: context.gateway.token({ sub: 'u2' }) });
    assert.equal(answer.success, false);
    const [reason] = await once(client, 'disconnect', { timeout: 10_000 });
    assert.equal(reason, 'transport close');
  });

  test('a token that expires ends its own namespace only', { timeout: 20_000 }, async () => {
    const chat = await context.clients.connect({ claims: { exp: now() + 2 } });
    const relay = await context.clients.also(chat, '/relay', { claims: EVERYTHING });
    const [reason] = await once(chat, 'disconnect', { timeout: 10_000 });
    assert.equal(reason, 'io server disconnect');
    assert.equal(await ask(relay, 'echo', 'on'), 'on');
  });
});

describe('losing the connection', { concurrency: 4 }, () => {
  for (const transport of TRANSPORTS) {
    const open = async (env) => {
      const gateway = await startGateway({ env });
      const clients = keeper(gateway);
      const client = await clients.connect({ transport, namespace: '/relay', claims: EVERYTHING, ...RECONNECTING });
      return { gateway, clients, client };
    };

    test(`the server stops pinging: "ping timeout" over ${transport.name}, and the client reconnects`, async () => {
      const { gateway, clients, client } = await open({ PING_INTERVAL: '1s', PING_TIMEOUT: '3s' });
      try {
        const gone = once(client, 'disconnect', { timeout: 30_000 });
        gateway.signal('SIGSTOP');
        assert.equal((await gone)[0], 'ping timeout');
        gateway.signal('SIGCONT');
        await connected(client, { timeout: 15_000 });
        assert.equal(await ask(client, 'echo', 1), 1);
      } finally {
        gateway.signal('SIGCONT');
        clients.closeAll();
        await gateway.kill();
      }
    });

    test(`the client stops ponging: "transport close" over ${transport.name}, and it reconnects`, async () => {
      const { gateway, clients, client } = await open({ PING_INTERVAL: '1s', PING_TIMEOUT: '3s' });
      try {
        const { engine } = client.io;
        const send = engine.sendPacket ?? engine._sendPacket;
        const name = engine.sendPacket ? 'sendPacket' : '_sendPacket';
        engine[name] = function silent(type, ...rest) {
          if (type !== 'pong') send.call(this, type, ...rest);
        };
        assert.equal((await once(client, 'disconnect', { timeout: 30_000 }))[0], 'transport close');
        await connected(client);
        assert.equal(await ask(client, 'echo', 1), 1);
        const metrics = await gateway.metrics();
        assert.ok(sumMetric(metrics, 'muster_sessions_closed_total', 'reason="ping_timeout"') >= 1);
      } finally {
        clients.closeAll();
        await gateway.kill();
      }
    });

    test(`a message over the limit over ${transport.name}`, async () => {
      const { gateway, clients, client } = await open({ MAX_PAYLOAD: '10000' });
      try {
        const gone = once(client, 'disconnect');
        client.emit('echo', 'x'.repeat(20_000));
        assert.equal((await gone)[0], transport.final === 'websocket' ? 'transport close' : 'transport error');
        await connected(client);
        assert.equal(await ask(client, 'echo', 1), 1);
      } finally {
        clients.closeAll();
        await gateway.kill();
      }
    });

    test(`the server drains: "transport close" over ${transport.name}, and the client reconnects to its successor`, async () => {
      const { gateway, clients, client } = await open({ DRAIN: '500ms' });
      let successor;
      try {
        const first = client.id;
        const gone = once(client, 'disconnect');
        const stopped = gateway.stop();
        assert.equal((await gone)[0], 'transport close');
        assert.equal(client.active, true);
        assert.deepEqual(await stopped, { code: 0, signal: null });
        successor = await gateway.restart();
        await connected(client, { transport });
        assert.notEqual(client.id, first);
        assert.equal(await ask(client, 'echo', 1), 1);
      } finally {
        clients.closeAll();
        await gateway.kill();
        await successor?.kill();
      }
    });

    test(`the server is killed: the client reconnects to its successor over ${transport.name}`, async () => {
      const { gateway, clients, client } = await open({});
      let successor;
      try {
        const gone = once(client, 'disconnect');
        await gateway.kill();
        assert.equal((await gone)[0], transport.final === 'websocket' ? 'transport close' : 'transport error');
        successor = await gateway.restart();
        await connected(client, { transport });
        assert.equal(await ask(client, 'echo', 1), 1);
      } finally {
        clients.closeAll();
        await gateway.kill();
        await successor?.kill();
      }
    });

    for (const [about, PING_TIMEOUT] of [[', with PING_TIMEOUT longer than PING_INTERVAL as in document 003', '3s'], [', with PING_TIMEOUT very long', '30s']]) {
      test(`the heartbeat keeps a quiet connection over ${transport.name}${about}`, async () => {
        const { gateway, clients, client } = await open({ PING_INTERVAL: '1s', PING_TIMEOUT });
        try {
          let lost;
          client.on('disconnect', (reason) => { lost = reason; });
          let pings = 0;
          client.io.on('ping', () => { pings += 1; });
          const start = performance.now();
          await until(client.io, 'ping', () => pings >= 5, { timeout: 30_000, what: '5 pings' });
          const took = performance.now() - start;
          // The first may already be in transit when the measurement starts.
          assert.ok(took > 3 * 1_000, `5 pings took ${took} ms`);
          assert.equal(lost, undefined);
          assert.equal(await ask(client, 'echo', 1), 1);
        } finally {
          clients.closeAll();
          await gateway.kill();
        }
      });
    }
  }
});

describe('CONNECT_TIMEOUT', () => {
  const context = setUp({ CONNECT_TIMEOUT: '600ms' });
  const closed = async () => sumMetric(await context.gateway.metrics(), 'muster_sessions_closed_total', 'reason="connect_timeout"');

  test('a WebSocket that joins no namespace is closed', async () => {
    const before = await closed();
    const ws = await rawEngine(context.gateway.port);
    const start = performance.now();
    const end = await ws.untilClosed();
    const took = performance.now() - start;
    assert.ok(took > 400 && took < 2_500, `closed after ${took} ms`);
    assert.equal(end.closed, true);
    await eventually(async () => await closed() === before + 1, { what: 'one more connect_timeout in the metrics' });
  });

  test('a polling session that joins no namespace is closed', async () => {
    const session = await pollingSession(context.gateway.port);
    const answer = await session.get();
    assert.equal(answer.status, 200);
    assert.equal(answer.packets.at(-1), '1');
    const next = await session.get();
    assert.equal(next.status, 400);
    assert.deepEqual(JSON.parse(next.body), { code: 1, message: 'Session ID unknown' });
  });

  test('a refused CONNECT does not count as joined', async () => {
    const ws = await rawEngine(context.gateway.port);
    ws.send('40');
    const refusal = await ws.nextText();
    assert.ok(refusal.startsWith('44{'), refusal);
    assert.deepEqual(JSON.parse(refusal.slice(2)), { message: 'Authentication required', data: { code: 'auth_required' } });
    assert.equal((await ws.untilClosed()).closed, true);
  });

  test('a connection with a namespace stays', async () => {
    const ws = await rawSocketIo(context.gateway.port, { token: context.gateway.token(EVERYTHING), namespace: '/relay' });
    await delay(1_200);
    ws.send('42/relay,1["echo","on"]');
    assert.equal(await ws.nextText(), '43/relay,1["on"]');
    ws.destroy();
  });
});

describe('the bytes on the wire', () => {
  const context = setUp();
  const relay = (claims = {}) => rawSocketIo(context.gateway.port, { token: context.gateway.token({ ...EVERYTHING, ...claims }), namespace: '/relay' });

  /** Values that a JSON parser would change or refuse: order, spellings, duplicates, depth, lone surrogates. */
  const EXACT = [
    '{"z":1,"a":2,"m":{"y":1,"b":2}}',
    '[1.0,1e2,-0,0.10,1E+2,100000000000000000000000]',
    '123456789012345678901234567890',
    '1e400',
    '0.1000000000000000055511151231257827',
    '{"a":1,"a":2}',
    '{"__proto__":{"x":1},"constructor":{"prototype":1},"":0}',
    '"\\ud83d"',
    '"\\u0041\\/\\u001e"',
    '"é€😀\u2028"',
    '{"10":1,"9":2,"x":3,"1":4}',
    '[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]',
    '{"_placeholder":true,"num":0}',
  ];

  test('the open packet has five keys, and the CONNECT reply has one', async () => {
    const ws = await rawEngine(context.gateway.port);
    assert.deepEqual(Object.keys(ws.open).sort(), ['maxPayload', 'pingInterval', 'pingTimeout', 'sid', 'upgrades']);
    assert.deepEqual(ws.open, { sid: ws.sid, upgrades: [], pingInterval: 25_000, pingTimeout: 20_000, maxPayload: 1_000_000 });
    ws.send(`40${JSON.stringify({ token: context.gateway.token() })}`);
    const reply = await ws.nextText();
    assert.match(reply, /^40\{"sid":"[A-Za-z0-9_-]{20}"\}$/);
    ws.destroy();
    const session = await pollingSession(context.gateway.port);
    assert.deepEqual(session.open.upgrades, ['websocket']);
  });

  test('echo returns the argument byte for byte', async () => {
    const ws = await relay();
    for (const [at, text] of EXACT.entries()) {
      ws.send(`42/relay,${at}["echo",${text}]`);
      assert.equal(await ws.nextText(), `43/relay,${at}[${text}]`);
    }
    ws.destroy();
  });

  test('publish forwards data byte for byte, to WebSocket and to polling', async () => {
    const room = unique('room');
    const [sender, receiver] = await Promise.all([relay(), relay({ sub: 'u2' })]);
    const poller = await pollingSession(context.gateway.port);
    await poller.post(`40/relay,${JSON.stringify({ token: context.gateway.token(EVERYTHING) })}`);
    await poller.pollUntil((packets) => packets.some((packet) => packet.startsWith('40/relay,')));
    await poller.post(`42/relay,0["join",{"room":"${room}"}]`);
    await poller.pollUntil((packets) => packets.some((packet) => packet.startsWith('43/relay,0')));
    receiver.send(`42/relay,0["join",{"room":"${room}"}]`);
    assert.equal(await receiver.nextText(), `43/relay,0[{"success":true,"room":"${room}"}]`);

    const expected = EXACT.map((text) => `42/relay,["exact",${text}]`);
    for (const text of EXACT) sender.send(`42/relay,["publish",{"room":"${room}","event":"exact","data":${text}}]`);
    for (const packet of expected) assert.equal(await receiver.nextText(), packet);
    const polled = await poller.pollUntil((packets) => packets.length >= expected.length);
    assert.deepEqual(polled, expected);
    sender.destroy();
    receiver.destroy();
  });

  test('a packet and its attachments arrive as one unit, header first', async () => {
    const ws = await relay();
    ws.send('452-/relay,5["echo",{"b":{"_placeholder":true,"num":1},"a":[{"_placeholder":true,"num":0}]}]');
    ws.sendBinary(Buffer.from([1, 2]));
    ws.sendBinary(Buffer.from([3]));
    const header = await ws.nextText();
    const first = await ws.nextText();
    const second = await ws.nextText();
    const match = /^462-\/relay,5(\[.*\])$/.exec(header);
    assert.ok(match, header);
    const [data] = JSON.parse(match[1]);
    const parts = [first, second];
    assert.deepEqual(Object.keys(data), ['b', 'a']);
    assert.deepEqual(parts[data.a[0].num], Buffer.from([1, 2]));
    assert.deepEqual(parts[data.b.num], Buffer.from([3]));
    ws.destroy();
  });

  test('compression is offered but not used', async () => {
    const ws = await rawWebSocket(context.gateway.port, undefined, { headers: { 'Sec-WebSocket-Extensions': 'permessage-deflate; client_max_window_bits' } });
    assert.equal(ws.response.headers['sec-websocket-extensions'], undefined);
    ws.destroy();
  });
});

describe('DISCONNECT', () => {
  const context = setUp({ PING_INTERVAL: '300ms', PING_TIMEOUT: '5s' });

  test('it leaves the namespace; the connection and its pings continue', async () => {
    const auth = JSON.stringify({ token: context.gateway.token(EVERYTHING) });
    const ws = await rawSocketIo(context.gateway.port, { token: context.gateway.token(EVERYTHING), namespace: '/relay' });
    ws.send('41/relay,');
    for (let pings = 0; pings < 2; pings += 1) {
      assert.equal((await ws.next()).text, '2');
      ws.send('3');
    }
    ws.send(`40/relay,${auth}`);
    assert.match(await ws.nextText(), /^40\/relay,\{"sid":"/);
    ws.send('41/relay,');
    assert.equal((await ws.next()).text, '2');
    ws.send('3');
    ws.send('42/relay,["echo",1]');
    assert.equal((await ws.untilClosed()).closed, true, 'an event for a namespace that was left ends the connection');
  });
});

describe('the client files', () => {
  const context = setUp();
  const files = ['socket.io.js', 'socket.io.js.map', 'socket.io.min.js', 'socket.io.min.js.map', 'socket.io.esm.min.js', 'socket.io.esm.min.js.map'];
  for (const file of files) {
    test(`/socket.io/${file} is the npm package's`, async () => {
      const answer = await request(context.gateway.port, 'GET', `/socket.io/${file}`);
      assert.equal(answer.status, 200);
      assert.match(answer.headers['content-type'], file.endsWith('.map') ? /^application\/json/ : /^(text|application)\/javascript/);
      assert.ok(answer.bytes.equals(readFileSync(packageFile('socket.io-client', `dist/${file}`))), 'its bytes');
      if (answer.headers.etag) {
        const again = await request(context.gateway.port, 'GET', `/socket.io/${file}`, { headers: { 'If-None-Match': answer.headers.etag } });
        assert.equal(again.status, 304);
        assert.equal(again.body, '');
      }
    });
  }
});
