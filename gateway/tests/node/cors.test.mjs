// Who may talk to the gateway from a browser: the Origin rules on polling, on errors, on the preflight and
// before a WebSocket's 101.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { TRANSPORTS, connected, keeper, refused } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { pollingSession, rawWebSocket, request } from './support/raw.mjs';

const GOOD = 'https://good.example';
const OTHER_GOOD = 'http://localhost:5173';
const HANDSHAKE = '/socket.io/?EIO=4&transport=polling';
const FORBIDDEN = { code: 4, message: 'Forbidden' };

const corsHeaders = (headers) => Object.keys(headers).filter((name) => name.startsWith('access-control-'));

function serve(env) {
  const context = {};
  before(async () => {
    context.gateway = await startGateway({ env });
    context.clients = keeper(context.gateway);
  });
  after(async () => {
    context.clients?.closeAll();
    await context.gateway?.kill();
  });
  context.get = (path, headers, method = 'GET', body = undefined) => request(context.gateway.port, method, path, { headers, body });
  /** 101, or the status of the refusal with its whole response. */
  context.upgrade = async (headers) => {
    try {
      const ws = await rawWebSocket(context.gateway.port, undefined, { headers });
      ws.destroy();
      return { status: 101 };
    } catch (error) {
      if (error.status === undefined) throw error;
      return error;
    }
  };
  return context;
}

const OUTSIDERS = [
  'https://evil.example',
  'http://good.example',
  'https://good.example:8443',
  'https://good.example.evil.tld',
  'https://evilgood.example',
  'https://sub.good.example',
  'https://good.exampl',
  'null',
];

