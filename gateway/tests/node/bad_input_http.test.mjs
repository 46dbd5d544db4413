// Bad HTTP on both listeners, the login, and what strangers can write into logs and metrics: rows B83 to
// B98 of the bad-input list. Requests are written byte by byte where a client would not send them.

import assert from 'node:assert/strict';
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { once as onceEvent } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { describe } from 'node:test';

import { runGateway, temporaryDirectory } from './support/gateway.mjs';
import {
  ask,
  engine,
  fresh,
  joined,
  meter,
  openSockets,
  parse,
  pollingJoined,
  refusal,
  requestFrom,
  responses,
  row,
  rows,
  stock,
  underAttack,
  untilServerCloses,
} from './support/hostile.mjs';
import { pollingSession, rawConnection, rawHttp, request, requestText } from './support/raw.mjs';
import { eventually, within } from './support/wait.mjs';

const LOGIN = '/api/v1/auth/login';
const site = underAttack();

const smuggled = 'GET /live HTTP/1.1\r\nHost: smuggled\r\n\r\n';

/** A request with the given header lines, in this order, and nothing more. */
const lines = (start, ...fields) => `${[start, 'Host: a', ...fields].join('\r\n')}\r\n\r\n`;
const post = (...fields) => lines(`POST ${LOGIN} HTTP/1.1`, 'Content-Type: application/json', ...fields);

/** An error of the REST API: its status, and a body that holds nothing but the error. */
function assertRestError(answer, status, error) {
  const body = parse(answer.body);
  assert.equal(answer.status, status, `answered ${answer.status} ${answer.body}`);
  assert.match(answer.headers['content-type'] ?? '', /^application\/json/);
  refusal(body);
  if (error) assert.equal(body.error, error);
  assert.doesNotMatch(body.error, /sqlite|sql|panick|\.rs\b|line \d+ column|stack/i, 'the error tells of the inside');
}

describe('a request that may be two', () => {
  const chunked = '0\r\n\r\n';
  rows(
    site,
    [
      { name: 'B83 both Content-Length and Transfer-Encoding', bytes: `${post('Content-Length: 6', 'Transfer-Encoding: chunked')}${chunked}` },
      { name: 'B83 both, the other way round', bytes: `${post('Transfer-Encoding: chunked', 'Content-Length: 6')}${chunked}` },
      {
        name: 'B83 both, to the engine',
        bytes: `${lines('POST /socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA HTTP/1.1', 'Content-Length: 6', 'Transfer-Encoding: chunked')}${chunked}`,
      },
      {
        name: 'B83 both with a chunked body that Content-Length cuts',
        bytes: `${post('Content-Length: 4', 'Transfer-Encoding: chunked')}2e\r\n{"email":"a@b.c","password":"xxxxxxxxxxxxxxxx"}\r\n${chunked}`,
      },
    ].map((entry) => ({ ...entry, name: `${entry.name} is answered once and the connection closed` })),
    async (gateway, { bytes }) => {
      const received = await untilServerCloses(gateway.port, bytes + smuggled);
      assert.ok(responses(received) <= 1, received.toString('latin1'));
    },
  );

  rows(
    site,
    [
      ['B83 Transfer-Encoding chunked, identity', post('Transfer-Encoding: chunked, identity') + chunked],
      ['B83 Transfer-Encoding identity', post('Transfer-Encoding: identity') + chunked],
      ['B83 Transfer-Encoding xchunked', post('Transfer-Encoding: xchunked') + chunked],
      ['B83 Transfer-Encoding on HTTP/1.0', post('Transfer-Encoding: chunked').replace('HTTP/1.1', 'HTTP/1.0') + chunked],
      ['B83 two Content-Lengths that differ', `${post('Content-Length: 2', 'Content-Length: 3')}{} `],
      ['B83 a list of Content-Lengths that differ', `${post('Content-Length: 2, 3')}{} `],
      ...['+2', '-2', '0x2', '2 2', '2;', 'two', '', '99999999999999999999', '2.0', '\u00b2'].map((length) => [
        `B83 Content-Length ${JSON.stringify(length)}`,
        `${post(`Content-Length: ${length}`)}{}`,
      ]),
    ].map(([name, bytes]) => ({ name: `${name} is answered 400 and the connection closed`, bytes })),
    async (gateway, { bytes }) => {
      const received = await untilServerCloses(gateway.port, Buffer.from(bytes + smuggled, 'latin1'));
      assert.match(received.toString('latin1'), /^HTTP\/1\.[01] 400 /);
      assert.equal(responses(received), 1);
    },
  );

  rows(
    site,
    ['-1', '+2', '0x2', '2 2', ' 2', 'x', '', 'fffffffffffffffff', '10000000000000000', '2\n', '2\r', '2\r\r\n'].map((size) => ({
      name: `B83 a chunk of size ${JSON.stringify(size)} is the end of the connection`,
      size,
    })),
    async (gateway, { size }) => {
      const received = await untilServerCloses(gateway.port, `${post('Transfer-Encoding: chunked')}${size}\r\n{}\r\n0\r\n\r\n${smuggled}`, {
        timeout: 20_000,
      });
      assert.match(received.toString('latin1'), /^(HTTP\/1\.1 400 |$)/);
      assert.ok(responses(received) <= 1);
    },
  );

  row(site, 'requests in one segment are answered in their order', async (gateway) => {
    const connection = await rawConnection(gateway.port);
    try {
      connection.write(
        Buffer.concat([
          requestText(gateway.port, 'GET', '/live'),
          requestText(gateway.port, 'GET', '/nowhere'),
          requestText(gateway.port, 'GET', '/live'),
        ]),
      );
      const answers = [await connection.response(), await connection.response(), await connection.response()];
      assert.deepEqual(
        answers.map(({ status }) => status),
        [200, 404, 200],
      );
    } finally {
      connection.destroy();
    }
  });
});

