// PostgreSQL over TLS: `sslmode=verify-full` accepts only a certificate of the given authority for the host's name.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { ask, keeper } from './support/clients.mjs';
import { ready } from './support/cluster.mjs';
import { startGateway, temporaryDirectory } from './support/gateway.mjs';
import { startPostgres } from './support/postgres.mjs';
import { request } from './support/raw.mjs';

describe('PostgreSQL over TLS', () => {
  const directory = temporaryDirectory();
  const file = (name) => join(directory, name);
  let postgres;
  before(async () => {
    const openssl = (...args) => execFileSync('openssl', args, { cwd: directory, stdio: 'ignore' });
    for (const name of ['ours', 'theirs']) openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.crt`);
    openssl('req', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=postgres', '-keyout', 'server.key', '-out', 'server.csr');
    writeFileSync(file('names'), 'subjectAltName=DNS:localhost\n');
    openssl('x509', '-req', '-in', 'server.csr', '-CA', 'ours.crt', '-CAkey', 'ours.key', '-CAcreateserial', '-days', '2', '-extfile', 'names', '-out', 'server.crt');
    postgres = await startPostgres({ tls: { cert: file('server.crt'), key: file('server.key') } });
  });
  after(() => postgres?.kill());

  const url = (host, query) => `postgres://postgres@${host}:${postgres.port}/postgres?${query}`;

  test('is used if it is requested, and verified', { timeout: 60_000 }, async () => {
    for (const query of [`sslmode=verify-full&sslrootcert=${file('ours.crt')}`, 'sslmode=require']) {
      const node = await startGateway({ env: { DATABASE_URL: url('localhost', query) } });
      const clients = keeper(node);
      try {
        await ready(node);
        const socket = await clients.connect();
        await ask(socket, 'join_room', 'r');
        assert.equal((await ask(socket, 'send_message', { roomId: 'r', content: query })).success, true);
      } finally {
        clients.closeAll();
        await node.kill();
      }
    }
  });

  for (const [what, host, query] of [
    ['another authority', 'localhost', () => `sslmode=verify-full&sslrootcert=${file('theirs.crt')}`],
    ['another name', '127.0.0.1', () => `sslmode=verify-full&sslrootcert=${file('ours.crt')}`],
    ['no TLS', 'localhost', () => 'sslmode=disable'],
  ]) {
    test(`with ${what} the node runs, but has no records`, { timeout: 60_000 }, async () => {
      const node = await startGateway({ env: { DATABASE_URL: url(host, query()) } });
      try {
        await node.waitLog((entry) => /the database is not available/.test(entry.message ?? ''), { timeout: 15_000 });
        const answer = await request(node.port, 'GET', '/ready');
        assert.deepEqual([answer.status, JSON.parse(answer.body).failed], [503, ['records']]);
      } finally {
        await node.kill();
      }
    });
  }
});
