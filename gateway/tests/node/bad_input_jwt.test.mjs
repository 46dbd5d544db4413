// Tokens that must not be believed, and those that must: rows B72 to B82 of the bad-input list, for a
// secret, for a public key of each kind, and for a key set that changes. Each is sent in a CONNECT packet.

import assert from 'node:assert/strict';
import { constants, createHmac, generateKeyPairSync, sign } from 'node:crypto';
import { once as onceEvent } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, describe } from 'node:test';
import { isDeepStrictEqual } from 'node:util';

import { temporaryDirectory } from './support/gateway.mjs';
import { EVERYTHING, alive, ask, closes, engine, fresh, joined, meter, refusal, row, rows, underAttack } from './support/hostile.mjs';
import { rawEngine, rawSocketIo } from './support/raw.mjs';
import { eventually, within } from './support/wait.mjs';

const SECRET = 'a secret of the tests that is long enough for HS256';
const MISSING = { message: 'Authentication required', data: { code: 'auth_required' } };
const INVALID = { message: 'Invalid token', data: { code: 'invalid_token' } };
const EXPIRED = { message: 'Token expired', data: { code: 'token_expired' } };

const now = () => Math.floor(Date.now() / 1000);
const part = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');

/** The signature of `text` by each algorithm. */
const SIGN = {
  HS256: (text, key) => createHmac('sha256', key).update(text).digest(),
  HS384: (text, key) => createHmac('sha384', key).update(text).digest(),
  HS512: (text, key) => createHmac('sha512', key).update(text).digest(),
  RS256: (text, key) => sign('sha256', Buffer.from(text), key),
  RS512: (text, key) => sign('sha512', Buffer.from(text), key),
  PS256: (text, key) => sign('sha256', Buffer.from(text), { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 }),
  ES256: (text, key) => sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' }),
  EdDSA: (text, key) => sign(null, Buffer.from(text), key),
};

/** A token of `payload`; `header` is laid over `{alg, typ}`, `signature` replaces the true one. */
function token(alg, key, payload = {}, { header = {}, signature } = {}) {
  const claims = typeof payload === 'string' ? payload : { sub: 'u1', exp: now() + 3600, ...EVERYTHING, ...payload };
  const text = `${part(typeof header === 'string' ? header : { alg, typ: 'JWT', ...header })}.${part(claims)}`;
  return `${text}.${(signature ?? SIGN[alg](text, key)).toString('base64url')}`;
}

