// Bad Engine.IO handshakes and long-polling requests: rows B1 to B20 of the bad-input list, and the
// advisories of this family that concern HTTP. Each row's answer is exact; each ends with the same two
// checks (`/live`, the bystander).

import assert from 'node:assert/strict';
import { describe } from 'node:test';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';

import {
  ENGINE_ERROR,
  alive,
  costsAtMost,
  forgotten,
  growsAtMost,
  joined,
  meter,
  openSockets,
  parse,
  pollingJoined,
  pour,
  row,
  rows,
  underAttack,
} from './support/hostile.mjs';
import { HandshakeRefused, pollingSession, rawConnection, rawHttp, rawWebSocket, request, requestText } from './support/raw.mjs';
import { eventually, until, within } from './support/wait.mjs';

const MAX_PAYLOAD = 1_000_000;
const POLLING = 'EIO=4&transport=polling';

const site = underAttack();

function assertEngineError(answer, status, error) {
  assert.deepEqual({ status: answer.status, body: parse(answer.body) }, { status, body: error });
  assert.match(answer.headers['content-type'] ?? '', /^application\/json/);
}

function assertNoCors(answer) {
  const headers = Object.keys(answer.headers).filter((name) => name.startsWith('access-control-'));
  assert.deepEqual(headers, []);
}

describe('a refused handshake', () => {
  const unknownSid = (sid) => ({ query: `${POLLING}&sid=${sid}`, error: ENGINE_ERROR.session, secret: sid });
  rows(
    site,
    [
      { name: 'B1 without EIO is an unsupported version', query: 'transport=polling', error: ENGINE_ERROR.version },
      { name: 'B1 EIO=abc is an unsupported version', query: 'EIO=abc&transport=polling', error: ENGINE_ERROR.version },
      { name: 'B1 EIO=5 is an unsupported version', query: 'EIO=5&transport=polling', error: ENGINE_ERROR.version },
      { name: 'B1 EIO=3 is an unsupported version', query: 'EIO=3&transport=polling', error: ENGINE_ERROR.version },
      { name: 'B1 EIO=04 is an unsupported version', query: 'EIO=04&transport=polling', error: ENGINE_ERROR.version },
      { name: 'B1 an empty EIO is an unsupported version', query: 'EIO=&transport=polling', error: ENGINE_ERROR.version },
      { name: 'B2 a missing transport is unknown', query: 'EIO=4', error: ENGINE_ERROR.transport },
      { name: 'B2 an empty transport is unknown', query: 'EIO=4&transport=', error: ENGINE_ERROR.transport },
      { name: 'B2 transport=abc is unknown', query: 'EIO=4&transport=abc', error: ENGINE_ERROR.transport },
      { name: 'B2 transport=webtransport is unknown', query: 'EIO=4&transport=webtransport', error: ENGINE_ERROR.transport },
      { name: 'B2 transport=__proto__ is unknown', query: 'EIO=4&transport=__proto__', error: ENGINE_ERROR.transport },
      { name: 'B2 transport=Polling is unknown', query: 'EIO=4&transport=Polling', error: ENGINE_ERROR.transport },
      { name: 'B2 no query at all is an unknown transport', query: '', error: ENGINE_ERROR.transport },
      { name: 'B3 POST without a session is a bad method', method: 'POST', query: POLLING, body: '40', error: ENGINE_ERROR.method },
      { name: 'B3 PUT without a session is a bad method', method: 'PUT', query: POLLING, body: '40', error: ENGINE_ERROR.method },
      { name: 'B3 DELETE without a session is a bad method', method: 'DELETE', query: POLLING, error: ENGINE_ERROR.method },
      { name: 'B4 a sid nobody has is unknown', ...unknownSid('AAAAAAAAAAAAAAAAAAAA') },
      { name: 'B4 a sid of blanks is unknown', ...unknownSid('%20%20') },
      { name: 'B4 a sid of NUL is unknown', ...unknownSid('%00') },
      { name: 'B4 a sid of 4 KiB is unknown', ...unknownSid('S'.repeat(4096)) },
      { name: 'B4 a sid that climbs directories is unknown', ...unknownSid('../../etc/passwd') },
      { name: 'B4 a sid that is not UTF-8 is unknown', ...unknownSid('%ff%fe') },
      { name: 'B4 an unknown sid is unknown to POST too', method: 'POST', body: '2', ...unknownSid('BBBBBBBBBBBBBBBBBBBB') },
      { name: 'B5 transport=websocket without an upgrade is a bad request', query: 'EIO=4&transport=websocket', error: ENGINE_ERROR.request },
      { name: 'B19 of EIO given twice the last counts', query: 'EIO=4&EIO=3&transport=polling', error: ENGINE_ERROR.version },
      { name: 'B19 of transport given twice the last counts', query: 'EIO=4&transport=polling&transport=websocket', error: ENGINE_ERROR.request },
      { name: 'B19 of sid given twice the last counts', query: `${POLLING}&sid=&sid=b`, error: ENGINE_ERROR.session },
      { name: 'B20 a JSONP handshake is a bad request', query: `${POLLING}&j=0`, error: ENGINE_ERROR.request },
      { name: 'B20 a JSONP callback is not echoed', query: `${POLLING}&j=alert(1)`, error: ENGINE_ERROR.request, secret: 'alert' },
    ],
    async (gateway, { method = 'GET', query, body, error, secret }) => {
      const answer = await request(gateway.port, method, `/socket.io/?${query}`, { body });
      assertEngineError(answer, 400, error);
      assertNoCors(answer);
      if (secret) assert.ok(!answer.raw.toString('latin1').includes(secret), 'the input is echoed');
    },
  );

  rows(
    site,
    [
      { name: 'B1 EIO=3 over WebSocket is refused before the 101', query: 'EIO=3&transport=websocket' },
      { name: 'B2 an unknown transport over WebSocket is refused before the 101', query: 'EIO=4&transport=abc' },
      { name: 'B4 an unknown sid over WebSocket is refused before the 101', query: 'EIO=4&transport=websocket&sid=AAAAAAAAAAAAAAAAAAAA' },
      { name: 'B19 a doubled EIO whose last is another is refused before the 101', query: 'EIO=4&transport=websocket&EIO=3' },
    ],
    async (gateway, { query }) => {
      await assert.rejects(rawWebSocket(gateway.port, `/socket.io/?${query}`), (refused) => {
        assert.ok(refused instanceof HandshakeRefused, String(refused));
        assert.equal(refused.status, 400);
        return true;
      });
    },
  );
});

