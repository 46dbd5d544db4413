// Tokens signed with a private key: a PEM file or a key set at a URL. The configured key fixes the algorithm.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { generateKeyPairSync, sign as signBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { EVERYTHING, ask, connected, keeper, refused } from './support/clients.mjs';
import { rawToken, startGateway, temporaryDirectory } from './support/gateway.mjs';
import { freePort } from './support/ports.mjs';
import { delay, eventually, once, until } from './support/wait.mjs';

const now = () => Math.floor(Date.now() / 1000);
const claims = (more = {}) => ({ sub: 'u1', exp: now() + 600, ...EVERYTHING, ...more });

const ALGORITHMS = {
  RS256: { pair: () => generateKeyPairSync('rsa', { modulusLength: 2048 }), sign: (data, key) => signBytes('sha256', data, key) },
  ES256: { pair: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }), sign: (data, key) => signBytes('sha256', data, { key, dsaEncoding: 'ieee-p1363' }) },
  EdDSA: { pair: () => generateKeyPairSync('ed25519'), sign: (data, key) => signBytes(null, data, key) },
};

/** A token signed with `alg` and `key`; `header` adds to its header. */
function token(alg, key, payload = claims(), header = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg, typ: 'JWT', ...header })}.${part(payload)}`;
  return `${signed}.${ALGORITHMS[alg].sign(Buffer.from(signed), key).toString('base64url')}`;
}

async function withGateway(env, work) {
  const gateway = await startGateway({ env: { JWT_SECRET: null, ...env } });
  const clients = keeper(gateway);
  try {
    await work({
      gateway,
      clients,
      url: gateway.url,
      async accepts(value, about) {
        const socket = await clients.connect({ namespace: '/relay', token: value }).catch((error) => { throw new Error(`${about}: ${error.message}`); });
        assert.equal(await ask(socket, 'echo', 1), 1, about);
        socket.disconnect();
      },
      /** A client whose token cannot be verified is neither admitted nor refused: its connection ends, so that it reconnects. */
      async sentBack(value, about) {
        const socket = clients.socket({ namespace: '/relay', token: value });
        const opened = once(socket.io, 'open').then(() => Date.now());
        const [reason] = await once(socket.io, 'close', { timeout: 10_000 });
        assert.equal(reason, 'transport close', about);
        const held = Date.now() - await opened;
        assert.ok(held < 6_000, `${about}: held for ${held} ms`);
      },
      async refuses(value, about, message = 'Invalid token') {
        const error = await refused(clients.socket({ namespace: '/relay', token: value })).catch((failure) => { throw new Error(`${about}: ${failure.message}`); });
        assert.equal(error.message, message, about);
      },
    });
    gateway.assertQuiet();
  } finally {
    clients.closeAll();
    await gateway.kill();
  }
}

describe('JWT_PUBLIC_KEY', { concurrency: 3 }, () => {
  for (const [alg, { pair }] of Object.entries(ALGORITHMS)) {
    test(`${alg} with a PEM file`, async () => {
      const { publicKey, privateKey } = pair();
      const pem = publicKey.export({ type: 'spki', format: 'pem' });
      const path = join(temporaryDirectory(), 'key.pem');
      writeFileSync(path, pem);
      await withGateway({ JWT_PUBLIC_KEY: path }, async ({ accepts, refuses }) => {
        await accepts(token(alg, privateKey), 'signed by its private key');
        await refuses(token(alg, pair().privateKey), 'signed by another key');
        await refuses(rawToken(claims(), pem), 'HS256 with the public key for a secret');
        await refuses(rawToken(claims(), pem.trim()), 'HS256 with the trimmed public key for a secret');
        await refuses(`${token(alg, privateKey).split('.').slice(0, 2).join('.')}.`, 'no signature');
        await refuses(rawToken(claims(), 'x', { alg: 'none', typ: 'JWT' }), 'alg none');
        const { privateKey: own, publicKey: ownPublic } = pair();
        await refuses(token(alg, own, claims(), { jwk: ownPublic.export({ format: 'jwk' }) }), 'a key of its own in the header');
        await refuses(token(alg, privateKey, claims({ exp: now() - 60 })), 'expired', 'Token expired');
        for (const [other, { pair: otherPair }] of Object.entries(ALGORITHMS)) {
          if (other !== alg) await refuses(token(other, otherPair().privateKey), `${other}`);
        }
      });
    });
  }

  test('issuer and audience must match if they are set', async () => {
    const { publicKey, privateKey } = ALGORITHMS.ES256.pair();
    const path = join(temporaryDirectory(), 'key.pem');
    writeFileSync(path, publicKey.export({ type: 'spki', format: 'pem' }));
    await withGateway({ JWT_PUBLIC_KEY: path, JWT_ISSUER: 'https://issuer.example', JWT_AUDIENCE: 'gateway' }, async ({ accepts, refuses }) => {
      const good = { iss: 'https://issuer.example', aud: 'gateway' };
      await accepts(token('ES256', privateKey, claims(good)), 'both fit');
      await accepts(token('ES256', privateKey, claims({ ...good, aud: ['other', 'gateway'] })), 'an audience of several');
      await refuses(token('ES256', privateKey, claims({ aud: 'gateway' })), 'no issuer');
      await refuses(token('ES256', privateKey, claims({ iss: good.iss })), 'no audience');
      await refuses(token('ES256', privateKey, claims({ ...good, iss: 'https://evil.example' })), 'another issuer');
      await refuses(token('ES256', privateKey, claims({ ...good, aud: 'other' })), 'another audience');
      await refuses(token('ES256', privateKey, claims({ ...good, aud: ['other'] })), 'other audiences');
    });
  });
});

describe('JWKS_URL', () => {
  test('keys are selected by kid; an unknown kid triggers a fetch, but not for every token', { timeout: 60_000 }, async () => {
    const keys = [];
    let fetched = 0;
    const server = createServer((request, response) => {
      fetched += 1;
      response.setHeader('Content-Type', 'application/json');
      response.end(JSON.stringify({ keys }));
    });
    await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
    const pairs = Object.fromEntries(Object.entries(ALGORITHMS).map(([alg, { pair }]) => [alg, pair()]));
    const publish = (alg, kid, pair) => keys.push({ ...pair.publicKey.export({ format: 'jwk' }), kid, alg, use: 'sig' });
    try {
      for (const [alg, pair] of Object.entries(pairs)) publish(alg, `kid-${alg}`, pair);
      await withGateway({ JWKS_URL: `http://127.0.0.1:${server.address().port}/jwks` }, async ({ url, accepts, refuses }) => {
        for (const [alg, { privateKey }] of Object.entries(pairs)) {
          await accepts(token(alg, privateKey, claims(), { kid: `kid-${alg}` }), alg);
        }
        assert.ok(fetched >= 1 && fetched <= 3, `the set was fetched ${fetched} times for known keys`);
        await refuses(token('RS256', pairs.RS256.privateKey, claims(), { kid: 'kid-ES256' }), 'the key of another algorithm');
        await refuses(rawToken(claims(), JSON.stringify(keys[0]), { alg: 'HS256', kid: 'kid-RS256' }), 'HS256');
        for (const kid of ['../../dev/null', "' OR 1", 'x'.repeat(10_000), '']) {
          await refuses(token('ES256', pairs.ES256.privateKey, claims(), { kid }), `kid ${kid.slice(0, 20)}`);
        }
        const before = fetched;
        for (let attempt = 0; attempt < 20; attempt += 1) {
          await refuses(token('ES256', ALGORITHMS.ES256.pair().privateKey, claims(), { kid: `unknown-${attempt}` }), 'an unknown kid');
        }
        assert.ok(fetched - before <= 2, `20 unknown kids fetched the set ${fetched - before} times`);
        // A long token is verified at the handshake, which must not trigger more fetches.
        const long = { name: 'n'.repeat(1_000), email: 'n'.repeat(1_000) };
        for (let at = 0; at < 20; at += 1) {
          const unknown = token('RS256', pairs.RS256.privateKey, claims(long), { kid: `long-${at}` });
          const handshake = await fetch(`${url}/socket.io/?EIO=4&transport=polling&token=${unknown}`);
          assert.equal(handshake.status, 200);
        }
        assert.ok(fetched - before <= 2, `20 handshakes with unknown kids fetched the set ${fetched - before} times`);
      });
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });

  test('the first token waits for a late key set, and a key that is added later is found', { timeout: 60_000 }, async () => {
    const keys = [];
    const waiting = [];
    let late = true;
    const server = createServer((request, response) => {
      const answer = () => {
        response.setHeader('Content-Type', 'application/json');
        response.end(JSON.stringify({ keys }));
      };
      if (late) waiting.push(answer);
      else answer();
    });
    await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
    // Long enough that the first token arrives before the set, whether or not the gateway serves without one.
    const released = until(server, 'request', () => waiting.length > 0, { timeout: 20_000, what: 'a request for the key set' })
      .then(() => delay(400))
      .then(() => {
        late = false;
        for (const answer of waiting) answer();
      });
    released.catch(() => {});
    const add = (kid) => {
      const pair = ALGORITHMS.ES256.pair();
      keys.push({ ...pair.publicKey.export({ format: 'jwk' }), kid, alg: 'ES256', use: 'sig' });
      return pair.privateKey;
    };
    try {
      const first = add('first');
      await withGateway({ JWKS_URL: `http://127.0.0.1:${server.address().port}/jwks` }, async ({ accepts }) => {
        await accepts(token('ES256', first, claims(), { kid: 'first' }), 'a key of the first set');
        await released;
        const second = add('second');
        await accepts(token('ES256', second, claims(), { kid: 'second' }), 'a key that was added');
      });
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });

  test('a key set of more than 256 KiB is not accepted, and a fetch ends after 5 s', { timeout: 60_000 }, async () => {
    const { publicKey, privateKey } = ALGORITHMS.ES256.pair();
    const key = { ...publicKey.export({ format: 'jwk' }), kid: 'a', alg: 'ES256', use: 'sig' };
    for (const answer of [
      (response) => response.end(JSON.stringify({ keys: [key], padding: 'x'.repeat(257 * 1024) })),
      () => {},
    ]) {
      const server = createServer((request, response) => answer(response));
      await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
      try {
        await withGateway({ JWKS_URL: `http://127.0.0.1:${server.address().port}/jwks` }, async ({ sentBack }) => {
          await sentBack(token('ES256', privateKey, claims(), { kid: 'a' }), 'signed by a key of that set');
        });
      } finally {
        server.closeAllConnections();
        server.close();
      }
    }
  });

  /** A key set that a test can change: `{url, keys, status, fetched, publish(kid), close()}`. */
  const changing = async () => {
    const set = { keys: [], status: 200, fetched: 0 };
    const server = createServer((request, response) => {
      set.fetched += 1;
      response.statusCode = set.status;
      response.end(JSON.stringify({ keys: set.keys }));
    });
    await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
    set.url = `http://127.0.0.1:${server.address().port}/jwks`;
    set.publish = (kid) => {
      const { publicKey, privateKey } = ALGORITHMS.ES256.pair();
      set.keys = [{ ...publicKey.export({ format: 'jwk' }), kid, use: 'sig' }];
      return (more) => token('ES256', privateKey, claims(more), { kid });
    };
    set.close = () => { server.closeAllConnections(); server.close(); };
    return set;
  };

  test('during an outage of the issuer clients wait and are not refused: a stock client reconnects by itself', { timeout: 60_000 }, async () => {
    const set = await changing();
    const sign = set.publish('a');
    set.status = 503;
    try {
      await withGateway({ JWKS_URL: set.url }, async ({ gateway, clients, url }) => {
        const socket = clients.socket({ namespace: '/relay', token: sign(), reconnection: true, reconnectionDelay: 100 });
        const refusals = [];
        socket.on('connect_error', (error) => refusals.push(error.message));
        assert.equal((await once(socket.io, 'close', { timeout: 10_000 }))[0], 'transport close');
        const answer = await fetch(`${url}/api/sos`, { method: 'POST', headers: { Authorization: `Bearer ${sign()}`, 'Content-Type': 'application/json' }, body: '{}' });
        assert.deepEqual([answer.status, await answer.json()], [503, { success: false, error: 'Service temporarily unavailable' }]);
        set.status = 200;
        await connected(socket);
        assert.deepEqual(refusals, []);
        const line = await gateway.waitLog((entry) => entry.message === 'a token is refused');
        assert.deepEqual([line.reason, line.place], ['no_key_set', '/relay']);
      });
    } finally {
      set.close();
    }
  });

  test("unknown keys of strangers do not delay a token with a new key", { timeout: 60_000 }, async () => {
    const set = await changing();
    const sign = set.publish('old');
    const other = ALGORITHMS.ES256.pair().privateKey;
    try {
      await withGateway({ JWKS_URL: set.url }, async ({ accepts, refuses }) => {
        await accepts(sign(), 'a key of the set');
        for (let at = 0; at < 5; at += 1) await refuses(token('ES256', other, claims(), { kid: `stranger-${at}` }), "a stranger's");
        const rotated = set.publish('new');
        await accepts(rotated({ iat: now() }), 'a token by the new key');
        assert.ok(set.fetched <= 4, `${set.fetched} fetches`);
      });
    } finally {
      set.close();
    }
  });

  test('a set without any key does not replace the keys, and is logged', { timeout: 60_000 }, async () => {
    const set = await changing();
    const sign = set.publish('kept');
    try {
      await withGateway({ JWKS_URL: set.url }, async ({ gateway, accepts, refuses }) => {
        await accepts(sign(), 'a key of the set');
        set.keys = [];
        await refuses(token('ES256', ALGORITHMS.ES256.pair().privateKey, claims(), { kid: 'unknown' }), 'triggers a fetch');
        const line = await gateway.waitLog((entry) => /cannot fetch the key set/.test(entry.message ?? ''));
        assert.deepEqual([line.level, line.error, line.kept], ['WARN', 'it holds no key that can be used', true]);
        await accepts(sign(), 'the key that the set had');
      });
    } finally {
      set.close();
    }
  });

  /** A server that answers with `answer(response)`: its URL, with credentials that no output may contain. */
  const serve = async (answer, { make = createServer, scheme = 'http' } = {}) => {
    const server = make((request, response) => answer(response));
    await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
    return { url: `${scheme}://user:hushhush7@127.0.0.1:${server.address().port}/jwks?key=hushhush7`, close: () => { server.closeAllConnections(); server.close(); } };
  };
  const selfSigned = () => {
    const directory = temporaryDirectory();
    execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', 'key.pem', '-out', 'crt.pem'], { cwd: directory, stdio: 'ignore' });
    return { key: readFileSync(join(directory, 'key.pem')), cert: readFileSync(join(directory, 'crt.pem')) };
  };
  const TROUBLES = {
    'a name that does not resolve': [() => ({ url: 'https://user:hushhush7@keys.invalid/jwks?key=hushhush7', close() {} }), /name of its host cannot be resolved/],
    'a port where nobody listens': [async () => ({ url: `http://user:hushhush7@127.0.0.1:${await freePort()}/jwks?key=hushhush7`, close() {} }), /connection was refused/],
    'an untrusted certificate': [() => serve((response) => response.end('{}'), { make: (answer) => createSecureServer(selfSigned(), answer), scheme: 'https' }), /TLS failed/],
    'no TLS where there should be': [() => serve((response) => response.end('{}'), { scheme: 'https' }), /TLS failed/],
    'a status': [() => serve((response) => { response.statusCode = 503; response.end(); }), /answer has status 503/],
    'a page': [() => serve((response) => response.end('<html>')), /no JSON Web Key Set/],
    'a set of no use': [() => serve((response) => response.end('{"keys":[]}')), /no key that can be used/],
    'too much': [() => serve((response) => response.end(JSON.stringify({ keys: [], padding: 'x'.repeat(257 * 1024) }))), /larger than 262144 bytes/],
    'nothing at all': [() => serve(() => {}), /took longer than 3000 ms/],
    'half of it': [() => serve((response) => { response.writeHead(200, { 'Content-Length': 100 }); response.write('{"keys"'); response.socket.end(); }), /cut off/],
  };
  test('the log and /ready say why a set could not be fetched, without the credentials of its URL', { timeout: 60_000 }, async () => {
    for (const [what, [begin, expected]] of Object.entries(TROUBLES)) {
      const { url, close } = await begin();
      const gateway = await startGateway({ env: { JWT_SECRET: null, JWKS_URL: url } });
      try {
        const ready = async () => JSON.parse(await (await fetch(`${gateway.url}/ready`)).text());
        const answer = await eventually(async () => { const now = await ready(); return expected.test(now.details?.tokens ?? '') && now; }, { timeout: 15_000, what: `${what} on /ready` });
        assert.deepEqual(answer.failed, ['tokens'], what);
        const health = await (await fetch(`${gateway.url}/health`)).json();
        assert.match(health.details.tokens, expected, what);
        const line = await gateway.waitLog((entry) => /cannot fetch the key set/.test(entry.message ?? ''), { timeout: 5_000 });
        assert.match(line.error, expected, what);
        assert.match(line.url, /^https?:\/\/…@[\w.]+(:\d+)?\/jwks\?…$/);
        assert.ok(!`${JSON.stringify([answer, health])}${gateway.output.stdout}${gateway.output.stderr}`.includes('hushhush7'), what);
      } finally {
        await gateway.kill();
        close();
      }
    }
  });

  test('while an earlier set is in use, the node is ready and reports what is wrong with the newer one', { timeout: 60_000 }, async () => {
    const { publicKey, privateKey } = ALGORITHMS.ES256.pair();
    let good = true;
    const keys = [{ ...publicKey.export({ format: 'jwk' }), kid: 'a', alg: 'ES256', use: 'sig' }];
    const { url, close } = await serve((response) => { response.statusCode = good ? 200 : 500; response.end(JSON.stringify({ keys })); });
    try {
      await withGateway({ JWKS_URL: url }, async ({ accepts, refuses, gateway }) => {
        await accepts(token('ES256', privateKey, claims(), { kid: 'a' }), 'a key of the set');
        good = false;
        await refuses(token('ES256', privateKey, claims(), { kid: 'unknown' }), 'triggers a fetch');
        const answer = await fetch(`${gateway.url}/ready`);
        const body = await answer.json();
        assert.deepEqual([answer.status, body.failed], [200, []]);
        assert.match(body.details.tokens, /status 500/);
      });
    } finally {
      close();
    }
  });
});
