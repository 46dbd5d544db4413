// Clients that no package registry has, simulated by the bytes that they send: each connects, gets an answer, and is
// disconnected by a drain in the way that makes it reconnect. Installable clients are in `clients/`.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { EVERYTHING } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { pollingSession, rawConnection, rawWebSocket, requestText } from './support/raw.mjs';
import { eventually, within } from './support/wait.mjs';

const POLLING = 'EIO=4&transport=polling';
const WEBSOCKET = 'EIO=4&transport=websocket';
const connect = (token) => `40/relay,${JSON.stringify({ token })}`;

/** Reads texts until the answer to CONNECT. */
async function untilJoined(ws) {
  for (;;) {
    const text = await ws.nextText();
    if (text.startsWith('40/relay,{"sid"')) return ws;
    assert.match(text, /^(0\{|3probe|6$)/);
  }
}

async function byWebSocket(port, token, query, headers) {
  const ws = await rawWebSocket(port, `/socket.io/?${query}`, { headers });
  assert.match(await ws.nextText(), /^0\{"sid":/);
  ws.send(connect(token));
  return untilJoined(ws);
}

/** Polls first, then upgrades the session with `texts`. */
async function byUpgrade(port, token, { query = '', headers = {}, upgrade = '', texts, joinsFirst = true }) {
  const session = await pollingSession(port, { query, headers });
  if (joinsFirst) {
    assert.equal((await session.post(connect(token))).status, 200);
    await session.pollUntil((seen) => seen.some((packet) => packet.startsWith('40/relay,')));
  }
  const ws = await rawWebSocket(port, `/socket.io/?${WEBSOCKET}&sid=${session.sid}${upgrade}`, { headers });
  for (const text of texts) ws.send(text);
  if (!joinsFirst) {
    ws.send(connect(token));
    await untilJoined(ws);
  }
  return ws;
}

const CLIENTS = [
  ['C++ (socket.io-client-cpp)', (port, token) => byWebSocket(port, token, `${WEBSOCKET}&t=1795000000`, { 'User-Agent': 'WebSocket++/0.8.2' })],
  ['Swift (Starscream), by WebSocket', (port, token) =>
    byWebSocket(port, token, 'transport=websocket&EIO=4', { Origin: `ws://127.0.0.1:${port}`, 'Sec-WebSocket-Extensions': 'permessage-deflate; client_max_window_bits; server_max_window_bits=15' })],
  ['Swift, by polling first', (port, token) => byUpgrade(port, token, { query: '&b64=1', texts: ['2probe', '5'] })],
  ['Dart (dart:io)', (port, token) =>
    byWebSocket(port, token, WEBSOCKET, { 'user-agent': 'Dart/3.5 (dart:io)', 'cache-control': 'no-cache', 'accept-encoding': 'gzip', 'sec-websocket-extensions': 'permessage-deflate; client_max_window_bits' })],
  ['.NET (SocketIOClient 4.0.2), which does not probe', (port, token) => byUpgrade(port, token, { texts: ['5'], joinsFirst: false })],
  ['.NET, by WebSocket', (port, token) => byWebSocket(port, token, WEBSOCKET, {})],
  ['PHP (Elephant.io), which does not probe', (port, token) =>
    byUpgrade(port, token, { headers: { Accept: '*/*', 'User-Agent': '' }, query: '&t=5Qx', upgrade: '&t=5Qy', texts: ['5'] })],
  ['Go (maldikhan/go.socket.io), with an empty sid and a path in Origin', (port, token) =>
    byWebSocket(port, token, `${WEBSOCKET}&sid=`, { Origin: `http://127.0.0.1:${port}/socket.io/?${WEBSOCKET}` })],
];

async function echoes(ws) {
  ws.send('42/relay,7["echo","here"]');
  for (;;) {
    const text = await ws.nextText();
    if (text !== '6' && text !== '3probe') return assert.equal(text, '43/relay,7["here"]');
  }
}

describe('clients by their bytes', () => {
  test('connect and get an answer, and a drain ends their connections without a close frame', { timeout: 60_000 }, async (t) => {
    const gateway = await startGateway({ env: { DRAIN: '500ms' } });
    t.after(() => gateway.kill());
    const open = [];
    for (const [name, begin] of CLIENTS) {
      await t.test(name, async () => {
        const ws = await begin(gateway.port, gateway.token(EVERYTHING));
        await echoes(ws);
        open.push([name, ws]);
      });
    }
    assert.equal(open.length, CLIENTS.length);
    const ends = Promise.all(open.map(async ([name, ws]) => [name, await ws.untilClosed({ timeout: 15_000 })]));
    assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
    for (const [name, { code, reset, frames }] of await ends) {
      assert.deepEqual([code, reset ?? false, frames.map(({ text }) => text)], [1006, false, []], name);
    }
  });

  // python-socketio takes a readable `1` as a request to stay away; the packet after it makes the body unreadable.
  const END = ['1', '-'];

  test('a drain ends a waiting GET and a later one', { timeout: 60_000 }, async (t) => {
    const gateway = await startGateway({ env: { DRAIN: '1s', LOG: 'debug' } });
    t.after(() => gateway.kill());
    const join = async () => {
      const session = await pollingSession(gateway.port);
      await session.post(connect(gateway.token(EVERYTHING)));
      await session.pollUntil((seen) => seen.some((packet) => packet.startsWith('40/relay,')));
      return session;
    };
    const [waits, later, queued] = [await join(), await join(), await join()];
    const waiting = waits.get();
    // An answer is queued for the third, which has no GET in progress.
    assert.equal((await queued.post('42/relay,1["echo","queued"]')).status, 200);
    const [next, last] = [await rawConnection(gateway.port), await rawConnection(gateway.port)];
    const stopped = gateway.stop();
    await eventually(() => gateway.logs.filter(({ message }) => message === 'session closed').length === 3, { what: 'all sessions to be closed' });
    next.write(requestText(gateway.port, 'GET', later.path));
    last.write(requestText(gateway.port, 'GET', queued.path));
    assert.deepEqual((await waiting).packets, END);
    assert.deepEqual((await next.response()).body.split('\x1e'), END);
    // Queued packets get an answer of their own, so that the unreadable body does not take them along.
    assert.equal((await last.response()).body, '43/relay,1["queued"]');
    last.write(requestText(gateway.port, 'GET', queued.path));
    assert.deepEqual((await last.response()).body.split('\x1e'), END);
    assert.deepEqual(await stopped, { code: 0, signal: null });
    next.destroy();
    last.destroy();
  });

  test('an expired token ends WebSocket and polling in the same way', { timeout: 60_000 }, async (t) => {
    const gateway = await startGateway();
    t.after(() => gateway.kill());
    const token = gateway.token({ ...EVERYTHING, exp: Math.floor(Date.now() / 1000) + 2 });
    const ws = await byWebSocket(gateway.port, token, WEBSOCKET, {});
    const session = await pollingSession(gateway.port);
    await session.post(connect(token));
    await session.pollUntil((seen) => seen.some((packet) => packet.startsWith('40/relay,')));
    const [end, polled] = await Promise.all([ws.untilClosed({ timeout: 15_000 }), within(session.get(), 15_000, 'the end of the GET')]);
    assert.deepEqual([end.code, end.frames.map(({ text }) => text)], [1006, []]);
    assert.deepEqual(polled.packets, END);
    assert.equal((await session.get()).status, 400);
  });

  test('a client that answers no ping finds its WebSocket ended in the same way, and its polling session unknown', { timeout: 60_000 }, async (t) => {
    const gateway = await startGateway({ env: { PING_INTERVAL: '500ms', PING_TIMEOUT: '500ms' } });
    t.after(() => gateway.kill());
    const ws = await byWebSocket(gateway.port, gateway.token(EVERYTHING), WEBSOCKET, {});
    const session = await pollingSession(gateway.port);
    assert.equal((await session.get()).body, '2');
    const end = await ws.untilClosed({ timeout: 15_000 });
    assert.deepEqual([end.code, end.frames.map(({ text }) => text)], [1006, ['2']]);
    await eventually(async () => (await session.post('6')).status === 400, { what: 'the polling session to end' });
    assert.deepEqual(JSON.parse((await session.get()).body), { code: 1, message: 'Session ID unknown' });
  });
});
