// Unauthenticated clients: their share of slots and of memory, which of them is evicted when it is used up, and that no
// other client notices. The long form, at full speed and with the default settings, is in chaos/.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { keeper } from './support/clients.mjs';
import { rawToken, sumMetric } from './support/gateway.mjs';
import {
  ENGINE_ERROR,
  EVERYTHING,
  alive,
  ask,
  closes,
  engine,
  forgotten,
  fresh,
  handshakeFrom,
  joined,
  meter,
  openSockets,
  parse,
  park,
  pollingJoined,
  refusedForNow,
  requestFrom,
  row,
  underAttack,
  upgradeFrom,
} from './support/hostile.mjs';
import { OPCODE, encodeFrame, pollingSession, rawConnection, rawEngine, request, requestText } from './support/raw.mjs';
import { delay, eventually, within } from './support/wait.mjs';

const HANDSHAKE = '/socket.io/?EIO=4&transport=polling';
const PENDING = 8;

const share = async (gateway, name) => sumMetric(await gateway.metrics(), 'muster_share_used', `share="${name}"`);

/** Sends `count` handshakes on one connection without waiting; the ids of the sessions, in order. */
async function pipelined(t, port, count) {
  const connection = await rawConnection(port);
  t.after(() => connection.destroy());
  const one = requestText(port, 'GET', HANDSHAKE);
  connection.write(Buffer.concat(Array.from({ length: count }, () => one)));
  const ids = [];
  while (ids.length < count) {
    const { status, body } = await connection.response();
    assert.equal(status, 200, body);
    ids.push(JSON.parse(body.slice(1)).sid);
  }
  return ids;
}

const known = async (port, sid) => (await request(port, 'POST', `${HANDSHAKE}&sid=${sid}`, { body: '6' })).status === 200;

describe('sessions in no namespace', () => {
  const site = underAttack({ env: { MAX_PENDING: String(PENDING), MAX_CONNECTIONS: '24' } });

  row(site, 'one connection that pipelines handshakes takes slots from itself only, even if others share its address', async (gateway, t) => {
    const evicted = await meter(gateway, 'muster_evicted_total', 'what="session"');
    const earlier = await pollingSession(gateway.port);
    const ids = await pipelined(t, gateway.port, 300);
    await evicted.grows(300 + 1 - PENDING);
    assert.equal(await share(gateway, 'sessions_pending'), PENDING);
    assert.equal(await known(gateway.port, ids[0]), false, 'the first of the flood');
    assert.equal(await known(gateway.port, ids.at(-1)), true, 'the last of the flood');
    assert.equal((await earlier.post('6')).status, 200, 'the neighbour was evicted');
    const clients = keeper(gateway);
    t.after(() => clients.closeAll());
    for (const transports of [['websocket'], ['polling'], ['polling', 'websocket']]) {
      const socket = await clients.connect({ namespace: '/relay', transports, claims: EVERYTHING });
      assert.equal(await within(socket.emitWithAck('echo', 'in'), 5_000, 'an echo'), 'in');
    }
  });

  row(site, 'the evicted one is unknown to its next request, its GET ends, and a WebSocket is closed', async (gateway, t) => {
    const closed = await meter(gateway, 'muster_sessions_closed_total', 'reason="evicted"');
    const ws = await engine(t, gateway);
    const parked = await pollingSession(gateway.port);
    const idle = await pollingSession(gateway.port);
    const { answer } = await park(gateway, parked);
    for (let at = 0; at < PENDING; at += 1) await handshakeFrom(`127.0.1.${at + 1}`, gateway.port);
    await closes(ws, 1006);
    assert.deepEqual((await answer).packets, ['1']);
    await forgotten(parked);
    await forgotten(idle);
    await closed.grows(3);
  });

  row(site, 'the address with the most sessions makes room, and a client of another one stays', async (gateway) => {
    const other = await handshakeFrom('127.0.0.9', gateway.port);
    const sid = JSON.parse(other.body.slice(1)).sid;
    for (let at = 0; at < 3 * PENDING; at += 1) assert.equal((await handshakeFrom('127.0.0.8', gateway.port)).status, 200);
    const answer = await requestFrom('127.0.0.9', gateway.port, `${HANDSHAKE}&sid=${sid}`, { method: 'POST', body: '6' });
    assert.equal(answer.status, 200);
  });

  row(site, 'a client that leaves its last namespace is one of them again', async (gateway, t) => {
    const ws = await joined(t, gateway);
    const [pending, proven] = [await share(gateway, 'sessions_pending'), await share(gateway, 'sessions_in_namespaces')];
    ws.send(`41${ws.prefix}`);
    await eventually(async () => (await share(gateway, 'sessions_in_namespaces')) === proven - 1, { what: 'the session to count as pending' });
    assert.equal(await share(gateway, 'sessions_pending'), Math.min(pending + 1, PENDING + 1));
    for (let at = 0; at < PENDING + 1; at += 1) await handshakeFrom(`127.0.2.${at + 1}`, gateway.port);
    await closes(ws, 1006);
  });
});

