// Records on a PostgreSQL behind a pooler that assigns connections per transaction, and databases that cannot be used:
// each error tells the operator what to do.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createServer } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import { ask, keeper, unique } from './support/clients.mjs';
import { runGateway, startGateway } from './support/gateway.mjs';
import { IGNORED, startPgBouncer } from './support/pgbouncer.mjs';
import { freePort } from './support/ports.mjs';
import { startPostgres } from './support/postgres.mjs';
import { request } from './support/raw.mjs';
import { eventually } from './support/wait.mjs';

const MEMBERS = 6;
const ROUNDS = 25;

let postgres;
before(async () => { postgres = await startPostgres(); });
after(() => postgres?.kill());

const psql = async (sql, database = 'postgres') =>
  (await promisify(execFile)('psql', ['-XAtq', '-h', '127.0.0.1', '-p', String(postgres.port), '-U', 'postgres', '-d', database, '-c', sql])).stdout.trim();

/** Creates a database; returns its name. */
async function database(options = '') {
  const name = unique('db').replaceAll('-', '_');
  await psql(`CREATE DATABASE ${name} ${options}`);
  return name;
}

const named = (url, name) => url.replace(/\/postgres$/, `/${name}`);

/** Stores messages in many rooms at once and reads them again; returns how many of both failed. */
async function talk(node) {
  const clients = keeper(node);
  try {
    const members = await Promise.all(Array.from({ length: MEMBERS }, () => clients.connect({ claims: { sub: unique('user') } })));
    const rooms = await Promise.all(members.map(async (member) => {
      const room = unique('room');
      assert.equal((await ask(member, 'join_room', room)).success, true);
      return room;
    }));
    const answers = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      answers.push(...await Promise.all(members.flatMap((member, at) => [
        ask(member, 'send_message', { roomId: rooms[at], content: `m${round}` }),
        ask(member, 'notification:list', {}),
      ])));
    }
    return answers.filter(({ success }) => !success).map(({ error }) => error);
  } finally {
    clients.closeAll();
  }
}