/** What a CONNECT with `auth` is answered: the refusal, or `'accepted'`. The connection must stay, to be used again. */
async function connect(gateway, t, auth, { query, headers } = {}) {
  const ws = await engine(t, gateway, { query, headers });
  ws.send(`40/relay,${auth === undefined ? '' : JSON.stringify(auth)}`);
  const text = await ws.nextText();
  if (/^40\/relay,\{"sid":"[\w-]{20}"/.test(text)) {
    ws.prefix = '/relay,';
    await alive(ws);
    ws.destroy();
    return 'accepted';
  }
  assert.match(text, /^44\/relay,/);
  ws.send(`40/relay,${JSON.stringify({ token: gateway.token() })}`);
  assert.match(await ws.nextText(), /^40\/relay,\{"sid":/, 'a good token after the refusal');
  ws.destroy();
  return JSON.parse(text.slice('44/relay,'.length));
}

/** Rows `[name, token or auth payload, what it is answered]`; several answers may be allowed. */
function answers(site, table) {
  rows(
    site,
    table.map(([name, given, expected]) => ({ name, given, expected })),
    async (gateway, { given, expected }, t) => {
      const made = typeof given === 'function' ? given() : given;
      const answer = await connect(gateway, t, typeof made === 'string' ? { token: made } : made);
      if (Array.isArray(expected))
        assert.ok(
          expected.some((one) => isDeepStrictEqual(one, answer)),
          JSON.stringify(answer),
        );
      else assert.deepEqual(answer, expected);
    },
  );
}

const hs = (payload, options) => () => token('HS256', SECRET, payload, options);

describe('a secret', () => {
  const site = underAttack({ env: { JWT_SECRET: SECRET } });
  const signed = (text) => `${text}.${SIGN.HS256(text, SECRET).toString('base64url')}`;
  const claims = (extra = {}) => ({ sub: 'u1', exp: now() + 3600, ...extra });

  answers(site, [
    ['believes its own HS256', hs({}), 'accepted'],
    ['believes a token of 7 KiB', hs({ filler: 'x'.repeat(5_000) }), 'accepted'],
    ['believes claims it does not know', hs({ nonce: [1, { a: null }], ['__proto__']: 1, azp: 'x' }), 'accepted'],

    ['B72 asks for a token where none is', {}, MISSING],
    ['B72 asks for a token where it is null', { token: null }, MISSING],
    ['B72 asks for a token where it is empty', { token: '' }, [MISSING, INVALID]],
    ['B72 asks for a token where it has another name', { Token: token('HS256', SECRET), jwt: 'x' }, MISSING],
    ...[5, true, {}, [], ['a.b.c'], { toString: 'x' }, '\ud83d'].map((given) => [
      `B72 refuses ${JSON.stringify(given)} for a token`,
      { token: given },
      [MISSING, INVALID],
    ]),
    ...['a', 'a.b', 'a.b.c', 'a.b.c.d', '..', '.', ' ', '\u0000', 'null', 'undefined', 'Bearer x', '%', '=.=.=', '\n'].map((given) => [
      `B72 refuses the token ${JSON.stringify(given)}`,
      given,
      INVALID,
    ]),
    ['B72 refuses 1,000 dots', '.'.repeat(1000), INVALID],
    ['B72 refuses a token of 9 KiB', hs({ filler: 'x'.repeat(6_800) }), INVALID],
    ['B72 refuses a token of 15 KiB', hs({ filler: 'x'.repeat(11_000) }), INVALID],
    ['B72 refuses a good token with a blank', () => `${hs()()} `, INVALID],
    ['B72 refuses a good token with another part', () => `${hs()()}.x`, INVALID],
    ['B72 refuses a good token with padding', () => `${hs()()}=`, INVALID],
    ['B72 refuses a header that is no JSON', () => signed(`${part('{')}.${part(claims())}`), INVALID],
    ['B72 refuses a header that is an array', () => signed(`${part([])}.${part(claims())}`), INVALID],
    ['B72 refuses a header without an algorithm', () => signed(`${part({ typ: 'JWT' })}.${part(claims())}`), INVALID],
    ['B72 refuses claims that are no JSON', hs('{'), INVALID],
    ['B72 refuses claims that are an array', hs('[]'), INVALID],
    ['B72 refuses claims that are null', hs('null'), INVALID],
    [
      'B72 refuses claims that are not UTF-8',
      () => signed(`${part({ alg: 'HS256' })}.${Buffer.from([0x7b, 0xff, 0x7d]).toString('base64url')}`),
      INVALID,
    ],
    ['B72 refuses claims of 5,000 nested arrays', hs(`{"sub":"u1","exp":9999999999,"a":${'['.repeat(2_500)}${']'.repeat(2_500)}}`), INVALID],

    ...['none', 'None', 'nOnE', 'NONE', ''].flatMap((alg) => [
      [
        `B73 refuses alg ${alg || '(empty)'} without a signature`,
        () => token('HS256', SECRET, {}, { header: { alg }, signature: Buffer.alloc(0) }),
        INVALID,
      ],
      [`B73 refuses alg ${alg || '(empty)'} with a signature`, () => token('HS256', SECRET, {}, { header: { alg } }), INVALID],
    ]),
    ...['hs256', 'HS256 ', 'HS1', 'AES', 'dir', null, 5, ['HS256']].map((alg) => [
      `B73 refuses alg ${JSON.stringify(alg)}`,
      hs({}, { header: { alg } }),
      INVALID,
    ]),
    ['B73 refuses an empty signature', hs({}, { signature: Buffer.alloc(0) }), INVALID],
    ['B73 refuses a token of two parts', () => hs()().split('.').slice(0, 2).join('.'), INVALID],
    ['B73 refuses a signature of zeros', hs({}, { signature: Buffer.alloc(32) }), INVALID],
    ['B73 refuses a signature that is cut', () => hs()().slice(0, -4), INVALID],
    [
      'B73 refuses a signature with one bit turned',
      () => {
        const [header, payload, signature] = hs()().split('.');
        const bytes = Buffer.from(signature, 'base64url');
        bytes[7] ^= 1;
        return `${header}.${payload}.${bytes.toString('base64url')}`;
      },
      INVALID,
    ],
    [
      'B73 refuses claims that were changed',
      () => {
        const [header, , signature] = hs()().split('.');
        return `${header}.${part(claims({ sub: 'admin' }))}.${signature}`;
      },
      INVALID,
    ],
    ['B73 refuses another secret', () => token('HS256', 'another secret'), INVALID],
    ['B73 refuses the empty secret', () => token('HS256', ''), INVALID],
    ['B73 refuses HS384 with the right secret', () => token('HS384', SECRET), INVALID],
    ['B73 refuses HS512 with the right secret', () => token('HS512', SECRET), INVALID],

    ['B76 takes no key from kid: a path', () => token('HS256', '', {}, { header: { kid: '../../../../dev/null' } }), INVALID],
    ['B76 takes no key from kid: SQL', () => token('HS256', 'x', {}, { header: { kid: "' UNION SELECT 'x" } }), INVALID],
    ...[['exp'], ['b64'], [], null, 'b64', { b64: true }].map((crit) => [
      `B76 refuses critical extensions, since it knows none (RFC 7515, 4.1.11): ${JSON.stringify(crit)}`,
      hs({}, { header: { crit } }),
      INVALID,
    ]),
    ['B76 refuses a kid of 10 KiB', hs({}, { header: { kid: 'k'.repeat(10 << 10) } }), INVALID],

    ['B77 refuses exp an hour ago', hs({ exp: now() - 3600 }), EXPIRED],
    ['B77 refuses exp 7 s ago', () => token('HS256', SECRET, { exp: now() - 7 }), EXPIRED],
    ['B77 forgives a clock that is 1 s behind', () => token('HS256', SECRET, { exp: now() - 1 }), 'accepted'],
    ['B77 refuses a token without exp', hs({ exp: undefined }), INVALID],
    ...['9999999999', null, true, [], {}, '', 'never'].map((exp) => [`B77 refuses exp ${JSON.stringify(exp)}`, hs({ exp }), INVALID]),
    ['B77 refuses exp 0', hs({ exp: 0 }), EXPIRED],
    ['B77 refuses exp -1', hs({ exp: -1 }), [EXPIRED, INVALID]],
    ['B77 refuses exp -1e300', hs({ exp: -1e300 }), [EXPIRED, INVALID]],
    ['B77 survives exp 1e300', hs({ exp: 1e300 }), ['accepted', INVALID]],
    ['B77 survives exp 2^63', hs({ exp: 2 ** 63 }), ['accepted', INVALID]],
    ['B77 survives exp in milliseconds', hs({ exp: Date.now() + 3_600_000 }), ['accepted', INVALID]],
    ['B77 survives exp with a fraction', () => token('HS256', SECRET, { exp: now() + 3600.5 }), ['accepted', INVALID]],
    ['B77 refuses nbf in an hour', hs({ nbf: now() + 3600 }), INVALID],
    ['B77 refuses nbf in 20 s', () => token('HS256', SECRET, { nbf: now() + 20 }), INVALID],
    ['B77 forgives a clock that is 3 s ahead', () => token('HS256', SECRET, { nbf: now() + 3 }), 'accepted'],
    ['B77 believes nbf in the past', hs({ nbf: now() - 60 }), 'accepted'],
    ['B77 survives iat in the far future', hs({ iat: now() + 1e9 }), ['accepted', INVALID]],
    ['B77 believes the first of nothing: exp given twice', hs(`{"sub":"u1","exp":1,"exp":${now() + 3600}}`), ['accepted', INVALID, EXPIRED]],

    ['B79 refuses a token without a user', hs({ sub: undefined }), INVALID],
    ...['', ' ', '\u200b', '\u202e', 'a\nb', 'a\r\nb', 'a\u0000b', 'a\u0085b', 'u'.repeat(256), 'é'.repeat(128), 'u'.repeat(3_000), 1.5, 1e300, null, true, [], ['u1'], {}].map(
      (sub) => [`B79 refuses the user ${JSON.stringify(sub).slice(0, 30)} (${typeof sub})`, hs({ sub }), INVALID],
    ),
    ['B79 refuses a bad userId beside a good sub', hs({ userId: 'a\nb', sub: 'u1' }), INVALID],
    ['B79 refuses a bad id beside a good sub', hs({ id: '', sub: 'u1' }), [INVALID, 'accepted']],
    ['B79 believes user_id where there is no other', hs({ sub: undefined, user_id: 42 }), 'accepted'],
    ...['u:1', 'u.1', 'u-1', 'u_1', '__proto__', 'constructor', 'u'.repeat(255), '0', 0, 5, 'a b', 'é', 'a/b', '*', 'auth0|5f7c', 'a@clients', 'dXNlcg=='].map((sub) => [
      `B79 believes the user ${String(sub).slice(0, 30)} (${typeof sub})`,
      hs({ sub }),
      'accepted',
    ]),
    ...['displayName', 'name', 'email', 'avatar', 'role'].flatMap((key) =>
      ['a\u0000b', 7, {}, ['x'], 'x'.repeat(3_000)].map((value) => [
        `B97 leaves out ${key} where it is ${JSON.stringify(value).slice(0, 12)}`,
        hs({ [key]: value }),
        'accepted',
      ]),
    ),
    ['B80 takes a token with the scheme of a header', () => `Bearer ${hs()()}`, 'accepted'],
    [
      'B97 believes odd names and tells them to no log raw',
      hs({ name: 'a\r\n{"level":"ERROR"}\u001b[31m\u202e', email: 'x'.repeat(2_000), displayName: '\ud83d' }),
      ['accepted', INVALID],
    ],
  ]);

  row(site, 'B72 counts what it refuses', async (gateway, t) => {
    const counted = await meter(gateway, 'muster_tokens_refused_total');
    for (const given of ['a.b.c', token('HS256', SECRET, { exp: 5 }), token('HS256', 'x')]) await connect(gateway, t, { token: given });
    await counted.grows(3);
  });

  row(site, 'B72 asks for a token where there is no auth at all, in no payload, query or header', async (gateway, t) => {
    assert.deepEqual(await connect(gateway, t, undefined), MISSING);
    for (const headers of [{ Authorization: 'Basic dTpw' }, { Authorization: 'Bearer' }, { Authorization: 'Bearer ' }, { Authorization: '' }]) {
      assert.deepEqual(await connect(gateway, t, undefined, { headers }), MISSING, JSON.stringify(headers));
    }
  });

  row(site, 'B72 B80 takes the first token it finds, good or bad: payload, query, header', async (gateway, t) => {
    const good = hs()();
    const bearer = { Authorization: `Bearer ${good}` };
    assert.equal(await connect(gateway, t, undefined, { headers: bearer }), 'accepted');
    assert.equal(await connect(gateway, t, undefined, { query: `&token=${good}` }), 'accepted');
    assert.deepEqual(await connect(gateway, t, { token: 'a.b.c' }, { headers: bearer, query: `&token=${good}` }), INVALID);
    assert.deepEqual(await connect(gateway, t, undefined, { headers: bearer, query: '&token=a.b.c' }), INVALID);
    assert.deepEqual(await connect(gateway, t, undefined, { headers: { Authorization: 'Bearer a.b.c' } }), INVALID);
    assert.equal(await connect(gateway, t, { token: good }, { headers: { Authorization: 'Bearer a.b.c' }, query: '&token=a.b.c' }), 'accepted');
    assert.equal(await connect(gateway, t, { token: '' }, { headers: bearer, query: '&token=' }), 'accepted', 'empty ones hide none');
    assert.equal(await connect(gateway, t, { token: '' }, { query: `&token=${good}` }), 'accepted');
    assert.deepEqual(await connect(gateway, t, { token: '' }, { query: '&token=' }), MISSING);
    assert.deepEqual(await connect(gateway, t, undefined, { headers: { Authorization: `Bearer ${'x'.repeat(9_000)}` } }), INVALID, 'too long');
  });
});

describe('prefixed errors', () => {
  const site = underAttack({ env: { JWT_SECRET: SECRET, AUTH_ERRORS: 'prefixed' } });
  const prefixed = ({ message, data }) => ({ message: `Authentication error: ${message}`, data });
  row(site, 'B72 B77 say the same with their prefix', async (gateway, t) => {
    assert.deepEqual(await connect(gateway, t, undefined), prefixed(MISSING));
    assert.deepEqual(await connect(gateway, t, { token: 'a.b.c' }), prefixed(INVALID));
    assert.deepEqual(await connect(gateway, t, { token: token('HS256', SECRET, { exp: 5 }) }), prefixed(EXPIRED));
  });
});

describe('an issuer and an audience', () => {
  const ours = { iss: 'https://issuer.example/', aud: 'gateway' };
  const site = underAttack({
    env: { JWT_SECRET: SECRET, JWT_ISSUER: ours.iss, JWT_AUDIENCE: ours.aud },
    token: (claims) => token('HS256', SECRET, { ...ours, ...claims }),
  });
  answers(site, [
    ['B78 believes both', hs(ours), 'accepted'],
    ['B78 believes an audience among others', hs({ ...ours, aud: ['other', 'gateway'] }), 'accepted'],
    ...[
      ['another issuer', { iss: 'https://evil.example/' }],
      ['an issuer without its slash', { iss: 'https://issuer.example' }],
      ['an issuer with a suffix', { iss: `${ours.iss}x` }],
      ['no issuer', { iss: undefined }],
      ['an empty issuer', { iss: '' }],
      ['a number for an issuer', { iss: 5 }],
      ['null for an issuer', { iss: null }],
      ['another audience', { aud: 'other' }],
      ['other audiences', { aud: ['a', 'b'] }],
      ['an audience with a suffix', { aud: 'gateway2' }],
      ['an audience in capitals', { aud: 'GATEWAY' }],
      ['no audience', { aud: undefined }],
      ['an empty audience', { aud: '' }],
      ['an empty list of audiences', { aud: [] }],
      ['null for an audience', { aud: null }],
      ['an object for an audience', { aud: { gateway: true } }],
      ['a list in a list for an audience', { aud: [['gateway']] }],
    ].map(([what, claims]) => [`B78 refuses ${what}`, hs({ ...ours, ...claims }), INVALID]),
  ]);
});

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const ed = generateKeyPairSync('ed25519');
const stranger = {
  RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  EdDSA: generateKeyPairSync('ed25519'),
};
const KEYS = { RS256: rsa, ES256: ec, EdDSA: ed };

/** A listener on loopback that counts who comes; nobody may. */
function lure() {
  const server = createServer((socket) => {
    server.visits += 1;
    socket.destroy();
  });
  server.visits = 0;
  server.listen(0, '127.0.0.1');
  after(() => server.close());
  return server;
}

for (const [alg, { publicKey, privateKey }] of Object.entries(KEYS)) {
  describe(`a public key for ${alg}`, () => {
    const pem = publicKey.export({ type: 'spki', format: 'pem' });
    const site = underAttack({
      env: () => {
        const path = join(temporaryDirectory(), 'key.pem');
        writeFileSync(path, pem);
        return { JWT_SECRET: null, JWT_PUBLIC_KEY: path };
      },
      token: (claims) => token(alg, privateKey, claims),
    });
    const other = Object.keys(KEYS).filter((name) => name !== alg);
    const trap = lure();

    answers(site, [
      [`believes its own ${alg}`, () => token(alg, privateKey), 'accepted'],
      [`believes its own ${alg} with a kid`, () => token(alg, privateKey, {}, { header: { kid: 'any' } }), 'accepted'],
      ['B73 refuses another key of the kind', () => token(alg, stranger[alg].privateKey), INVALID],
      ['B73 refuses none', () => token(alg, privateKey, {}, { header: { alg: 'none' }, signature: Buffer.alloc(0) }), INVALID],
      ['B73 refuses an empty signature', () => token(alg, privateKey, {}, { signature: Buffer.alloc(0) }), INVALID],
      ['B73 refuses a signature of zeros', () => token(alg, privateKey, {}, { signature: Buffer.alloc(alg === 'RS256' ? 256 : 64) }), INVALID],
      [
        'B73 refuses claims that were changed',
        () => {
          const [header, , signature] = token(alg, privateKey).split('.');
          return `${header}.${part({ sub: 'admin', exp: now() + 3600 })}.${signature}`;
        },
        INVALID,
      ],
      ...other.map((name) => [`B73 refuses ${name} by a key of that kind`, () => token(name, KEYS[name].privateKey), INVALID]),
      ...other.map((name) => [
        `B73 refuses ${name} in the header of a true ${alg}`,
        () => token(alg, privateKey, {}, { header: { alg: name } }),
        INVALID,
      ]),
      ['B74 refuses HS256 with the PEM as the secret', () => token('HS256', pem), INVALID],
      ['B74 refuses HS256 with the PEM without its last line end', () => token('HS256', pem.trimEnd()), INVALID],
      ['B74 refuses HS256 with the DER as the secret', () => token('HS256', publicKey.export({ type: 'spki', format: 'der' })), INVALID],
      ['B74 refuses HS256 with an empty secret', () => token('HS256', ''), INVALID],
      [
        'B75 takes no key from jwk',
        () => token(alg, stranger[alg].privateKey, {}, { header: { jwk: stranger[alg].publicKey.export({ format: 'jwk' }) } }),
        INVALID,
      ],
      ...['jku', 'x5u'].map((name) => [
        `B75 asks nobody by ${name}`,
        () => token(alg, stranger[alg].privateKey, {}, { header: { [name]: `http://127.0.0.1:${trap.address().port}/keys` } }),
        INVALID,
      ]),
      [
        'B75 takes no key from x5c',
        () =>
          token(
            alg,
            stranger[alg].privateKey,
            {},
            { header: { x5c: [stranger[alg].publicKey.export({ type: 'spki', format: 'der' }).toString('base64')] } },
          ),
        INVALID,
      ],
      ['B77 refuses exp an hour ago', () => token(alg, privateKey, { exp: now() - 3600 }), EXPIRED],
      ['B79 refuses a token without a user', () => token(alg, privateKey, { sub: undefined }), INVALID],
      ...(alg === 'RS256'
        ? [
            ['B73 refuses RS512 by the right key', () => token('RS512', privateKey), INVALID],
            ['B73 refuses PS256 by the right key', () => token('PS256', privateKey), INVALID],
          ]
        : []),
      ...(alg === 'ES256'
        ? [
            [
              'B73 refuses a signature in DER',
              () => {
                const text = `${part({ alg, typ: 'JWT' })}.${part({ sub: 'u1', exp: now() + 3600 })}`;
                return `${text}.${sign('sha256', Buffer.from(text), privateKey).toString('base64url')}`;
              },
              INVALID,
            ],
          ]
        : []),
    ]);

    row(site, 'B75 has asked nobody', () => assert.equal(trap.visits, 0));
  });
}

/** A JWKS server on loopback: `keys` is what it serves, `fetches` how often it was asked. */
async function jwksServer(keys) {
  const jwks = { keys, fetches: 0, status: 200, body: undefined };
  const server = createHttpServer((request, response) => {
    jwks.fetches += 1;
    response.writeHead(jwks.status, { 'Content-Type': 'application/json' });
    response.end(jwks.body ?? JSON.stringify({ keys: jwks.keys }));
  });
  server.listen(0, '127.0.0.1');
  await onceEvent(server, 'listening');
  jwks.url = `http://127.0.0.1:${server.address().port}/.well-known/jwks.json`;
  jwks.close = () => {
    server.closeAllConnections();
    server.close();
  };
  return jwks;
}

const jwk = (kid, { publicKey }, extra = {}) => ({ ...publicKey.export({ format: 'jwk' }), kid, use: 'sig', ...extra });

/** A gateway with a key set of its own; `site.jwks` is there when the gateway is. */
function withKeySet(keys, signer) {
  let jwks;
  after(() => jwks?.close());
  const site = underAttack({
    env: async () => {
      jwks = site.jwks = await jwksServer(keys);
      return { JWT_SECRET: null, JWKS_URL: jwks.url, PING_INTERVAL: '2m' };
    },
    token: signer,
  });
  return site;
}

describe('a key set', () => {
  const site = withKeySet(
    [
      jwk('r', rsa, { alg: 'RS256' }),
      jwk('e', ec),
      jwk('d', ed, { alg: 'EdDSA' }),
      { kty: 'oct', kid: 'o', k: part('shared') },
      { kty: 'XYZ', kid: 'x' },
      jwk('enc', stranger.RS256, { use: 'enc' }),
    ],
    (claims) => token('RS256', rsa.privateKey, claims, { header: { kid: 'r' } }),
  );
  const by = (alg, key, kid, payload) => () => token(alg, key.privateKey, payload, { header: { kid } });
  answers(site, [
    ['believes RS256 by its kid', by('RS256', rsa, 'r'), 'accepted'],
    ['believes ES256 by its kid', by('ES256', ec, 'e'), 'accepted'],
    ['believes EdDSA by its kid', by('EdDSA', ed, 'd'), 'accepted'],
    [
      'B74 refuses HS256 with the PEM of the key',
      () => token('HS256', rsa.publicKey.export({ type: 'spki', format: 'pem' }), {}, { header: { kid: 'r' } }),
      INVALID,
    ],
    [
      'B74 refuses HS256 with the modulus of the key',
      () => token('HS256', Buffer.from(rsa.publicKey.export({ format: 'jwk' }).n, 'base64url'), {}, { header: { kid: 'r' } }),
      INVALID,
    ],
    ['B74 refuses HS256 with a secret that the set should not hold', () => token('HS256', 'shared', {}, { header: { kid: 'o' } }), INVALID],
    ['B73 refuses a key of the set under the kid of another', by('RS256', rsa, 'e'), INVALID],
    ['B73 refuses another key under a kid of the set', by('RS256', stranger.RS256, 'r'), INVALID],
    ['B76 refuses kid ../../dev/null', by('RS256', rsa, '../../dev/null'), INVALID],
    ['B76 refuses kid SQL', by('RS256', rsa, "' OR 1=1 --"), INVALID],
    ['B76 refuses kid __proto__', by('RS256', rsa, '__proto__'), INVALID],
    ['B76 refuses a kid that is a number', by('RS256', rsa, 0), INVALID],
    ...[['exp'], ['b64'], [], null, 'b64', { b64: true }].map((crit) => [
      `B76 refuses critical extensions, since it knows none (RFC 7515, 4.1.11): ${JSON.stringify(crit)}`,
      hs({}, { header: { crit } }),
      INVALID,
    ]),
    ['B76 refuses a kid of 10 KiB', by('RS256', rsa, 'k'.repeat(10 << 10)), INVALID],
    [
      'B75 takes no key from jwk',
      () => token('RS256', stranger.RS256.privateKey, {}, { header: { kid: 'r', jwk: jwk('r', stranger.RS256) } }),
      INVALID,
    ],
    ['B77 refuses exp an hour ago', by('ES256', ec, 'e', { exp: now() - 3600 }), EXPIRED],
  ]);

  row(site, 'B76 is fetched at most once more for 200 unknown kids', async (gateway, t) => {
    const before = site.jwks.fetches;
    for (let round = 0; round < 10; round += 1) {
      const asked = Array.from({ length: 20 }, () =>
        connect(gateway, t, { token: token('RS256', rsa.privateKey, {}, { header: { kid: fresh('kid') } }) }),
      );
      for (const answer of await Promise.all(asked)) assert.deepEqual(answer, INVALID);
    }
    assert.ok(site.jwks.fetches - before <= 1, `${site.jwks.fetches - before} fetches for 200 unknown kids`);
    assert.ok(site.jwks.fetches <= 3, `${site.jwks.fetches} fetches in all`);
  });

  row(site, 'B76 is not fetched for what cannot be a token of it', async (gateway, t) => {
    const before = site.jwks.fetches;
    const garbage = [
      'a.b.c',
      token('HS256', SECRET, {}, { header: { kid: 'new' } }),
      token('RS256', rsa.privateKey, {}, { header: { alg: 'none', kid: 'new2' } }),
    ];
    for (const given of garbage) assert.deepEqual(await connect(gateway, t, { token: given }), INVALID);
    assert.equal(site.jwks.fetches, before);
  });
});

describe('a key set that changes', { concurrency: true }, () => {
  const rotated = withKeySet([jwk('old', rsa)], (claims) => token('RS256', rsa.privateKey, claims, { header: { kid: 'old' } }));
  const shrunk = withKeySet([jwk('old', rsa), jwk('kept', ec)], (claims) => token('ES256', ec.privateKey, claims, { header: { kid: 'kept' } }));
  const spoiled = withKeySet([jwk('kept', ec)], (claims) => token('ES256', ec.privateKey, claims, { header: { kid: 'kept' } }));
  const answerTo = async (gateway, given) => {
    const ws = await rawEngine(gateway.port);
    ws.send(`40/relay,${JSON.stringify({ token: given })}`);
    const text = await ws.nextText();
    ws.destroy();
    return text.startsWith('40') ? 'accepted' : JSON.parse(text.slice('44/relay,'.length));
  };

  row(
    rotated,
    'B82 gives the new key its turn within 60 s, refuses the old one then, and lets live sockets be',
    async (gateway, t) => {
      const live = await joined(t, gateway);
      rotated.jwks.keys = [jwk('new', ec)];
      const fresher = () => token('ES256', ec.privateKey, {}, { header: { kid: 'new' } });
      await eventually(async () => (await answerTo(gateway, fresher())) === 'accepted', {
        timeout: 65_000,
        interval: 500,
        what: 'the new key to be believed',
      });
      assert.deepEqual(await answerTo(gateway, token('RS256', rsa.privateKey, {}, { header: { kid: 'old' } })), INVALID);
      await alive(live);
      assert.ok(rotated.jwks.fetches <= 4, `${rotated.jwks.fetches} fetches`);
    },
    { timeout: 90_000 },
  );

  row(
    shrunk,
    'B82 refuses a key that was taken from the set within 60 s, though nothing unknown comes',
    async (gateway, t) => {
      const live = await rawSocketIo(gateway.port, { namespace: '/relay', token: token('RS256', rsa.privateKey, {}, { header: { kid: 'old' } }) });
      t.after(() => live.destroy());
      shrunk.jwks.keys = [jwk('kept', ec)];
      await eventually(
        async () => {
          const answer = await answerTo(gateway, token('RS256', rsa.privateKey, {}, { header: { kid: 'old' } }));
          return answer !== 'accepted' && answer.message === INVALID.message;
        },
        { timeout: 65_000, interval: 500, what: 'the removed key to be refused' },
      );
      assert.equal(await answerTo(gateway, gateway.token()), 'accepted');
      await alive(live);
    },
    { timeout: 90_000 },
  );

  row(spoiled, 'B82 keeps its keys when the server of the set answers nonsense', async (gateway) => {
    for (const [status, body] of [
      [200, 'nonsense'],
      [200, '[]'],
      [200, '{"keys":5}'],
      [500, ''],
      [200, `{"keys":[${'['.repeat(5_000)}`],
    ]) {
      Object.assign(spoiled.jwks, { status, body });
      assert.deepEqual(await answerTo(gateway, token('RS256', rsa.privateKey, {}, { header: { kid: fresh('kid') } })), INVALID);
      assert.equal(await answerTo(gateway, gateway.token()), 'accepted');
    }
  });
});

describe('a token that ends while its socket lives', { concurrency: true }, () => {
  const site = underAttack({ env: { JWT_SECRET: SECRET } });
  const connected = async (t, gateway, claims) => {
    const ws = await rawSocketIo(gateway.port, { namespace: '/relay', token: token('HS256', SECRET, claims) });
    t.after(() => ws.destroy());
    return ws;
  };
  // A stock client that is told `41` stays away; one whose connection ends comes back with a fresh token.
  const endsWithin = async (ws, exp) => {
    await closes(ws, 1006, { timeout: 15_000 });
    const late = Date.now() / 1000 - exp;
    assert.ok(late >= -0.5 && late <= 5.5, `disconnected ${late} s after exp`);
  };

  row(site, 'B81 takes it from its rooms within 5 s of exp, and closes its connection', async (gateway, t) => {
    const exp = now() + 2;
    const ws = await connected(t, gateway, { exp });
    const room = fresh('room');
    await ask(ws, 'join', { room });
    await endsWithin(ws, exp);
    const watcher = await joined(t, gateway);
    assert.equal((await ask(watcher, 'members', { room })).count, 0);
  });

  row(site, 'B81 lives on by auth:refresh of the same user', async (gateway, t) => {
    const exp = now() + 2;
    const ws = await connected(t, gateway, { exp, sub: 'same' });
    const until = now() + 60;
    const answer = await ask(ws, 'auth:refresh', { token: token('HS256', SECRET, { exp: until, sub: 'same' }) });
    assert.deepEqual(Object.keys(answer).sort(), ['expiresAt', 'success']);
    assert.equal(answer.success, true);
    assert.equal(new Date(answer.expiresAt).getTime(), until * 1000);
    await assert.rejects(within(ws.nextText({ timeout: 8_000 }), 8_500, 'a disconnect'), /not within/);
    await alive(ws);
  });

  const refused = [
    ['of another user', () => ({ token: token('HS256', SECRET, { sub: 'other' }) }), undefined],
    ['that has expired', () => ({ token: token('HS256', SECRET, { sub: 'same', exp: now() - 60 }) }), 'Token expired'],
    ['that is forged', () => ({ token: token('HS256', 'x', { sub: 'same' }) }), 'Invalid token'],
    ['that is no string', () => ({ token: 5 }), undefined],
    ['that is not there', () => ({}), undefined],
  ];
  for (const [what, make, error] of refused) {
    row(site, `B81 is not refreshed by a token ${what}, and ends when it would have`, async (gateway, t) => {
      const exp = now() + 3;
      const ws = await connected(t, gateway, { exp, sub: 'same' });
      const answer = await ask(ws, 'auth:refresh', make());
      const said = refusal(answer);
      if (error) assert.equal(said, error);
      await endsWithin(ws, exp);
    });
  }

  row(site, 'B81 refreshed by null, nothing or garbage answers an error', async (gateway, t) => {
    const ws = await connected(t, gateway, { sub: 'same' });
    for (const data of [null, 5, 'x', [], { token: null }, { token: 'a.b.c' }, { token: 'x'.repeat(100_000) }]) {
      assert.equal((await ask(ws, 'auth:refresh', data)).success, false, JSON.stringify(data)?.slice(0, 40));
    }
    await alive(ws);
  });

  row(site, 'B81 a refresh changes no rights: the claims in force are those of the newer token, of the same user', async (gateway, t) => {
    const ws = await connected(t, gateway, { sub: 'same', rooms: ['a'] });
    assert.deepEqual(await ask(ws, 'join', { room: 'b' }), { success: false, error: 'Not allowed' });
    assert.equal((await ask(ws, 'auth:refresh', { token: token('HS256', SECRET, { sub: 'same', rooms: ['a'] }) })).success, true);
    assert.deepEqual(await ask(ws, 'join', { room: 'b' }), { success: false, error: 'Not allowed' });
    assert.deepEqual(await ask(ws, 'join', { room: 'a' }), { success: true, room: 'a' });
  });
});

describe('a secret thing', () => {
  const site = underAttack({ env: { JWT_SECRET: SECRET, LOG: 'trace' } });
  row(site, 'B80 is in no log and no metric: tokens by payload, query and header, session ids, the secret itself', async (gateway, t) => {
    const tokens = ['payload', 'query', 'header'].map((sub) => token('HS256', SECRET, { sub }));
    const [inPayload, inQuery, inHeader] = tokens;
    assert.equal(await connect(gateway, t, { token: inPayload }), 'accepted');
    assert.equal(await connect(gateway, t, undefined, { query: `&token=${inQuery}` }), 'accepted');
    assert.equal(await connect(gateway, t, undefined, { headers: { Authorization: `Bearer ${inHeader}` } }), 'accepted');
    assert.deepEqual(await connect(gateway, t, { token: `${inPayload}x` }), INVALID);
    const ws = await joined(t, gateway, { query: `&token=${inQuery}` });
    const refreshed = token('HS256', SECRET, { sub: 'payload', jti: 'refresh' });
    await ask(ws, 'auth:refresh', { token: refreshed });
    const answer = await fetch(`${gateway.internalUrl}/metrics`);
    const told = `${await answer.text()}${gateway.output.stdout}${gateway.output.stderr}`;
    for (const secret of [...tokens, refreshed].map((one) => one.split('.')[2]).concat(SECRET, ws.sid))
      assert.ok(!told.includes(secret), `${secret} is told`);
  });
});