describe('a node full of clients in namespaces', () => {
  // One of the four is the bystander.
  const site = underAttack({ env: { MAX_CONNECTIONS: '4', MAX_PENDING: '2' } });

  row(site, 'reports it on /ready and /health, refuses the next client, and evicts none', async (gateway, t) => {
    const ready = async () => {
      const { status, body } = await request(gateway.internalPort, 'GET', '/ready');
      return [status, parse(body)];
    };
    for (let at = 0; at < 6; at += 1) await handshakeFrom('127.0.0.7', gateway.port);
    assert.deepEqual(await ready(), [200, { status: 'ready', failed: [] }]);
    const mine = [await joined(t, gateway), await joined(t, gateway), await joined(t, gateway)];
    assert.deepEqual(await ready(), [503, { status: 'not ready', failed: ['capacity'] }]);
    const health = parse((await request(gateway.port, 'GET', '/health')).body);
    assert.deepEqual([health.status, health.checks.capacity], ['degraded', 'failed']);
    assert.equal(await share(gateway, 'sessions_in_namespaces'), 4);
    for (let at = 0; at < 20; at += 1) refusedForNow(await handshakeFrom('127.0.0.7', gateway.port), 503, ENGINE_ERROR.connections);
    refusedForNow(await upgradeFrom(t, '127.0.0.7', gateway.port), 503, ENGINE_ERROR.connections);
    for (const ws of mine) await alive(ws);
    mine[0].destroy();
    await eventually(async () => (await ready())[0] === 200, { what: '/ready to be 200 again' });
    await alive(await joined(t, gateway));
  });
});

describe('connections without a session', () => {
  const site = underAttack({ env: { MAX_PENDING: '10', MAX_CONNECTIONS: '30' } });

  row(site, 'silent ones and incomplete heads: the oldest are closed, and new clients are served', async (gateway, t) => {
    const evicted = await meter(gateway, 'muster_evicted_total', 'what="connection"');
    const half = requestText(gateway.port, 'GET', '/live').subarray(0, 30);
    const open = [];
    for (let at = 0; at < 40; at += 1) {
      const connection = await rawConnection(gateway.port);
      t.after(() => connection.destroy());
      if (at % 2) connection.write(half);
      open.push(connection);
    }
    await evicted.grows(30);
    await within(open[0].closed, 5_000, 'the oldest to be closed');
    assert.ok((await share(gateway, 'connections_unknown')) <= 10);
    assert.ok(openSockets(gateway.pid) < 40);
    await alive(await joined(t, gateway));
    assert.equal((await request(gateway.port, 'GET', '/live')).status, 200);
  });

  row(site, 'clients in a namespace keep theirs, even between their polls', async (gateway, t) => {
    const session = await pollingJoined(gateway);
    const kept = await rawConnection(gateway.port);
    t.after(() => kept.destroy());
    const post = requestText(gateway.port, 'POST', session.path, { body: '6' });
    kept.write(post);
    assert.equal((await kept.response()).status, 200);
    const poll = await rawConnection(gateway.port);
    t.after(() => poll.destroy());
    poll.write(requestText(gateway.port, 'GET', session.path));
    // A parked GET cannot be observed; later requests have been answered by then.
    await request(gateway.port, 'GET', '/live');
    await delay(50);
    for (let at = 0; at < 40; at += 1) {
      const stranger = await rawConnection(gateway.port);
      t.after(() => stranger.destroy());
    }
    kept.write(post);
    assert.equal((await kept.response()).status, 200);
    kept.write(requestText(gateway.port, 'POST', session.path, { body: '42/relay,["echo",1]' }));
    assert.equal((await kept.response()).status, 200);
    kept.write(requestText(gateway.port, 'POST', session.path, { body: '42/relay,7["echo",1]' }));
    assert.equal((await poll.response()).body, '43/relay,7[1]');
  });

  row(site, 'a request with a valid token is not evicted while its body arrives', async (gateway, t) => {
    const body = JSON.stringify({ latitude: 1, longitude: 1, description: 'x' });
    const bytes = requestText(gateway.port, 'POST', '/api/sos', {
      headers: { Authorization: `Bearer ${gateway.token({ sub: fresh('user') })}`, 'Content-Type': 'application/json' },
      body,
    });
    const honest = await rawConnection(gateway.port);
    t.after(() => honest.destroy());
    honest.write(bytes.subarray(0, bytes.length - 1));
    // When a later request is answered, the token has been read.
    await request(gateway.port, 'GET', '/live');
    await delay(50);
    for (let at = 0; at < 40; at += 1) {
      const stranger = await rawConnection(gateway.port);
      t.after(() => stranger.destroy());
    }
    honest.write(bytes.subarray(bytes.length - 1));
    assert.equal((await honest.response()).status, 201);
  });
});

