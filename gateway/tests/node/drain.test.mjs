// SIGTERM: the node disconnects all clients by closing transports, evenly over the window, and then exits.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { EVERYTHING, TRANSPORTS, bounded, keeper } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { pollingSession, rawConnection, rawSocketIo, requestText } from './support/raw.mjs';
import { eventually, within } from './support/wait.mjs';

const CLIENTS = 1_000;

async function ready(url) {
  const response = await fetch(`${url}/ready`);
  await response.arrayBuffer();
  return response.status;
}

describe('a drain', () => {
  test(`${CLIENTS} clients are closed within the window, evenly, without a DISCONNECT packet; exit code 0`, { timeout: 120_000 }, async () => {
    const window = 4_000;
    const gateway = await startGateway({ env: { DRAIN: `${window}ms`, SOCKETS_PER_USER: '0' } });
    try {
      const token = gateway.token(EVERYTHING);
      const sockets = await bounded(CLIENTS, 50, () => rawSocketIo(gateway.port, { token, namespace: '/relay', timeout: 20_000 }));
      assert.equal(await ready(gateway.internalUrl), 200);

      const ends = sockets.map(async (ws) => {
        const end = await ws.untilClosed({ timeout: window + 15_000 });
        return { ...end, at: performance.now() };
      });
      const start = performance.now();
      const stopped = gateway.stop();
      await eventually(async () => await ready(gateway.internalUrl) === 503, { timeout: 1_500, what: '/ready says 503' });
      const result = await stopped;
      const exitedAt = performance.now() - start;
      const closed = await Promise.all(ends);

      assert.deepEqual(result, { code: 0, signal: null });
      assert.ok(exitedAt < window + 10_000, `it took ${exitedAt} ms`);
      const times = closed.map(({ at }) => at - start).sort((a, b) => a - b);
      assert.ok(times.at(-1) < window + 2_000, `the last was closed after ${times.at(-1)} ms`);
      const half = times.filter((time) => time < window / 2).length;
      assert.ok(half > CLIENTS * 0.2 && half < CLIENTS * 0.9, `${half} of ${CLIENTS} were closed in the first half`);
      for (let at = 0; at < window; at += 500) {
        const wave = times.filter((time) => time >= at && time < at + 500).length;
        assert.ok(wave < CLIENTS * 0.5, `${wave} of ${CLIENTS} were closed between ${at} and ${at + 500} ms`);
      }
      for (const { code, frames } of closed) {
        assert.equal(code, 1006, 'no close frame: OkHttp and the C++ client would stay away');
        assert.ok(frames.every(({ text }) => text !== '41' && !text?.startsWith('41/')), 'no DISCONNECT packet');
      }
      gateway.assertQuiet();
    } finally {
      await gateway.kill();
    }
  });

  test('official clients see "transport close" and would reconnect, on every transport', { timeout: 60_000 }, async () => {
    const gateway = await startGateway({ env: { DRAIN: '1s' } });
    const clients = keeper(gateway);
    try {
      const sockets = await Promise.all(TRANSPORTS.flatMap((transport) => Array.from({ length: 5 }, () => clients.connect({ transport, claims: EVERYTHING, namespace: '/relay', reconnection: true, reconnectionDelay: 60_000 }))));
      const reasons = sockets.map((socket) => within(new Promise((resolve) => { socket.once('disconnect', resolve); }), 15_000, 'a disconnect'));
      const stopped = gateway.stop();
      assert.deepEqual(await Promise.all(reasons), sockets.map(() => 'transport close'));
      for (const socket of sockets) assert.equal(socket.active, true);
      assert.deepEqual(await stopped, { code: 0, signal: null });
    } finally {
      clients.closeAll();
      await gateway.kill();
    }
  });

  test('clients that neither read nor poll do not delay it', { timeout: 60_000 }, async () => {
    const gateway = await startGateway({ env: { DRAIN: '1s' } });
    try {
      const token = gateway.token(EVERYTHING);
      const deaf = await bounded(20, 10, () => rawSocketIo(gateway.port, { token, namespace: '/relay' }));
      for (const ws of deaf) ws.socket.pause();
      const silent = await bounded(20, 10, async () => {
        const session = await pollingSession(gateway.port);
        await session.post(`40/relay,${JSON.stringify({ token })}`);
        return session;
      });
      assert.equal(silent.length, 20);
      const start = performance.now();
      assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
      const took = performance.now() - start;
      assert.ok(took < 11_000, `it took ${took} ms`);
      for (const ws of deaf) ws.destroy();
    } finally {
      await gateway.kill();
    }
  });

  test('a polling client between two GETs learns of it by the next', { timeout: 60_000 }, async () => {
    const gateway = await startGateway({ env: { DRAIN: '1s', LOG: 'debug' } });
    const connection = await rawConnection(gateway.port);
    try {
      const session = await pollingSession(gateway.port);
      const stopped = gateway.stop();
      await gateway.waitLog((entry) => entry.message === 'session closed');
      connection.write(requestText(gateway.port, 'GET', session.path));
      const answer = await connection.response();
      // The bytes after the `1` are for python-socketio, which takes a readable `1` as a request to stay away.
      assert.deepEqual([answer.status, answer.body], [200, '1\x1e-']);
      assert.deepEqual(await stopped, { code: 0, signal: null });
    } finally {
      connection.destroy();
      await gateway.kill();
    }
  });

  test('without clients it ends at once', async () => {
    const gateway = await startGateway({ env: { DRAIN: '30s' } });
    const start = performance.now();
    assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
    const took = performance.now() - start;
    assert.ok(took < 6_000, `it took ${took} ms`);
  });

  for (const [first, second] of [['SIGTERM', 'SIGTERM'], ['SIGTERM', 'SIGINT'], ['SIGINT', 'SIGTERM']]) {
    test(`${second} during the drain that ${first} began ends it at once`, { timeout: 60_000 }, async () => {
      const gateway = await startGateway({ env: { DRAIN: '60s' } });
      try {
        const token = gateway.token(EVERYTHING);
        const sockets = await bounded(50, 25, () => rawSocketIo(gateway.port, { token, namespace: '/relay' }));
        gateway.signal(first);
        await eventually(async () => await ready(gateway.internalUrl) === 503, { timeout: 2_000, what: '/ready says 503' });
        const start = performance.now();
        gateway.signal(second);
        await within(gateway.exited, 15_000, 'the end after the second signal');
        const took = performance.now() - start;
        assert.ok(took < 10_000, `it took ${took} ms`);
        for (const ws of sockets) ws.destroy();
      } finally {
        await gateway.kill();
      }
    });
  }

  test('a handshake during the drain is refused', { timeout: 60_000 }, async () => {
    const gateway = await startGateway({ env: { DRAIN: '60s' } });
    try {
      const token = gateway.token(EVERYTHING);
      const sockets = await bounded(20, 10, () => rawSocketIo(gateway.port, { token, namespace: '/relay' }));
      gateway.signal('SIGTERM');
      await eventually(async () => await ready(gateway.internalUrl) === 503, { timeout: 2_000, what: '/ready says 503' });
      await eventually(async () => {
        const outcome = await fetch(`${gateway.url}/socket.io/?EIO=4&transport=polling`).then(({ status }) => status, () => 'refused');
        return outcome === 503 || outcome === 'refused';
      }, { timeout: 6_000, what: 'new handshakes are refused' });
      for (const ws of sockets) ws.destroy();
    } finally {
      await gateway.kill();
    }
  });
});