describe('a head', () => {
  const many = (count) => Array.from({ length: count }, (_, at) => `X-${at}: y`);
  const live = 'GET /live HTTP/1.1';
  rows(
    site,
    [
      ['B84 with a folded header', 400, lines(live, 'X-A: b\r\n c')],
      ['B84 with a header folded by a tab', 400, lines(live, 'X-A: b\r\n\tc')],
      ['B84 with a blank before the colon', 400, lines(live, 'X-A : b')],
      ['B84 with a blank before the colon of Content-Length', 400, lines(live, 'Content-Length : 5')],
      ['B84 of bare line feeds', 400, `${live}\nHost: a\n\n`],
      ['B84 with one bare line feed', 400, `${live}\r\nHost: a\nX-A: b\r\n\r\n`],
      ['B84 with a bare carriage return in a value', 400, lines(live, 'X-A: b\rc')],
      ['B84 with NUL in a value', 400, lines(live, 'X-A: b\0c')],
      ['B84 with NUL in a name', 400, lines(live, 'X\0A: b')],
      ['B84 with an escape in a value', 400, lines(live, 'X-A: \x1b[31m')],
      ['B84 with a header without a colon', 400, lines(live, 'X-A')],
      ['B84 with a header without a name', 400, lines(live, ': b')],
      ['B84 with a blank before the first header', 400, `${live}\r\n Host: a\r\n\r\n`],
      ['B84 with 65 headers', 431, lines(live, ...many(64))],
      ['B84 with 1,000 headers', 431, lines(live, ...many(1000))],
      ['B84 of 17 KiB', 431, lines(live, `X-A: ${'b'.repeat(17 << 10)}`)],
      ['B84 of 17 KiB in 60 headers', 431, lines(live, ...Array.from({ length: 60 }, (_, at) => `X-${at}: ${'b'.repeat(300)}`))],
      ['B97 with a User-Agent of 1 MiB', 431, lines(live, `User-Agent: ${'A'.repeat(1 << 20)}`)],
      ['with a path of 9 KiB', 414, lines(`GET /${'a'.repeat(9 << 10)} HTTP/1.1`)],
      ['with a query of 9 KiB', 414, lines(`GET /live?${'a'.repeat(9 << 10)} HTTP/1.1`)],
      ['with a path of 100 KiB', [414, 431], lines(`GET /${'a'.repeat(100 << 10)} HTTP/1.1`)],
      ['B85 without Host', 400, `${live}\r\n\r\n`],
      ['B85 with two Hosts', 400, lines(live, 'Host: b')],
      ['B85 with two equal Hosts', 400, lines(live, 'Host: a')],
      ['of HTTP/0.9', 400, 'GET /live\r\n\r\n'],
      ['of HTTP/9.9', [400, 505], lines('GET /live HTTP/9.9')],
      ['with two blanks', 400, lines('GET  /live HTTP/1.1')],
      ['without a path', 400, lines('GET HTTP/1.1')],
      ['with NUL in its path', 400, lines('GET /li\0ve HTTP/1.1')],
      ['with a method in brackets', 400, lines('[GET] /live HTTP/1.1')],
      ['of TLS', 400, Buffer.from('160301020001000 1fc0303'.replace(' ', ''), 'hex').toString('latin1') + '\r\n\r\n'],
      ['of SSH', 400, 'SSH-2.0-OpenSSH_9.2\r\n\r\n'],
      ['B86 of HTTP/2', [400, 0], 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ].map(([name, status, bytes]) => ({
      name: `${name} is answered ${[status].flat().filter(Boolean).join(' or ')} and the connection closed`,
      status,
      bytes,
    })),
    async (gateway, { status, bytes }) => {
      const received = await untilServerCloses(gateway.port, Buffer.from(bytes + smuggled, 'latin1'), { timeout: 12_000 });
      const text = received.toString('latin1');
      const answered = Number(/^HTTP\/1\.[01] (\d{3}) /.exec(text)?.[1] ?? 0);
      assert.ok([status].flat().includes(answered), `answered ${JSON.stringify(text.slice(0, 200))}`);
      assert.equal(responses(received), answered === 0 ? 0 : 1);
    },
  );

  rows(
    site,
    [
      ['B84 with 64 headers', lines(live, ...many(63))],
      ['B84 of 15 KiB', lines(live, `X-A: ${'b'.repeat(15 << 10)}`)],
      ['with a query of 7 KiB', lines(`GET /live?${'a'.repeat(7 << 10)} HTTP/1.1`)],
      ['B86 with Upgrade: h2c', lines(live, 'Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA')],
      ['B86 with Upgrade: TLS/1.0', lines(live, 'Connection: Upgrade', 'Upgrade: TLS/1.0')],
      ['B96 with 1,000 encodings', lines(live, `Accept-Encoding: ${Array.from({ length: 1000 }, (_, at) => `x-${at}`).join(',')}`)],
      ['B96 with a Range', lines(live, 'Range: bytes=0-0,5-,-1', 'If-Range: "x"')],
      ['with odd bytes above 0x7f', lines(live, 'X-A: \xff\xfe\x80')],
      ['with Expect: 100-continue and no body', lines(live, 'Expect: 100-continue')],
      ['of HTTP/1.0', lines('GET /live HTTP/1.0')],
      ['after empty lines', `\r\n\r\n${lines(live)}`],
    ].map(([name, bytes]) => ({ name: `${name} is an ordinary request`, bytes })),
    async (gateway, { bytes }) => {
      assert.equal((await rawHttp(gateway.port, Buffer.from(bytes, 'latin1'))).status, 200);
    },
  );

  row(site, 'B96 with a Range is answered the whole client script', async (gateway) => {
    const answer = await request(gateway.port, 'GET', '/socket.io/socket.io.js', { headers: { Range: 'bytes=0-9' } });
    assert.equal(answer.status, 200);
    assert.ok(answer.bytes.length > 10_000);
  });

  rows(
    site,
    [
      ['FOO', '/live'],
      ['TRACE', '/live'],
      ['DELETE', '/live'],
      ['PATCH', '/health'],
      ['POST', '/ready'],
      ['get', '/live'],
      ['GET', LOGIN],
      ['DELETE', LOGIN],
      ['POST', '/socket.io/socket.io.js'],
    ].map(([method, path]) => ({ name: `B95 with the method ${method} for ${path} is answered 405 with Allow`, method, path })),
    async (gateway, { method, path }) => {
      const answer = await request(gateway.port, method, path);
      assert.equal(answer.status, 405);
      assert.match(answer.headers.allow ?? '', path === LOGIN ? /\bPOST\b/ : /\bGET\b/);
      assert.ok(!answer.body.includes(`${method} ${path}`), 'the request is echoed');
    },
  );

  row(site, 'B95 with CONNECT opens no tunnel', async (gateway) => {
    const received = await untilServerCloses(
      gateway.port,
      `CONNECT 127.0.0.1:${gateway.internalPort} HTTP/1.1\r\nHost: 127.0.0.1:${gateway.internalPort}\r\nConnection: close\r\n\r\n`,
    );
    assert.match(received.toString('latin1'), /^HTTP\/1\.1 (400|404|405) /);
  });
});

describe('the inside', () => {
  const inner = ['/internal/rooms/bystander/count?namespace=/relay', '/internal/rooms/bystander/active?namespace=/relay', '/metrics'];
  const disguises = inner.flatMap((path) => {
    const rest = path.slice(1);
    return [
      path,
      `http://x${path}`,
      `http://127.0.0.1:9090${path}`,
      `/${path}`,
      `/.${path}`,
      `/..${path}`,
      `/socket.io/..${path}`,
      `/socket.io/%2e%2e${path}`,
      `/api/v1/..${path}`,
      `/live/..${path}`,
      `/%${rest.charCodeAt(0).toString(16)}${rest.slice(1)}`,
      `/${rest[0].toUpperCase()}${rest.slice(1)}`,
      `/${rest.toUpperCase()}`,
      `/..;${path}`,
      `/.;${path}`,
      `\\${rest}`,
      `/${rest.replace('?', '%3f')}`,
      `/socket.io/socket.io.js/../..${path}`,
      `/%2f${rest}`,
      `/live%00${path}`,
      `/live;${path}`,
    ];
  });
  rows(
    site,
    [...new Set(disguises)].map((path) => ({ name: `B85 B88 is not reached through ${path}`, path })),
    async (gateway, { path }) => {
      const answer = await rawHttp(
        gateway.port,
        Buffer.from(`GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${gateway.internalPort}\r\nX-Internal-Request: true\r\n\r\n`),
      );
      assert.ok([400, 404].includes(answer.status), `answered ${answer.status}`);
      assert.ok(!/muster_|"count"|"members"/.test(answer.body), answer.body);
    },
  );

  row(site, 'B88 asked for on the public port is answered 404 and counted', async (gateway) => {
    const counted = await meter(gateway, 'muster_bad_input_total');
    const internal = { 'X-Internal-Request': 'true' };
    for (const headers of [{}, internal, { ...internal, Authorization: `Bearer ${gateway.token()}` }]) {
      for (const method of ['GET', 'POST', 'PUT']) {
        const answer = await request(gateway.port, method, '/internal/rooms/a/count', { headers, body: method === 'GET' ? undefined : '{}' });
        assertRestError(answer, 404);
      }
    }
    await counted.grows(9);
  });

  row(site, 'is no public path: health, metrics and internal by any method', async (gateway) => {
    for (const path of ['/metrics', '/metrics/', '/debug', '/config', '/internal', '/internal/', '/.env', '/.git/config', '/gateway.db']) {
      assert.equal((await request(gateway.port, 'GET', path)).status, 404, path);
    }
  });

  const paths = ['/internal/rooms/bystander/count?namespace=/relay', '/internal/rooms/bystander/active?namespace=/relay'];
  row(site, 'B89 is closed without its header', async (gateway) => {
    for (const path of paths) {
      for (const headers of [
        {},
        { 'X-Internal-Request': 'false' },
        { 'X-Internal-Request': '' },
        { 'X-Internal-Request': '1' },
        { 'X-Internal-Request': 'true, true' },
        { 'X-Internal': 'true' },
        { Authorization: `Bearer ${gateway.token()}` },
      ]) {
        assertRestError(await request(gateway.internalPort, 'GET', path, { headers }), 403);
      }
      assert.equal((await request(gateway.internalPort, 'GET', path, { headers: { 'X-Internal-Request': 'true' } })).status, 200);
    }
  });

  const INTERNAL_TOKEN = 'an-internal-token-of-the-tests';
  const guarded = underAttack({ env: { INTERNAL_TOKEN } });
  row(guarded, 'B89 is closed without its token where one is set', async (gateway) => {
    const wrong = [
      undefined,
      '',
      'Bearer',
      'Bearer ',
      `Bearer ${INTERNAL_TOKEN}x`,
      `Bearer ${INTERNAL_TOKEN.slice(0, -1)}`,
      `Bearer ${INTERNAL_TOKEN.toUpperCase()}`,
      `Basic ${INTERNAL_TOKEN}`,
      INTERNAL_TOKEN,
      `Bearer ${'x'.repeat(8_000)}`,
      `Bearer ${gateway.token()}`,
      `Bearer ${INTERNAL_TOKEN}, Bearer x`,
    ];
    for (const path of paths) {
      for (const credentials of wrong) {
        const headers = { 'X-Internal-Request': 'true', Authorization: credentials ?? null };
        assertRestError(await request(gateway.internalPort, 'GET', path, { headers }), 403);
      }
      const right = { Authorization: `Bearer ${INTERNAL_TOKEN}` };
      assertRestError(await request(gateway.internalPort, 'GET', path, { headers: right }), 403);
      assert.equal((await request(gateway.internalPort, 'GET', path, { headers: { ...right, 'X-Internal-Request': 'true' } })).status, 200);
    }
    assert.equal((await request(gateway.internalPort, 'GET', '/live')).status, 200);
  });

  rows(
    site,
    [
      ['a room with a line break', '/internal/rooms/a%0Ab/count', 400],
      ['a room with NUL', '/internal/rooms/a%00/count', 400],
      ['a room that is not UTF-8', '/internal/rooms/%ff/count', 400],
      ['a room of 256 bytes', `/internal/rooms/${'n'.repeat(256)}/count`, 400],
      ['an unknown namespace', '/internal/rooms/a/count?namespace=/nowhere', 404],
      ['an unknown path', '/internal/nothing', 404],
      ['no room', '/internal/rooms//count', [400, 404]],
      ['a namespace given twice', '/internal/rooms/a/count?namespace=/&namespace=/relay', [400, 404]],
    ].map(([what, path, status]) => ({ name: `B85 B90 asked about ${what} answers ${[status].flat().join(' or ')}`, path, status })),
    async (gateway, { path, status }) => {
      const answer = await request(gateway.internalPort, 'GET', path, { headers: { 'X-Internal-Request': 'true' } });
      assertRestError(answer, [status].flat().find((one) => one === answer.status) ?? [status].flat()[0]);
    },
  );

  row(site, 'B83 B84 B85 holds the same rules on its own listener', async (gateway) => {
    for (const [bytes, status] of [
      [lines('GET /live HTTP/1.1', `X-A: ${'b'.repeat(17 << 10)}`), 431],
      [lines('GET /live HTTP/1.1', 'X-A : b'), 400],
      [lines('GET /live HTTP/1.1', 'Host: b'), 400],
      [lines('POST /live HTTP/1.1', 'Content-Length: 2', 'Content-Length: 3'), 400],
    ]) {
      const received = await untilServerCloses(gateway.internalPort, bytes + smuggled);
      assert.match(received.toString('latin1'), new RegExp(`^HTTP/1\\.1 ${status} `));
      assert.equal(responses(received), 1);
    }
  });

  row(site, 'serves no engine', async (gateway) => {
    const answer = await request(gateway.internalPort, 'GET', '/socket.io/?EIO=4&transport=polling');
    assert.equal(answer.status, 404);
  });
});

describe('the login', () => {
  const EMAIL = 'known@example.com';
  const PASSWORD = 'correct horse battery staple';
  const open = underAttack({
    env: async () => {
      const DATABASE_URL = `sqlite:${join(temporaryDirectory(), 'users.db')}`;
      const added = await runGateway(['user', 'add', '--email', EMAIL, '--name', 'Known', '--role', 'citizen'], {
        env: { DATABASE_URL },
        input: PASSWORD,
      });
      assert.equal(added.code, 0, added.stderr);
      return { DATABASE_URL };
    },
  });
  let last = 1;
  /** Each comes from an address of its own: five failures are allowed to one. */
  const login = (gateway, body, { headers = { 'Content-Type': 'application/json' }, from = `127.0.1.${(last += 1)}` } = {}) =>
    requestFrom(from, gateway.port, LOGIN, { method: 'POST', headers, body });
  const json = (value) => JSON.stringify(value);
  const good = json({ email: EMAIL, password: PASSWORD });

  row(open, 'lets the right password in, whatever the letter case of the type', async (gateway) => {
    for (const type of ['application/json', 'application/json; charset=utf-8', 'Application/JSON']) {
      const answer = await login(gateway, good, { headers: { 'Content-Type': type } });
      assert.equal(answer.status, 200, answer.body);
      const { success, token, user } = parse(answer.body);
      assert.deepEqual([success, typeof token, user.email, user.name, user.role, user.avatar], [true, 'string', EMAIL, 'Known', 'citizen', null]);
      assert.ok(!answer.body.includes('argon2'));
    }
  });

  rows(
    open,
    [
      ['B94 nothing', '', 400],
      ['B94 a byte order mark', `\ufeff${good}`, 400],
      ['B94 trailing garbage', `${good}x`, 400],
      ['B94 a second object', `${good}${good}`, 400],
      ['B94 an e-mail given twice', `{"email":"${EMAIL}","email":"b@example.com","password":"x"}`, 400],
      ['B94 a password given twice', `{"email":"${EMAIL}","password":"x","password":"${PASSWORD}"}`, 400],
      ['B94 a depth of 200', `{"email":"${EMAIL}","password":"x","a":${'['.repeat(200)}${']'.repeat(200)}}`, 400],
      ['B94 a depth of 16,000', '['.repeat(16_000), 400],
      ['B94 half an object', '{"email":', 400],
      ['B94 an array', '[]', 400],
      ['B94 null', 'null', 400],
      ['B94 a string', '"x"', 400],
      ['B94 an empty object', '{}', 400],
      ['B94 a number for an e-mail', json({ email: 5, password: 'x' }), 400],
      ['B94 an object for an e-mail', json({ email: { $ne: null }, password: 'x' }), 400],
      ['B94 an array for a password', json({ email: EMAIL, password: ['x'] }), 400],
      ['B94 null for a password', json({ email: EMAIL, password: null }), 400],
      ['B94 no password', json({ email: EMAIL }), 400],
      ['B94 bytes that are not UTF-8', Buffer.concat([Buffer.from('{"email":"'), Buffer.from([0xff]), Buffer.from('","password":"x"}')]), 400],
      ['B94 a form', 'email=a&password=b', 415, 'application/x-www-form-urlencoded'],
      ['B94 JSON under text/plain', good, 415, 'text/plain'],
      ['B94 JSON under no type', good, 415, null],
      ['B94 JSON under another type', good, 415, 'application/jsonx'],
    ].map(([what, body, status, type]) => ({ name: `${what} is answered ${status}`, body, status, type })),
    async (gateway, { body, status, type = 'application/json' }) => {
      const answer = await login(gateway, body, {
        headers: { ...(type === null ? {} : { 'Content-Type': type }), 'Content-Length': Buffer.byteLength(body) },
      });
      assertRestError(answer, status);
    },
  );

  row(open, 'B12 a body over its limit is answered 413', async (gateway) => {
    const body = good.padEnd(70_000);
    assertRestError(await request(gateway.port, 'POST', LOGIN, { headers: { 'Content-Type': 'application/json' }, body }), 413);
  });

  rows(
    open,
    [
      ['a wrong password', { email: EMAIL, password: 'wrong' }],
      ['an unknown e-mail', { email: 'nobody@example.com', password: PASSWORD }],
      ['B93 SQL for an e-mail', { email: "' OR '1'='1' --", password: 'x' }],
      ['B93 a wildcard for an e-mail', { email: '%@example.com', password: PASSWORD }],
      ['B93 SQL for a password', { email: `${EMAIL}' --`, password: "' OR '1'='1" }],
      ['B97 line ends in an e-mail', { email: `${EMAIL}\r\nBcc: x`, password: 'x' }],
      ['B97 escapes in an e-mail', { email: '\u001b[2J\u001b]0;x\u0007', password: 'x' }],
      ['NUL after the e-mail', { email: `${EMAIL}\0`, password: PASSWORD }],
      ['NUL after the password', { email: EMAIL, password: `${PASSWORD}\0` }],
      ['an e-mail of 100 KiB', { email: 'e'.repeat(100 << 10), password: 'x' }],
      ['a password of 100 KiB', { email: EMAIL, password: 'p'.repeat(100 << 10) }],
      ['an empty password', { email: EMAIL, password: '' }],
      ['an empty e-mail', { email: '', password: '' }],
    ].map(([what, body]) => ({ name: `${what} lets nobody in`, body })),
    async (gateway, { body }) => {
      const answer = await login(gateway, json(body));
      if ([400, 413].includes(answer.status)) assertRestError(answer, answer.status);
      else assertRestError(answer, 401, 'Invalid credentials');
    },
  );

  row(open, 'answers a wrong password and an unknown e-mail in the same words and about the same time', async (gateway) => {
    const times = { known: [], unknown: [] };
    const bodies = [];
    for (let at = 0; at < 4; at += 1) {
      const added = `timing-${at}@example.com`;
      const made = await runGateway(['user', 'add', '--email', added, '--name', 'T', '--role', 'citizen'], {
        env: { DATABASE_URL: gateway.databaseUrl },
        input: PASSWORD,
      });
      assert.equal(made.code, 0, made.stderr);
      for (const [kind, email] of [
        ['known', added],
        ['unknown', fresh('nobody')],
      ]) {
        const begun = performance.now();
        const answer = await login(gateway, json({ email, password: 'wrong' }));
        times[kind].push(performance.now() - begun);
        bodies.push(`${answer.status} ${answer.body}`);
      }
    }
    assert.equal(new Set(bodies).size, 1, bodies.join('\n'));
    const [known, unknown] = [Math.min(...times.known), Math.min(...times.unknown)];
    assert.ok(Math.max(known, unknown) <= 3 * Math.min(known, unknown), `${known} ms for a known e-mail, ${unknown} ms for an unknown one`);
  });

  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const keyed = underAttack({
    env: () => {
      const path = join(temporaryDirectory(), 'key.pem');
      writeFileSync(path, publicKey.export({ type: 'spki', format: 'pem' }));
      return { JWT_SECRET: null, JWT_PUBLIC_KEY: path };
    },
    token: (claims) => {
      const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
      const text = `${part({ alg: 'EdDSA' })}.${part({ sub: 'u1', exp: Math.floor(Date.now() / 1000) + 3600, ...claims })}`;
      return `${text}.${sign(null, Buffer.from(text), privateKey).toString('base64url')}`;
    },
  });
  row(keyed, 'is off beside a public key, with which nothing can be signed', async (gateway) => {
    assertRestError(await login(gateway, good), 404);
  });
});

describe('logs', () => {
  const logging = underAttack({ env: { LOG: 'debug' } });
  row(logging, 'B97 hold what strangers write as one escaped, cut line', async (gateway, t) => {
    const nasty = 'x\r\n{"level":"ERROR","message":"forged"}\u001b[31m\u202e\u0007\u2028';
    const long = 'Q'.repeat(2_000);
    await request(gateway.port, 'GET', '/live', { headers: { 'User-Agent': long } });
    for (const path of ['/%0d%0a%7b%22level%22%3a%22ERROR%22%7d', '/%1b%5b31m', `/${long}`, `/live?${long}`])
      await request(gateway.port, 'GET', path);
    await request(gateway.port, 'GET', `/socket.io/?EIO=4&transport=${long}`);
    await requestFrom('127.0.0.1', gateway.port, LOGIN, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ email: `${nasty}${long}`, password: 'x' }),
    });
    const ws = await joined(t, gateway, { claims: { name: nasty, email: nasty } });
    for (const event of [nasty, long]) await ask(ws, event, 1);
    await ask(ws, 'join', { room: nasty });
    ws.send(`40/${long.slice(0, 100)}\u001b[31m,`);
    await ws.nextText();
    const chat = await stock(t, gateway, '/', { name: nasty, email: nasty });
    await chat.emitWithAck('join_room', 'logged');
    await chat.emitWithAck('send_message', { roomId: 'logged', content: nasty });
    for (const payload of [`42/relay,["${nasty}`, `4${nasty}`]) {
      const bad = await joined(t, gateway, { claims: { name: nasty } });
      bad.send(payload);
      await bad.untilClosed();
    }
    const written = gateway.output.stderr;
    const unparsed = gateway.logs.filter((entry) => entry.unparsed !== undefined);
    assert.deepEqual(unparsed, [], 'a line of the log is no JSON object');
    assert.doesNotMatch(written, /[\u0000-\u0009\u000b-\u001f\u007f\u0080-\u009f]/, 'a control character is in the log');
    assert.equal(
      gateway.logs.find(({ message }) => message === 'forged'),
      undefined,
    );
    assert.ok(!written.includes('Q'.repeat(300)), 'a value of a stranger is not cut');
  });
});