describe('input of strangers', () => {
  const site = underAttack();
  const large = 'x'.repeat(17_000);

  row(site, 'no message over 16 KiB before the first CONNECT, and the usual maximum after it', async (gateway, t) => {
    for (const frames of [
      [{ payload: `4${large}` }],
      [{ announce: 17_000 }],
      [{ fin: false, payload: `4${large.slice(0, 10_000)}` }, { opcode: OPCODE.continuation, payload: large.slice(10_000) }],
      [{ opcode: OPCODE.binary, payload: large }],
    ]) {
      const ws = await engine(t, gateway);
      for (const frame of frames) ws.sendFrame(frame);
      await closes(ws, 1009);
    }
    const session = await pollingSession(gateway.port);
    assert.equal((await session.post(`4${large}`)).status, 413);
    const token = gateway.token({ sub: fresh('user'), ...EVERYTHING });
    // In one write: the packets after the CONNECT are subject to the limits after it.
    const ws = await engine(t, gateway);
    const [connect, echo] = [`40/relay,${JSON.stringify({ token })}`, `42/relay,1["echo","${large.repeat(5)}"]`];
    ws.socket.write(Buffer.concat([encodeFrame({ payload: connect }), encodeFrame({ payload: echo })]));
    assert.match(await ws.nextText(), /^40\/relay,/);
    assert.equal((await ws.nextText()).length, echo.length - '"echo",'.length);
    const polling = await pollingJoined(gateway);
    assert.equal((await polling.post(`42/relay,["echo","${large}"]`)).status, 200);
  });

  row(site, 'no body over 16 KiB without a valid token', async (gateway) => {
    const post = (path, headers, body) =>
      request(gateway.port, 'POST', path, { headers: { 'Content-Type': 'application/json', ...headers }, body: JSON.stringify(body) });
    const refused = await post('/api/v1/auth/login', {}, { email: large, password: 'x' });
    assert.deepEqual([refused.status, parse(refused.body).error], [413, 'Body too large (max 16384 bytes)']);
    const authorized = { Authorization: `Bearer ${gateway.token({ sub: fresh('user') })}` };
    const taken = await post('/api/sos', authorized, { latitude: 1, longitude: 1, ignored: large.repeat(3) });
    assert.equal(taken.status, 201, taken.body);
  });

  row(site, 'a client who requests answers and reads nothing is closed', async (gateway) => {
    const closed = await meter(gateway, 'muster_sessions_closed_total', 'reason="slow_consumer"');
    const session = await pollingSession(gateway.port);
    for (let at = 0; at < 10; at += 1) await session.post(Array.from({ length: 10 }, () => '40/nope,').join('\x1e'));
    await closed.grows(1);
    await forgotten(session);
  });

  row(site, 'a long token is verified at the handshake, and CONNECT answers the same', async (gateway, t) => {
    const name = 'n'.repeat(1_000);
    const claims = { sub: fresh('user'), name, email: name, avatar: name, ...EVERYTHING };
    const soon = Math.floor(Date.now() / 1_000);
    const answers = async (token) => {
      const ws = await rawEngine(gateway.port, { query: `&token=${token}` });
      t.after(() => ws.destroy());
      const seen = [];
      for (const namespace of ['/relay', '/']) {
        ws.send(`40${namespace === '/' ? '' : `${namespace},`}`);
        seen.push((await ws.nextText()).replace(/"sid":"[^"]*"/, '"sid"'));
      }
      return seen;
    };
    const good = gateway.token(claims);
    assert.ok(good.length > 3_000);
    assert.deepEqual(await answers(good), ['40/relay,{"sid"}', '40{"sid"}']);
    const invalid = '{"message":"Invalid token","data":{"code":"invalid_token"}}';
    const expired = '{"message":"Token expired","data":{"code":"token_expired"}}';
    const exp = soon + 3_600;
    assert.deepEqual(await answers(rawToken({ ...claims, exp }, 'another secret')), [`44/relay,${invalid}`, `44${invalid}`]);
    assert.deepEqual(await answers(gateway.token({ ...claims, exp: soon - 60 })), [`44/relay,${expired}`, `44${expired}`]);
    assert.deepEqual(await answers(gateway.token({ ...claims, nbf: soon + 600 })), [`44/relay,${invalid}`, `44${invalid}`]);
    // One that is valid only later is kept, and accepted once it is valid.
    const ws = await rawEngine(gateway.port, { query: `&token=${gateway.token({ ...claims, nbf: soon + 7 })}` });
    t.after(() => ws.destroy());
    await eventually(
      async () => {
        ws.send('40/relay,');
        return (await ws.nextText()).startsWith('40/relay,');
      },
      { timeout: 10_000, interval: 250, what: 'the token to begin' },
    );
  });
});

describe('UNFINISHED_BYTES', () => {
  const site = underAttack({ env: { UNFINISHED_BYTES: '2000000', MAX_PAYLOAD: '1000000' } });
  const begun = (size, of = 990_000) => encodeFrame({ payload: `42/relay,1["echo","${'x'.repeat(of - 30)}"]` }).subarray(0, size);

  row(site, 'above it the largest message is refused, and the others continue', async (gateway, t) => {
    const evicted = await meter(gateway, 'muster_evicted_total', 'what="input"');
    const [small, middle, big] = [await joined(t, gateway), await joined(t, gateway), await joined(t, gateway)];
    const whole = begun(undefined);
    const held = (bytes) =>
      eventually(async () => (await share(gateway, 'unfinished_bytes')) >= bytes, { what: `${bytes} unfinished bytes` });
    small.socket.write(whole.subarray(0, 200_000));
    await held(200_000);
    middle.socket.write(whole.subarray(0, 700_000));
    await held(900_000);
    big.socket.write(whole.subarray(0, 980_000));
    await held(1_880_000);
    const other = await joined(t, gateway);
    other.socket.write(whole.subarray(0, 150_000));
    await closes(big, 1006);
    await evicted.grows(1);
    assert.ok((await share(gateway, 'unfinished_bytes')) <= 2_000_000);
    small.socket.write(whole.subarray(200_000));
    assert.match(await small.nextText(), /^43\/relay,1\["x/);
    middle.socket.write(whole.subarray(700_000));
    assert.match(await middle.nextText(), /^43\/relay,1\["x/);
  });

  row(site, 'awaited attachments count, and a body is refused with 503', async (gateway, t) => {
    const ws = await joined(t, gateway);
    ws.send('452-/relay,1["echo",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]');
    ws.sendBinary(Buffer.alloc(400_000));
    await eventually(async () => (await share(gateway, 'unfinished_bytes')) >= 400_000, { what: 'the attachment to count' });
    const sessions = [await pollingJoined(gateway), await pollingJoined(gateway)];
    const posts = [];
    for (const session of sessions) {
      const post = await rawConnection(gateway.port);
      t.after(() => post.destroy());
      const bytes = requestText(gateway.port, 'POST', session.path, { body: `42/relay,["echo","${'x'.repeat(950_000)}"]` });
      post.write(bytes.subarray(0, 900_000));
      posts.push(post);
    }
    const answer = await Promise.race(posts.map((post) => post.response()));
    assert.deepEqual([answer.status, answer.headers['retry-after']], [503, '1']);
    ws.sendBinary(Buffer.alloc(10));
    assert.match(await ws.nextText(), /^46/);
    await alive(await joined(t, gateway));
    for (const post of posts) post.destroy();
    await eventually(async () => (await share(gateway, 'unfinished_bytes')) === 0, { what: 'everything to be given back' });
  });
});

test('contradictory settings are refused', async () => {
  const { runGateway } = await import('./support/gateway.mjs');
  const { code, stderr } = await runGateway(['check-config'], { env: { UNFINISHED_BYTES: '1000', JWT_SECRET: 'x'.repeat(32), MOUNTS: 'chat=/' } });
  assert.equal(code, 2);
  assert.match(stderr, /UNFINISHED_BYTES.*no less than max_payload, or 0/);
});