describe('CORS_ORIGINS with two origins', () => {
  const context = serve({ CORS_ORIGINS: `${GOOD},${OTHER_GOOD}` });

  for (const origin of [GOOD, OTHER_GOOD]) {
    test(`${origin} may, with credentials`, async () => {
      const answer = await context.get(HANDSHAKE, { Origin: origin });
      assert.equal(answer.status, 200);
      assert.equal(answer.headers['access-control-allow-origin'], origin);
      assert.equal(answer.headers['access-control-allow-credentials'], 'true');
      assert.match(answer.headers.vary ?? '', /\borigin\b/i);
      assert.equal((await context.upgrade({ Origin: origin })).status, 101);
    });
  }

  test('an Origin longer than 4 KiB is answered 431', async () => {
    const origin = (length) => 'https://'.padEnd(length, 'x');
    for (const path of [HANDSHAKE, '/api/v1/auth/login']) {
      assert.equal((await context.get(path, { Origin: origin(4_096) })).status, 403, path);
      assert.equal((await context.get(path, { Origin: origin(4_097) })).status, 431, path);
    }
    assert.equal((await context.upgrade({ Origin: origin(4_096) })).status, 403);
    assert.equal((await context.upgrade({ Origin: origin(4_097) })).status, 431);
  });

  test('a preflight is answered 204 with methods, the asked headers and credentials', async () => {
    const answer = await context.get(`${HANDSHAKE}&sid=whatever`, {
      Origin: GOOD,
      'Access-Control-Request-Method': 'POST',
      'Access-Control-Request-Headers': 'authorization,content-type',
    }, 'OPTIONS');
    assert.equal(answer.status, 204);
    assert.equal(answer.body, '');
    assert.equal(answer.headers['access-control-allow-origin'], GOOD);
    assert.equal(answer.headers['access-control-allow-credentials'], 'true');
    const methods = answer.headers['access-control-allow-methods'].split(',').map((method) => method.trim());
    assert.ok(methods.includes('GET') && methods.includes('POST'), String(methods));
    const allowed = answer.headers['access-control-allow-headers'].toLowerCase();
    assert.ok(allowed.includes('authorization') && allowed.includes('content-type'), allowed);
    assert.match(answer.headers.vary ?? '', /\borigin\b/i);
  });

  test('a whole session works with an Origin, its answers and errors carry the headers', async () => {
    const headers = { Origin: GOOD };
    const session = await pollingSession(context.gateway.port, { headers });
    const posted = await session.post(`40${JSON.stringify({ token: context.gateway.token() })}`);
    assert.equal(posted.status, 200);
    const polled = await session.get();
    assert.match(polled.packets[0], /^40\{"sid"/);
    for (const answer of [posted, polled]) assert.equal(answer.headers['access-control-allow-origin'], GOOD);
    const error = await context.get(`${HANDSHAKE}&sid=AAAAAAAAAAAAAAAAAAAA`, headers);
    assert.equal(error.status, 400);
    assert.deepEqual(JSON.parse(error.body), { code: 1, message: 'Session ID unknown' });
    assert.equal(error.headers['access-control-allow-origin'], GOOD);
  });

  for (const origin of OUTSIDERS) {
    test(`${origin} may not: handshake, preflight and upgrade are 403 without CORS headers`, async () => {
      const answers = [
        await context.get(HANDSHAKE, { Origin: origin }),
        await context.get(HANDSHAKE, { Origin: origin, 'Access-Control-Request-Method': 'POST' }, 'OPTIONS'),
      ];
      for (const answer of answers) {
        assert.equal(answer.status, 403);
        assert.deepEqual(JSON.parse(answer.body), FORBIDDEN);
        assert.deepEqual(corsHeaders(answer.headers), []);
      }
      const upgrade = await context.upgrade({ Origin: origin });
      assert.equal(upgrade.status, 403, 'refused before the 101');
      assert.deepEqual(corsHeaders(upgrade.headers), []);
    });
  }

  test('an outsider may not use a session that exists, either', async () => {
    const session = await pollingSession(context.gateway.port, { headers: { Origin: GOOD } });
    const answer = await session.post('40', { Origin: 'https://evil.example' });
    assert.equal(answer.status, 403);
    assert.deepEqual(corsHeaders(answer.headers), []);
    const posted = await session.post(`40${JSON.stringify({ token: context.gateway.token() })}`);
    assert.equal(posted.status, 200, 'the session is unharmed');
  });

  test('without an Origin all is well and no CORS header is sent', async () => {
    const answer = await context.get(HANDSHAKE, {});
    assert.equal(answer.status, 200);
    assert.deepEqual(corsHeaders(answer.headers), []);
    assert.equal((await context.upgrade({})).status, 101);
  });

  test('the page of this very host may always', async () => {
    const own = `http://127.0.0.1:${context.gateway.port}`;
    const answer = await context.get(HANDSHAKE, { Origin: own });
    assert.equal(answer.status, 200);
    assert.equal((await context.upgrade({ Origin: own })).status, 101);
    const neighbour = `http://127.0.0.1:${context.gateway.port + 1}`;
    assert.equal((await context.get(HANDSHAKE, { Origin: neighbour })).status, 403, 'another port is another host');
  });

  for (const transport of TRANSPORTS) {
    test(`official clients over ${transport.name} see it the same way`, async () => {
      const good = context.clients.socket({ transport, extraHeaders: { Origin: GOOD } });
      await connected(good, { transport });
      const bad = context.clients.socket({ transport, extraHeaders: { Origin: 'https://evil.example' } });
      const error = await refused(bad);
      assert.ok(error instanceof Error);
    });
  }
});

describe('without CORS_ORIGINS', () => {
  const context = serve({});

  test('only the own host and clients without an Origin may', async () => {
    assert.equal((await context.get(HANDSHAKE, {})).status, 200);
    assert.equal((await context.get(HANDSHAKE, { Origin: `http://127.0.0.1:${context.gateway.port}` })).status, 200);
    const answer = await context.get(HANDSHAKE, { Origin: GOOD });
    assert.equal(answer.status, 403);
    assert.deepEqual(JSON.parse(answer.body), FORBIDDEN);
    assert.deepEqual(corsHeaders(answer.headers), []);
    assert.equal((await context.upgrade({ Origin: GOOD })).status, 403);
  });
});

describe('CORS_ORIGINS with *', () => {
  const context = serve({ CORS_ORIGINS: '*' });

  test('anyone may, without credentials', async () => {
    for (const origin of ['https://any.example', 'null', GOOD]) {
      const answer = await context.get(HANDSHAKE, { Origin: origin });
      assert.equal(answer.status, 200, origin);
      assert.ok(['*', origin].includes(answer.headers['access-control-allow-origin']), answer.headers['access-control-allow-origin']);
      assert.equal(answer.headers['access-control-allow-credentials'], undefined);
      const preflight = await context.get(HANDSHAKE, { Origin: origin, 'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'content-type' }, 'OPTIONS');
      assert.equal(preflight.status, 204);
      assert.equal(preflight.headers['access-control-allow-credentials'], undefined);
      assert.equal((await context.upgrade({ Origin: origin })).status, 101);
    }
  });
});