describe('metrics', () => {
  const counting = underAttack({ env: { EVENTS_PER_SECOND: '0', ROOMS_PER_SOCKET: '0' } });
  row(
    counting,
    'B98 have no more lines, and no word of strangers, after 20,000 requests with words of chance',
    async (gateway, t) => {
      const word = () => `zq9x${randomBytes(8).toString('hex')}`;
      const flood = async () => {
        const socket = connect({ port: gateway.port, host: '127.0.0.1', noDelay: true });
        await onceEvent(socket, 'connect');
        let seen = 0;
        let rest = '';
        let wake = () => {};
        socket.on('data', (bytes) => {
          const parts = (rest + bytes.toString('latin1')).split('HTTP/1.1 ');
          seen += parts.length - 1;
          rest = parts.at(-1).slice(-16);
          wake();
        });
        socket.on('error', () => {});
        socket.on('close', () => wake());
        for (let round = 0; round < 25; round += 1) {
          const batch = Array.from({ length: 100 }, (_, at) => {
            const path = [
              `/${word()}`,
              `/socket.io/?EIO=4&transport=polling&sid=${word()}`,
              `/socket.io/?EIO=${word()}&transport=${word()}`,
              `/api/v1/${word()}?${word()}=${word()}`,
              `/internal/${word()}`,
            ][at % 5];
            return `${at % 7 === 0 ? word().toUpperCase() : 'GET'} ${path} HTTP/1.1\r\nHost: ${word()}\r\nUser-Agent: ${word()}\r\nX-Internal-Request: true\r\n\r\n`;
          });
          const wanted = seen + batch.length;
          const answered = new Promise((resolve, reject) => {
            wake = () => {
              if (seen >= wanted) resolve();
              else if (socket.destroyed) reject(new Error(`closed after ${seen} answers`));
            };
          });
          socket.write(batch.join(''));
          await within(answered, 20_000, 'the answers to 100 requests');
        }
        socket.destroy();
      };
      const before = (await gateway.metrics()).size;
      await Promise.all(Array.from({ length: 8 }, flood));

      const ws = await joined(t, gateway);
      for (let at = 0; at < 500; at += 1) {
        await ask(ws, word(), word());
        await ask(ws, 'join', { room: word() });
        await ask(ws, 'publish', { room: word(), event: word(), data: word() });
      }
      for (let at = 0; at < 100; at += 1) {
        const stray = await joined(t, gateway);
        stray.send(`40/${word()},`);
        await stray.nextText();
        stray.destroy();
        const other = await joined(t, gateway, { claims: { sub: word(), role: word(), name: word() } });
        other.destroy();
        const refused = await engine(t, gateway);
        refused.send(`40/relay,{"token":"${word()}.${word()}.${word()}"}`);
        await refused.nextText();
        refused.destroy();
        await (await pollingSession(gateway.port)).post(word());
      }
      const text = await (await fetch(`${gateway.internalUrl}/metrics`)).text();
      assert.ok(!/zq9x/i.test(text), /.*zq9x.*/i.exec(text)?.[0]);
      assert.ok(text.split('\n').length <= 600, `${text.split('\n').length} lines`);
      const after = (await gateway.metrics()).size;
      assert.ok(after - before <= 40, `${after - before} series more than before`);
      assert.equal((await request(gateway.port, 'GET', '/metrics')).status, 404);
    },
    { timeout: 120_000 },
  );
});

