// Redis over TLS, with a user and a password: a certificate that the system trusts is accepted, any other refused.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, keeper, unique } from './support/clients.mjs';
import { ready } from './support/cluster.mjs';
import { runGateway, startGateway, temporaryDirectory } from './support/gateway.mjs';
import { freePort } from './support/ports.mjs';
import { request } from './support/raw.mjs';
import { startRedis } from './support/redis.mjs';
import { once } from './support/wait.mjs';

describe('Redis over TLS', () => {
  const directory = temporaryDirectory();
  const file = (name) => join(directory, name);
  let redis;
  let port;
  before(async () => {
    const openssl = (...args) => execFileSync('openssl', args, { cwd: directory, stdio: 'ignore' });
    const authority = (name) => openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.crt`);
    authority('ours');
    authority('theirs');
    openssl('req', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=redis', '-keyout', 'redis.key', '-out', 'redis.csr');
    writeFileSync(file('names'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n');
    openssl('x509', '-req', '-in', 'redis.csr', '-CA', 'ours.crt', '-CAkey', 'ours.key', '-CAcreateserial', '-days', '2', '-extfile', 'names', '-out', 'redis.crt');
    chmodSync(file('redis.key'), 0o600);
    port = await freePort();
    redis = await startRedis({
      args: [
        '--tls-port', String(port), '--tls-cert-file', file('redis.crt'), '--tls-key-file', file('redis.key'), '--tls-auth-clients', 'no', '--tls-ca-cert-file', file('ours.crt'),
        '--user', 'default', 'off', '--user', 'muster', 'on', '>s3cret!', '~*', '&*', '+@all',
      ],
    });
  });
  after(() => redis?.stop());

  const settings = (authority, credentials = 'muster:s3cret%21') => ({ REDIS_URL: `rediss://${credentials}@127.0.0.1:${port}`, SSL_CERT_FILE: file(authority) });

  test('rooms work over TLS', async () => {
    const node = await startGateway({ env: settings('ours.crt') });
    const clients = keeper(node);
    try {
      await ready(node);
      const room = unique('room');
      const socket = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
      await ask(socket, 'join', { room });
      const heard = once(socket, 'hello');
      assert.equal((await ask(socket, 'publish', { room, event: 'hello', data: 1 })).success, true);
      await heard;
      assert.equal((await ask(socket, 'members', { room })).count, 1);
    } finally {
      clients.closeAll();
      await node.kill();
    }
  });

  for (const [what, authority, credentials] of [['an unknown authority', 'theirs.crt', undefined], ['a wrong password', 'ours.crt', 'muster:wrong']]) {
    test(`with ${what} the node runs and reports that Redis is unavailable`, async () => {
      const node = await startGateway({ env: settings(authority, credentials) });
      try {
        await node.waitLog((entry) => /cannot connect to Redis/.test(entry.message ?? ''), { timeout: 15_000 });
        const answer = await request(node.port, 'GET', '/ready');
        assert.deepEqual([answer.status, JSON.parse(answer.body).failed], [503, ['redis']]);
        assert.ok(!JSON.stringify(node.logs).includes('s3cret') && !JSON.stringify(node.logs).includes('wrong@'));
      } finally {
        await node.kill();
      }
    });
  }

  test('REDIS_CA_CERT is trusted only for Redis', async () => {
    const { REDIS_URL } = settings('ours.crt');
    const node = await startGateway({ env: { REDIS_URL, REDIS_CA_CERT: file('ours.crt') } });
    const clients = keeper(node);
    try {
      await ready(node);
      const room = unique('room');
      const socket = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
      await ask(socket, 'join', { room });
      assert.equal((await ask(socket, 'members', { room })).count, 1);
    } finally {
      clients.closeAll();
      await node.kill();
    }
  });

  test('a certificate of `openssl req -x509` with CA:FALSE is trusted as configured, and without REDIS_CA_CERT the log says how to create it', async () => {
    const openssl = (...args) => execFileSync('openssl', args, { cwd: directory, stdio: 'ignore' });
    const selfSigned = (name, ...more) => openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost', ...more, '-keyout', `${name}.key`, '-out', `${name}.crt`);
    selfSigned('common');
    selfSigned('leaf', '-addext', 'basicConstraints=critical,CA:FALSE');
    for (const [name, said] of [['common', /CA:FALSE.*REDIS_CA_CERT/], ['leaf', undefined]]) {
      chmodSync(file(`${name}.key`), 0o600);
      const own = await freePort();
      const server = await startRedis({ args: ['--tls-port', String(own), '--tls-cert-file', file(`${name}.crt`), '--tls-key-file', file(`${name}.key`), '--tls-auth-clients', 'no', '--tls-ca-cert-file', file(`${name}.crt`)] });
      const node = await startGateway({ env: { REDIS_URL: `rediss://127.0.0.1:${own}`, REDIS_CA_CERT: file(`${name}.crt`) } });
      try {
        if (said) await troubled(node, own, said);
        else await ready(node);
      } finally {
        await node.kill();
        await server.stop();
      }
    }
  });

  /** Arguments of a TLS server on this port, with a certificate of the test's authority. */
  const tls = (at) => ['--tls-port', String(at), '--tls-cert-file', file('redis.crt'), '--tls-key-file', file('redis.key'), '--tls-auth-clients', 'no', '--tls-ca-cert-file', file('ours.crt')];

  /** Starts a Redis topology with TLS everywhere: the address for the node, and what to stop. */
  const TOPOLOGIES = {
    async cluster() {
      const [at, bus] = [await freePort(), await freePort()];
      const server = await startRedis({ args: [...tls(at), '--cluster-enabled', 'yes', '--tls-cluster', 'yes', '--cluster-port', String(bus)] });
      const admin = await server.connect();
      await admin.sendCommand(['CLUSTER', 'ADDSLOTSRANGE', '0', '16383']);
      return { url: `rediss+cluster://127.0.0.1:${at}`, servers: [server] };
    },
    async sentinel() {
      const [at, watched] = [await freePort(), await freePort()];
      const primary = await startRedis({ args: [...tls(watched), '--tls-replication', 'yes'] });
      writeFileSync(file('sentinel.conf'), `sentinel monitor main 127.0.0.1 ${watched} 1\n`);
      const sentinel = await startRedis({ config: file('sentinel.conf'), args: ['--sentinel', ...tls(at), '--tls-replication', 'yes'], ready: /\+monitor master/ });
      return { url: `rediss+sentinel://127.0.0.1:${at}/main`, servers: [sentinel, primary] };
    },
  };

  for (const [topology, start] of Object.entries(TOPOLOGIES)) {
    test(`REDIS_CA_CERT is trusted for each server of a ${topology}`, { timeout: 60_000 }, async () => {
      const { url, servers } = await start();
      const settings = { REDIS_URL: url, MOUNTS: 'relay=/relay', JWT_SECRET: 'a secret of two nodes that nobody else knows' };
      const nodes = [];
      try {
        const other = await startGateway({ env: { ...settings, REDIS_CA_CERT: file('theirs.crt') } });
        nodes.push(other);
        await other.waitLog((entry) => /cannot connect to Redis|cannot subscribe/.test(entry.message ?? '') && /REDIS_CA_CERT/.test(entry.error), { timeout: 20_000 });
        for (let at = 0; at < 2; at += 1) nodes.push(await startGateway({ env: { ...settings, REDIS_CA_CERT: file('ours.crt') } }));
        const [a, b] = nodes.slice(1);
        await Promise.all([ready(a), ready(b)]);
        const [here, there] = [a, b].map((node) => keeper(node));
        try {
          const room = unique('room');
          const [speaker, listener] = [await here.connect({ namespace: '/relay', claims: EVERYTHING }), await there.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: 'u2' } })];
          await ask(listener, 'join', { room });
          const heard = once(listener, 'hello');
          assert.equal((await ask(speaker, 'publish', { room, event: 'hello', data: 1 })).success, true);
          assert.equal((await heard)[0], 1);
        } finally {
          here.closeAll();
          there.closeAll();
        }
      } finally {
        for (const node of nodes) await node.kill();
        for (const server of servers) await server.stop();
      }
    });
  }

  /** The node logs that it cannot connect to Redis at this port, and why. */
  const troubled = async (node, at, why) => {
    const line = await node.waitLog((entry) => /cannot connect to Redis/.test(entry.message ?? ''), { timeout: 20_000 });
    assert.match(line.server, new RegExp(`:${at}$`));
    assert.match(line.error, why);
  };

  for (const [what, url, why, env] of [
    ['an unknown authority', () => [`rediss://muster:s3cret%21@127.0.0.1:${port}`, port], /REDIS_CA_CERT/, {}],
    ['another authority in REDIS_CA_CERT', () => [`rediss://muster:s3cret%21@127.0.0.1:${port}`, port], /REDIS_CA_CERT/, { REDIS_CA_CERT: () => file('theirs.crt') }],
    ['redis:// to the TLS port', () => [`redis://muster:s3cret%21@127.0.0.1:${port}`, port], /rediss:\/\//, {}],
    ['rediss:// to the plain port', () => [`rediss://127.0.0.1:${redis.port}`, redis.port], /a port without TLS wants redis:\/\//, {}],
    ['a wrong password', () => [`redis://muster:wrong@127.0.0.1:${redis.port}`, redis.port], /check user and password/, {}],
    ['a closed port', async () => { const free = await freePort(); return [`redis://127.0.0.1:${free}`, free]; }, /nothing listens there; is Redis running/, {}],
    ['another name', async () => [`rediss://muster:s3cret%21@127.0.0.2:${port}`, port], /nothing listens there|certificate's subjectAltName/, { REDIS_CA_CERT: () => file('ours.crt') }],
  ]) {
    test(`with ${what} the log names the address and what to do`, async () => {
      const [address, at] = await url();
      const node = await startGateway({ env: { REDIS_URL: address, ...Object.fromEntries(Object.entries(env).map(([key, value]) => [key, value()])) } });
      try {
        await troubled(node, at, why);
      } finally {
        await node.kill();
      }
    });
  }

  test('a REDIS_CA_CERT that cannot be used stops the start', async () => {
    writeFileSync(file('empty.crt'), 'nothing\n');
    for (const [path, why] of [['missing.crt', /REDIS_CA_CERT.*missing\.crt.*No such file/], ['empty.crt', /REDIS_CA_CERT.*empty\.crt.*no certificate/]]) {
      const { code, stderr } = await runGateway(['serve'], { env: { ...settings('ours.crt'), LISTEN: '127.0.0.1:0', INTERNAL_LISTEN: '127.0.0.1:0', MOUNTS: 'relay=/relay', JWT_SECRET: 'x'.repeat(40), REDIS_CA_CERT: file(path) } });
      assert.notEqual(code, 0);
      assert.match(stderr, why);
    }
  });
});