describe('behind PgBouncer in transaction mode', () => {
  for (const [what, ignored] of [['as its users configure it', IGNORED], ['where it leaves the mark out', `${IGNORED},options`]]) {
    test(`${what}, messages are stored, and the next start finds its tables`, { timeout: 120_000 }, async () => {
      const name = await database();
      const pooler = await startPgBouncer(postgres.port, { ignored });
      let node = await startGateway({ env: { DATABASE_URL: named(pooler.url, name) } });
      try {
        for (const start of ['the first start', 'the second start']) {
          await eventually(async () => (await request(node.port, 'GET', '/ready')).status === 200, { what: `${start} to be ready` });
          assert.deepEqual(await talk(node), [], start);
          node.assertQuiet();
          await node.stop();
          node = await node.restart();
        }
        // Nothing of this node remains in a session that another client gets next.
        assert.equal(await psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", name), '0');
        assert.equal(await psql('SELECT count(*) FROM chat_messages', name), String(2 * MEMBERS * ROUNDS));
      } finally {
        await node.kill();
        await pooler.stop();
      }
    });
  }

  test('a direct connection finds what was stored through the pooler, and vice versa', { timeout: 60_000 }, async () => {
    const pooler = await startPgBouncer(postgres.port);
    try {
      for (const order of [[postgres.url, pooler.url], [pooler.url, postgres.url]]) {
        const name = await database();
        for (const url of order) {
          const user = unique('user');
          const { code, stderr } = await runGateway(['user', 'add', '--email', `${user}@example.org`, '--name', user], { env: { DATABASE_URL: named(url, name) }, input: 'a long password\n' });
          assert.equal(code, 0, stderr);
        }
        assert.equal(await psql('SELECT count(*) FROM users', name), '2');
      }
    } finally {
      await pooler.stop();
    }
  });

  test('if PgBouncer ignores no startup parameter, the start fails and says what to write into pgbouncer.ini', async () => {
    const pooler = await startPgBouncer(postgres.port, { ignored: '' });
    try {
      await refused({ DATABASE_URL: pooler.url }, /ignore_startup_parameters = extra_float_digits into pgbouncer\.ini/);
    } finally {
      await pooler.stop();
    }
  });

  test('a direct connection prepares its statements', { timeout: 60_000 }, async () => {
    const node = await startGateway({ env: { DATABASE_URL: named(postgres.url, await database()), LOG: 'debug' } });
    try {
      assert.deepEqual(await talk(node), []);
      assert.ok(!node.logs.some(({ message }) => /a pooler is in front/.test(message ?? '')));
    } finally {
      await node.kill();
    }
  });
});

/** The gateway does not start, and prints why. */
async function refused(env, why) {
  const { code, stderr, stdout } = await runGateway(['serve'], { env: { LISTEN: '127.0.0.1:0', INTERNAL_LISTEN: '127.0.0.1:0', JWT_SECRET: 'x'.repeat(40), ...env } });
  assert.notEqual(code, 0);
  assert.match(stderr + stdout, why);
}

/** The node runs, is not ready, and has logged why. */
async function waits(url, why) {
  const node = await startGateway({ env: { DATABASE_URL: url } });
  try {
    const { error } = await node.waitLog(({ message }) => /the database is not available/.test(message ?? ''), { timeout: 15_000 });
    assert.match(error, why);
    assert.deepEqual(JSON.parse((await request(node.port, 'GET', '/ready')).body).failed, ['records']);
  } finally {
    await node.kill();
  }
}

describe('the error of an unusable database says what to do', { concurrency: 2 }, () => {
  for (const encoding of ['LATIN1', 'SQL_ASCII']) {
    test(`encoding ${encoding}`, async () => {
      const name = await database(`ENCODING '${encoding}' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0`);
      await refused({ DATABASE_URL: named(postgres.url, name) }, new RegExp(`127\\.0\\.0\\.1:${postgres.port} has the encoding ${encoding}.*ENCODING 'UTF8'`));
    });
  }

  test('a user who may not create tables', async () => {
    const [name, user] = [await database(), unique('role').replaceAll('-', '_')];
    await psql(`CREATE ROLE ${user} LOGIN`);
    const url = named(postgres.url, name).replace('postgres@', `${user}@`);
    await refused({ DATABASE_URL: url }, /permission denied for schema public: .*GRANT CREATE ON SCHEMA public/);
  });

  test('a port where nothing listens', async () => {
    const port = await freePort();
    await waits(`postgres://postgres@127.0.0.1:${port}/postgres`, new RegExp(`127\\.0\\.0\\.1:${port}: nothing listens there: is PostgreSQL running`));
  });

  test('a name that does not resolve', async () => {
    await waits('postgres://postgres@no-such-host.invalid/postgres', /no-such-host\.invalid:5432: the host's name is not known/);
  });

  test('a port of another protocol', async () => {
    const other = createServer((socket) => socket.on('error', () => {}).end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    await new Promise((resolve) => { other.listen(0, '127.0.0.1', resolve); });
    try {
      await waits(`postgres://postgres@127.0.0.1:${other.address().port}/postgres`, /does not speak PostgreSQL's protocol|closes the connection/);
    } finally {
      other.close();
    }
  });

  test('a server that does not answer', async () => {
    const mute = createServer((socket) => socket.on('error', () => {}));
    await new Promise((resolve) => { mute.listen(0, '127.0.0.1', resolve); });
    try {
      await waits(`postgres://postgres@127.0.0.1:${mute.address().port}/postgres`, /it does not answer in time/);
    } finally {
      mute.close();
    }
  });

  test('a database that does not exist', async () => {
    await waits(named(postgres.url, 'no_such_database'), /"no_such_database" does not exist: make it \(CREATE DATABASE/);
  });
});