describe('an HTTP client that reads nothing', () => {
  const quiet = underAttack();

  row(
    quiet,
    'is cut off when it has taken nothing of an answer for 10 s',
    async (gateway, t) => {
      const before = openSockets(gateway.pid);
      const socket = connect({ port: gateway.port, host: '127.0.0.1' });
      t.after(() => socket.destroy());
      socket.on('error', () => {});
      await onceEvent(socket, 'connect');
      socket.pause();
      const begun = performance.now();
      // More than both kernels keep: 60 MiB of answers.
      for (let at = 0; at < 200; at += 1) socket.write(requestText(gateway.port, 'GET', '/socket.io/socket.io.js.map'));
      await eventually(() => openSockets(gateway.pid) > before, { what: 'the connection to be accepted' });
      await eventually(() => openSockets(gateway.pid) <= before, { timeout: 40_000, what: 'the connection to be closed' });
      assert.ok(performance.now() - begun > 9_000, 'closed too early');
    },
    { timeout: 60_000 },
  );

  row(quiet, 'has the whole of it when it reads in the end', async (gateway, t) => {
    const connection = await rawConnection(gateway.port);
    t.after(() => connection.destroy());
    for (let at = 0; at < 40; at += 1) connection.write(requestText(gateway.port, 'GET', '/socket.io/socket.io.js.map'));
    connection.socket.pause();
    await request(gateway.port, 'GET', '/live');
    connection.socket.resume();
    for (let at = 0; at < 40; at += 1) assert.equal((await connection.response()).status, 200);
  });
});

