// Redis over TLS, with a user and a password: a certificate that the system knows is taken, any other refused.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, keeper, unique } from './support/clients.mjs';
import { ready } from './support/cluster.mjs';
import { startGateway, temporaryDirectory } from './support/gateway.mjs';
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

  test('rooms work through it', async () => {
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
    test(`with ${what} the node is up and says that Redis is missing`, async () => {
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
});