describe('a long-polling session', () => {
  row(site, 'B6 the sid of a WebSocket session is a bad request for polling, and the WebSocket goes on', async (gateway, t) => {
    const ws = await joined(t, gateway);
    for (const [method, body] of [['GET'], ['POST', '2']]) {
      const answer = await request(gateway.port, method, `/socket.io/?${POLLING}&sid=${ws.sid}`, { body });
      assertEngineError(answer, 400, ENGINE_ERROR.request);
    }
    await alive(ws);
  });

  row(site, 'B6 the sid of an upgraded session is a bad request for polling, and the WebSocket goes on', async (gateway, t) => {
    const session = await pollingJoined(gateway);
    const ws = await rawWebSocket(gateway.port, `/socket.io/?EIO=4&transport=websocket&sid=${session.sid}`);
    t.after(() => ws.destroy());
    ws.send('2probe');
    assert.equal(await ws.nextText(), '3probe');
    ws.send('5');
    Object.assign(ws, { prefix: session.prefix });
    await alive(ws);
    assertEngineError(await session.get(), 400, ENGINE_ERROR.request);
    await alive(ws);
  });

  row(site, 'B7 two GETs at once end the session', async (gateway) => {
    const session = await pollingSession(gateway.port);
    const answers = await Promise.all([session.get(), session.get()]);
    answers.sort((a, b) => a.status - b.status);
    assert.deepEqual(
      answers.map(({ status, body }) => [status, status === 200 ? body : undefined]),
      [
        [200, '1'],
        [400, undefined],
      ],
    );
    await forgotten(session);
  });

  row(site, 'B8 two POSTs at once end the session', async (gateway) => {
    const session = await pollingSession(gateway.port);
    const first = await rawConnection(gateway.port);
    try {
      first.write(requestText(gateway.port, 'POST', session.path, { headers: { 'Content-Length': '100', Expect: '100-continue' }, body: '' }));
      await until(first.socket, 'data', () => first.raw().includes('100 Continue'), { what: '100 Continue to the first POST' });
      first.write('4');
      assert.equal((await session.post('40')).status, 400);
      await forgotten(session);
      const end = await first.response();
      assert.ok([0, 400].includes(end.status), `the first upload was answered ${end.status}`);
      await within(first.closed, 5_000, 'the end of the first upload');
    } finally {
      first.destroy();
    }
  });

  const nonsense = [
    { name: 'B9 a body that is no packet', body: 'abc' },
    { name: 'B9 an empty body', body: '' },
    { name: 'B9 a packet type that does not exist', body: '7' },
    { name: 'B13 100,000 separators', body: '\x1e'.repeat(100_000), seconds: 1.5, begin: pollingJoined },
    { name: 'B13 100,000 separators after a good packet', body: `3${'\x1e'.repeat(100_000)}`, seconds: 1.5, begin: pollingJoined },
    { name: 'B16 a byte that is not UTF-8', body: Buffer.from([0x34, 0xff, 0xfe]) },
    { name: 'B16 an encoded surrogate', body: Buffer.from([0x34, 0xed, 0xa0, 0x80]) },
    { name: 'B16 an overlong NUL', body: Buffer.from([0x34, 0xc0, 0x80]) },
    { name: 'B16 a cut-off character', body: Buffer.from([0x34, 0xe2, 0x82]) },
    { name: 'B10 an octet-stream', body: '40', type: 'application/octet-stream' },
  ];
  rows(
    site,
    nonsense.map((entry) => ({ ...entry, name: `${entry.name} is answered 400 and ends the session` })),
    async (gateway, { body, type, seconds = 5, begin = ({ port }) => pollingSession(port) }) => {
      const session = await begin(gateway);
      const answer = await costsAtMost(gateway.pid, seconds, () => session.post(body, { 'Content-Type': type ?? 'text/plain;charset=UTF-8' }));
      assert.equal(answer.status, 400);
      await forgotten(session);
    },
  );

  row(site, 'a compressed body is not inflated', (gateway) =>
    growsAtMost(gateway.pid, 4 << 20, async () => {
      for (const [encoding, compress] of [
        ['gzip', gzipSync],
        ['deflate', deflateSync],
        ['br', brotliCompressSync],
      ]) {
        const session = await pollingJoined(gateway);
        const bomb = compress(Buffer.alloc(50 << 20, '4'));
        const answer = await session.post(bomb, { 'Content-Type': 'text/plain;charset=UTF-8', 'Content-Encoding': encoding });
        assert.ok([400, 415].includes(answer.status), `${encoding} was answered ${answer.status}`);
      }
    }),
  );

  row(site, 'B10 a thousand octet-streams are all answered and leave no connection behind (CVE-2026-59725)', async (gateway) => {
    const files = openSockets(gateway.pid);
    for (let round = 0; round < 20; round += 1) {
      await Promise.all(
        Array.from({ length: 50 }, async () => {
          const session = await pollingSession(gateway.port);
          const answer = await session.post(Buffer.from([0, 1, 0xff, 0x34]), { 'Content-Type': 'application/octet-stream' });
          assert.equal(answer.status, 400);
        }),
      );
    }
    await eventually(() => openSockets(gateway.pid) <= files + 10, { what: 'the files of a thousand POSTs to be closed' });
  });

  row(site, 'B11 a body over the limit is answered 413 before it is sent, and the session stays', async (gateway) => {
    const session = await pollingSession(gateway.port);
    const head = requestText(gateway.port, 'POST', session.path, { headers: { 'Content-Length': String(MAX_PAYLOAD + 1) }, body: '' });
    const answer = await rawHttp(gateway.port, head);
    assert.equal(answer.status, 413);
    assert.equal((await session.post('40/nowhere,')).status, 200);
    assert.deepEqual((await session.get()).packets, ['44/nowhere,{"message":"Invalid namespace"}']);
  });

  row(site, 'B11 a body announced as 2^64 bytes is refused and not waited for', async (gateway) => {
    const session = await pollingSession(gateway.port);
    const head = requestText(gateway.port, 'POST', session.path, { headers: { 'Content-Length': '18446744073709551615' }, body: '' });
    const answer = await growsAtMost(gateway.pid, 4 << 20, () => rawHttp(gateway.port, head));
    assert.ok([400, 413, 431].includes(answer.status), `answered ${answer.status}`);
  });

  row(site, 'B12 a chunked body is answered 413 at the limit and the connection closed (CVE-2020-36048)', async (gateway) => {
    const session = await pollingSession(gateway.port);
    const connection = await rawConnection(gateway.port);
    try {
      await growsAtMost(gateway.pid, 6 << 20, async () => {
        connection.write(requestText(gateway.port, 'POST', session.path, { headers: { 'Transfer-Encoding': 'chunked' } }));
        const chunk = Buffer.concat([Buffer.from('10000\r\n'), Buffer.alloc(0x10000, '4'), Buffer.from('\r\n')]);
        await pour(connection.socket, Math.ceil(MAX_PAYLOAD / 0x10000), () => chunk);
        assert.equal((await connection.response()).status, 413);
        await within(connection.closed, 5_000, 'the end of the connection after 413');
      });
    } finally {
      connection.destroy();
    }
  });

  for (const [how, leave] of [
    ['closed', 'destroy'],
    ['reset', 'reset'],
  ]) {
    row(site, `B15 a parked GET whose connection is ${how} ends the session`, async (gateway) => {
      // Nothing tells that a GET is parked: one that the end of its connection has overtaken is tried again.
      for (let tries = 1; ; tries += 1) {
        const open = await meter(gateway, 'muster_connections', 'polling');
        const session = await pollingSession(gateway.port);
        await open.grows();
        const ended = await meter(gateway, 'muster_sessions_closed_total');
        const connection = await rawConnection(gateway.port);
        connection.write(requestText(gateway.port, 'GET', session.path));
        await new Promise((resolve) => {
          connection.socket.write('', resolve);
        });
        await request(gateway.port, 'GET', '/live');
        connection[leave]();
        try {
          await ended.grows(1, { timeout: 3_000 });
        } catch (error) {
          if (tries === 5) throw error;
          continue;
        }
        await forgotten(session);
        return;
      }
    });
  }

  row(site, 'B15 an upload whose connection is reset ends the session', async (gateway) => {
    const session = await pollingSession(gateway.port);
    const ended = await meter(gateway, 'muster_sessions_closed_total');
    const connection = await rawConnection(gateway.port);
    connection.write(requestText(gateway.port, 'POST', session.path, { headers: { 'Content-Length': '100', Expect: '100-continue' }, body: '' }));
    await until(connection.socket, 'data', () => connection.raw().includes('100 Continue'), { what: '100 Continue' });
    connection.write('4');
    connection.reset();
    await ended.grows();
    await forgotten(session);
  });

  row(site, 'a request with another EIO than the session is a bad request and the session goes on', async (gateway) => {
    const session = await pollingJoined(gateway);
    for (const version of ['EIO=3', 'EIO=5', 'x=1']) {
      for (const [method, body] of [['GET'], ['POST', '2']]) {
        const answer = await request(gateway.port, method, session.path.replace('EIO=4', version), { body });
        assertEngineError(answer, 400, ENGINE_ERROR.request);
      }
    }
    await assert.rejects(rawWebSocket(gateway.port, `/socket.io/?EIO=3&transport=websocket&sid=${session.sid}`), ({ status }) => status === 400);
    assert.equal((await session.post(`42${session.prefix}7["echo",1]`)).status, 200);
    assert.deepEqual((await session.get()).packets, [`43${session.prefix}7[1]`]);
  });

  row(site, 'B95 PUT with a session is answered 405 and the session goes on', async (gateway) => {
    const session = await pollingJoined(gateway);
    const answer = await request(gateway.port, 'PUT', session.path, { body: '2' });
    assert.equal(answer.status, 405);
    assert.equal((await session.post(`42${session.prefix}8["echo",2]`)).status, 200);
    assert.deepEqual((await session.get()).packets, [`43${session.prefix}8[2]`]);
  });

  row(site, 'ids are 20 characters of chance, and the engine does not tell its own to the application (CVE-2017-16031)', async (gateway, t) => {
    const sids = [];
    for (let round = 0; round < 20; round += 1) {
      sids.push(...(await Promise.all(Array.from({ length: 25 }, () => pollingSession(gateway.port)))).map(({ sid }) => sid));
    }
    for (const sid of sids) assert.match(sid, /^[\w-]{20}$/);
    // The first characters may name the node; no part after them may repeat or count.
    for (const part of [(sid) => sid.slice(4, 10), (sid) => sid.slice(10, 16), (sid) => sid.slice(14)]) {
      assert.equal(new Set(sids.map(part)).size, sids.length, 'a part of two session ids is the same');
    }
    const ws = await joined(t, gateway);
    assert.match(ws.id, /^[\w-]{20}$/);
    assert.notEqual(ws.id, ws.sid);
  });
});