describe('pipelined requests', () => {
  const live = 'GET /live HTTP/1.1\r\nHost: a\r\n';

  row(site, 'B84 a bare line feed in a later head of the same packet is refused', async (gateway) => {
    const received = await untilServerCloses(gateway.port, `${live}\r\n${live}X-A: b\nX-B: c\r\n\r\n${live}\r\n`);
    assert.equal(responses(received), 2);
    assert.match(received.toString('latin1'), /^HTTP\/1\.1 200 [^]*HTTP\/1\.1 400 /);
  });

  row(site, 'B84 an empty line before a head does not hide a bare line feed in it', async (gateway) => {
    const received = await untilServerCloses(gateway.port, `\r\n${live}X-A: b\nX-B: c\r\n\r\n`);
    assert.match(received.toString('latin1'), /^HTTP\/1\.1 400 /);
    assert.equal(responses(received), 1);
  });

  row(site, 'B84 line feeds in a later body are left alone, however it comes', async (gateway, t) => {
    const session = await pollingJoined(gateway);
    const text = 'a\n\r\n\r\nb\n';
    // JSON takes line feeds between its parts only.
    const event = (id) => `42${session.prefix}${id}["echo",\n\n\r\n${JSON.stringify(text)}\n]`;
    const whole = (id) => requestText(gateway.port, 'POST', session.path, { headers: { 'Content-Type': 'text/plain' }, body: event(id) });
    const connection = await rawConnection(gateway.port);
    t.after(() => connection.destroy());
    const [first, second] = [whole(1), whole(2)].map(String);
    connection.write(`${live}\r\n${first}${second.slice(0, -9)}`);
    for (let at = 0; at < 2; at += 1) assert.equal((await connection.response()).status, 200);
    connection.write(second.slice(-9));
    assert.equal((await connection.response()).status, 200);
    const packets = await session.pollUntil((seen) => seen.length >= 2);
    assert.deepEqual(packets, [1, 2].map((id) => `43${session.prefix}${id}[${JSON.stringify(text)}]`));
  });
});
