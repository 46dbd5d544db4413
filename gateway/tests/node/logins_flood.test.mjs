// Many logins at once: what they cost the node, and that known users can still log in.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, ask, bounded, keeper } from './support/clients.mjs';
import { runGateway, startGateway } from './support/gateway.mjs';
import { growsAtMost, meter, processorTime } from './support/hostile.mjs';
import { rawConnection, request, requestText } from './support/raw.mjs';
import { delay, eventually } from './support/wait.mjs';

const LOGIN = '/api/v1/auth/login';
const PASSWORD = 'right one';
const MIB = 2 ** 20;
/** A hash takes 19 MiB; there is one hashing thread per core, less one. */
const HASHES = (cores) => Math.min(Math.max(cores - 1, 1), 8);

function loginText(port, address, email, password) {
  return requestText(port, 'POST', LOGIN, {
    headers: { 'Content-Type': 'application/json', 'X-Forwarded-For': address, Connection: 'close' },
    body: JSON.stringify({ email, password }),
  });
}

describe('a flood of logins', () => {
  let gateway;
  let clients;
  before(async () => {
    gateway = await startGateway({ env: { TRUSTED_PROXIES: '127.0.0.1/32', EVENTS_PER_SECOND: '0' } });
    clients = keeper(gateway);
    const added = await runGateway(['user', 'add', '--email', 'ann@example.com', '--name', 'Ann'], { env: { DATABASE_URL: gateway.databaseUrl }, input: `${PASSWORD}\n` });
    assert.equal(added.code, 0, added.stderr);
  });
  after(async () => {
    clients?.closeAll();
    gateway?.assertQuiet();
    await gateway?.kill();
  });

  const login = (address, email, password) => request(gateway.port, 'POST', LOGIN, {
    headers: { 'Content-Type': 'application/json', 'X-Forwarded-For': address },
    body: JSON.stringify({ email, password }),
    timeout: 20_000,
  });
  const workers = async () => (await gateway.metrics()).get('muster_workers');

  test('takes memory for a few hashes and a short queue, and delays no other client', { timeout: 60_000 }, async (t) => {
    const refused = await meter(gateway, 'muster_rate_limited_total', 'limit="password_hashes"');
    const socket = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
    let acks = 0;
    const allowed = 32 * MIB + HASHES(await workers()) * 20 * MIB;
    const answers = await growsAtMost(gateway.pid, allowed, async () => {
      let over = false;
      const honest = (async () => {
        while (!over) {
          assert.equal(await ask(socket, 'echo', 1), 1);
          acks += 1;
          // Leaves processor time for the logins.
          await delay(5);
        }
      })();
      const all = await Promise.all(Array.from({ length: 64 }, (_, at) => login(`198.51.${at}.1`, `nobody${at}@example.com`, 'wrong')));
      over = true;
      await honest;
      return all;
    });
    const count = (status) => answers.filter((answer) => answer.status === status).length;
    assert.ok(count(401) >= 2 && count(429) >= 1 && count(401) + count(429) === 64, answers.map(({ status }) => status).join(' '));
    for (const answer of answers.filter(({ status }) => status === 429)) {
      assert.deepEqual(JSON.parse(answer.body), { success: false, error: 'Too many logins, try again' });
      assert.match(answer.headers['retry-after'], /^[1-5]$/);
    }
    assert.equal((await refused.total()) - refused.start, count(429));
    t.diagnostic(`${count(401)} tried, ${count(429)} refused, ${acks} acks of an honest client meanwhile`);
  });

  test('does not block an e-mail that has logged in from its address before', { timeout: 60_000 }, async () => {
    assert.equal((await login('203.0.113.1', 'ann@example.com', PASSWORD)).status, 200);
    let over = false;
    let sent = 0;
    const flood = bounded(64, 64, async (n) => {
      for (let at = 0; !over && at < 1_000; at += 1) {
        sent += 1;
        await login(`198.18.${n}.${at % 250}`, `nobody${n}-${at}@example.com`, 'wrong');
      }
    });
    try {
      const waiting = await meter(gateway, 'muster_logins_waiting');
      await eventually(async () => (await waiting.total()) >= 16, { timeout: 10_000, what: 'the queue to be long' });
      for (let at = 0; at < 3; at += 1) {
        const answer = await login('203.0.113.1', 'ann@example.com', PASSWORD);
        assert.equal(answer.status, 200, `login ${at} beside ${sent} others: ${answer.body}`);
      }
    } finally {
      over = true;
      await flood;
    }
  });

  test('costs nothing for clients that disconnect before their turn', { timeout: 60_000 }, async () => {
    const waiting = await meter(gateway, 'muster_logins_waiting');
    assert.equal(waiting.start, 0);
    const cost = async (body) => {
      const start = processorTime(gateway.pid);
      await body();
      return processorTime(gateway.pid) - start;
    };
    const ofTen = await cost(() => bounded(10, 1, (at) => login(`192.0.2.${at}`, `nobody${at}@example.org`, 'wrong')));
    const ofAbandoned = await cost(async () => {
      const connections = await bounded(33, 33, (at) => rawConnection(gateway.port).then((connection) => {
        connection.write(loginText(gateway.port, `198.51.100.${at}`, `nobody${at}@example.net`, 'wrong'));
        return connection;
      }));
      await waiting.grows(24);
      for (const connection of connections) connection.reset();
      await waiting.returns({ to: 0 });
    });
    assert.ok(ofAbandoned < 2 * ofTen, `33 abandoned logins took ${ofAbandoned.toFixed(2)} s of the processor, and ten that were not ${ofTen.toFixed(2)} s`);
  });
});