const GOOD = 'https://good.example';

const FOREIGN_ORIGINS = [
  'https://evil.example',
  'https://good.example.evil.tld',
  'https://evil-good.example',
  'https://good.exampl',
  'http://good.example',
  'https://good.example:8443',
  'https://sub.good.example',
  'https://good.example@evil.tld',
  'good.example',
  'null',
  '*',
  'https://good.example https://evil.example',
  'file://',
];

const PREFLIGHT = { 'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'content-type' };

/** The three doors: poll, preflight, WebSocket. Each answers `{status, headers, body}`. */
const DOORS = {
  polling: (gateway, headers) => request(gateway.port, 'GET', `/socket.io/?${POLLING}`, { headers }),
  preflight: (gateway, headers) => request(gateway.port, 'OPTIONS', `/socket.io/?${POLLING}`, { headers: { ...headers, ...PREFLIGHT } }),
  websocket: async (gateway, headers) => {
    try {
      const ws = await rawWebSocket(gateway.port, undefined, { headers });
      ws.destroy();
      return ws.response;
    } catch (error) {
      if (error instanceof HandshakeRefused) return error;
      throw error;
    }
  },
};

const OPEN_DOOR = { polling: 200, preflight: 204, websocket: 101 };

describe('an Origin', () => {
  const listed = underAttack({ env: { CORS_ORIGINS: `${GOOD},https://other.example:8443` } });
  const anybody = underAttack({ env: { CORS_ORIGINS: '*' } });

  for (const [door, knock] of Object.entries(DOORS)) {
    const refused = async (gateway, origin) => {
      const answer = await knock(gateway, { Origin: origin });
      assert.equal(answer.status, 403, `Origin: ${origin}`);
      if (door !== 'websocket') assert.deepEqual(parse(answer.body), ENGINE_ERROR.forbidden, `Origin: ${origin}`);
      assertNoCors(answer);
    };
    const passes = async (gateway, headers, cors) => {
      const answer = await knock(gateway, headers);
      assert.equal(answer.status, OPEN_DOOR[door]);
      const seen = Object.fromEntries(Object.entries(answer.headers).filter(([name]) => /^access-control-allow-(origin|credentials)$/.test(name)));
      if (door === 'websocket') return;
      assert.deepEqual(seen, cors);
      if (cors['access-control-allow-credentials']) assert.match(answer.headers.vary ?? '', /\borigin\b/i);
    };

    row(listed, `B18 that is not on the list is refused (${door})`, async (gateway) => {
      for (const origin of FOREIGN_ORIGINS) await refused(gateway, origin);
    });
    row(listed, `B18 of another port of the own host is refused (${door})`, async (gateway) => {
      for (const origin of [
        'http://127.0.0.1',
        `http://127.0.0.1:${gateway.port}.evil.tld`,
        `http://localhost:${gateway.port}`,
        `http://127.0.0.1:${gateway.port}0`,
      ]) {
        await refused(gateway, origin);
      }
    });
    row(site, `B18 is refused where no list is set, and no CORS header is sent (${door}, CVE-2020-28481)`, async (gateway) => {
      for (const origin of [GOOD, 'null']) await refused(gateway, origin);
    });
    row(listed, `B18 given twice does not pass (${door})`, async (gateway) => {
      const answer = await knock(gateway, { Origin: GOOD, origin: 'https://evil.example' });
      assert.ok([400, 403].includes(answer.status), `answered ${answer.status}`);
      assertNoCors(answer);
    });
    row(listed, `B18 on the list passes with credentials (${door})`, (gateway) =>
      passes(
        gateway,
        { Origin: GOOD },
        {
          'access-control-allow-origin': GOOD,
          'access-control-allow-credentials': 'true',
        },
      ),
    );
    row(anybody, `B18 passes without credentials where the list is * (${door})`, async (gateway) => {
      const answer = await knock(gateway, { Origin: 'https://evil.example' });
      assert.equal(answer.status, OPEN_DOOR[door]);
      assert.equal(answer.headers['access-control-allow-credentials'], undefined);
      if (door !== 'websocket') assert.ok(['*', 'https://evil.example'].includes(answer.headers['access-control-allow-origin']));
    });
    if (door !== 'preflight') {
      row(site, `B18 equal to Host passes, as does none (${door})`, async (gateway) => {
        for (const headers of [{}, { Origin: `http://127.0.0.1:${gateway.port}` }]) {
          const answer = await knock(gateway, headers);
          assert.equal(answer.status, OPEN_DOOR[door]);
        }
      });
    }
  }

  row(listed, 'B18 that is not on the list is refused with a session too', async (gateway) => {
    const session = await pollingSession(gateway.port);
    const answer = await session.post('40', { Origin: 'https://evil.example' });
    assert.equal(answer.status, 403);
    assertNoCors(answer);
    assert.equal((await session.post('40/nowhere,')).status, 200, 'the session must not suffer');
  });

  row(site, 'B17 with control characters is refused', async (gateway) => {
    for (const origin of ['http://a\x01b', 'http://a\x7fb', 'http://a\x1bb', 'http://a\x00b']) {
      const answer = await request(gateway.port, 'GET', `/socket.io/?${POLLING}`, { headers: { Origin: origin } });
      assert.equal(answer.status, 400, JSON.stringify(origin));
      if (answer.body !== '') assert.deepEqual(parse(answer.body), ENGINE_ERROR.request);
      assertNoCors(answer);
    }
  });

  row(site, 'B17 of 10 KiB is refused, of 17 KiB is too large a head', async (gateway) => {
    const ask10 = await request(gateway.port, 'GET', `/socket.io/?${POLLING}`, { headers: { Origin: `http://${'a'.repeat(10 << 10)}` } });
    assert.ok([403, 431].includes(ask10.status), `answered ${ask10.status}`);
    const ask17 = await request(gateway.port, 'GET', `/socket.io/?${POLLING}`, { headers: { Origin: `http://${'a'.repeat(17 << 10)}` } });
    assert.equal(ask17.status, 431);
  });
});

describe('crafted queries (CVE-2022-21676, CVE-2023-31125)', () => {
  const refused = [
    '?'.repeat(50),
    '&&&&',
    '=&=&=',
    'EIO=4&transport=polling&sid=%u0041',
    'EIO=4&transport=polling&sid=1%00',
    'EIO=4;transport=polling',
    `EIO=4&transport=polling&${'a&'.repeat(2000)}sid=x`,
    'EIO=%34&transport=%70olling&sid=%2e%2e',
  ];
  rows(
    site,
    refused.map((query) => ({ name: `?${query.slice(0, 60)} is refused`, query })),
    async (gateway, { query }) => {
      for (const [method, body] of [['GET'], ['POST', '40']]) {
        const answer = await request(gateway.port, method, `/socket.io/?${query}`, { body });
        assert.equal(answer.status, 400);
        assert.ok(Number.isInteger(parse(answer.body)?.code), `the body is ${answer.body}`);
      }
    },
  );

  const foreign = ['sid[]=1', 'sid[__proto__]=x', '__proto__=1', 'constructor[prototype][x]=1', 'SID=x', 'b64=1', 't=%00'];
  rows(
    site,
    foreign.map((query) => ({ name: `a handshake with the unknown key ${JSON.stringify(query)} is an ordinary one`, query })),
    async (gateway, { query }) => {
      const session = await pollingSession(gateway.port, { query: `&${query}` });
      assert.deepEqual(Object.keys(session.open), ['sid', 'upgrades', 'pingInterval', 'pingTimeout', 'maxPayload']);
      assert.equal((await session.post('40/nowhere,')).status, 200);
      assert.deepEqual((await session.get()).packets, ['44/nowhere,{"message":"Invalid namespace"}']);
    },
  );
});
