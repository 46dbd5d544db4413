// Withdrawn grants, participants who leave and banned users, while nodes are killed and Redis is slow: users who lost a
// room stay out, banned users are disconnected, and counts are correct when nothing moves. PAIRS_MINUTES sets the
// duration (10 in `make chaos`), PAIRS_SEED repeats a run.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';

import { keeper, unique } from './support/clients.mjs';
import { ready, startCluster } from './support/cluster.mjs';
import { load } from './support/packages.mjs';
import { randomOf } from './support/pairs.mjs';
import { startPostgres } from './support/postgres.mjs';
import { startProxy } from './support/proxy.mjs';
import { startRedis } from './support/redis.mjs';
import { keepBooks } from './support/removals.mjs';
import { delay, eventually, within } from './support/wait.mjs';

const { Emitter } = load('@socket.io/redis-emitter');

const MINUTES = Number(process.env.PAIRS_MINUTES ?? 0.1);
const SEED = process.env.PAIRS_SEED ?? String(randomInt(2 ** 31));

/** How long a fault lasts, in milliseconds. */
const FAULT = Math.min(MINUTES * 30_000, 8_000);

/** When counts must be correct after a fault: a dead node's lease and the hold-back, plus time for a busy machine. */
const QUIET = 20_000;

/** Two nodes that reach Redis through a proxy: `{living(), emitter, proxy, kill(), revive(), stop()}`. */
async function startSite() {
  const [redis, postgres] = await Promise.all([startRedis(), startPostgres()]);
  const proxy = await startProxy(redis.port);
  const cluster = await startCluster(2, { redis, redisUrl: proxy.url, env: { DATABASE_URL: postgres.url, EVENTS_PER_SECOND: '0' } });
  const { nodes } = cluster;
  let dead;
  return {
    proxy,
    emitter: new Emitter(await redis.connect()),
    living: () => nodes.filter((_, at) => at !== dead),
    async kill(at) {
      dead = at;
      await nodes[at].kill();
      nodes[at].clients.closeAll();
    },
    async revive() {
      if (dead === undefined) return;
      const node = await nodes[dead].restart();
      node.clients = keeper(node);
      await ready(node);
      nodes[dead] = node;
      dead = undefined;
    },
    async stop() {
      await cluster.stop();
      await proxy.close();
      await redis.stop();
      await postgres.kill();
    },
  };
}

test('removed users stay out, and counts are correct, through kills and a slow Redis', { timeout: MINUTES * 60_000 + 240_000 }, async () => {
  const random = randomOf(SEED);
  const site = await startSite();
  try {
    const books = keepBooks(site, { random });
    const { people, wrong, pick } = books;
    const visits = Array.from({ length: 3 }, () => `visit:${unique('v')}`);
    const incidents = Array.from({ length: 2 }, () => unique('sos'));
    const some = () => people.filter(() => random() < 0.5);
    let isOver;
    const during = async (step) => {
      while (!isOver) {
        await step();
        await delay(random() * 8);
      }
    };

    const visit = (room) => async () => {
      await books.grant(room, some());
      await Promise.all(people.map((one) => books.join(one, room)));
    };
    const incident = (sosId) => async () => {
      const one = pick(people);
      await books.participate(one, sosId, true);
      await books.participate(pick([one, pick(people)]), sosId, false);
    };
    /** Bans a user, whose connection must end. */
    const ban = async () => {
      const { user, socket } = pick(people);
      if (!socket) return;
      site.emitter.in(`user:${user}`).disconnectSockets();
      await within(new Promise((resolve) => { if (socket.connected) socket.once('disconnect', resolve); else resolve(); }), 10_000, 'a ban').catch(() => wrong.push(`${user} was banned and stayed`));
      await delay(200);
    };
    const reconnect = () => Promise.all(people.filter(({ socket }) => !socket).map((one) => books.connect(one)));

    const faults = [
      async () => site.proxy.delay(200),
      async () => site.kill(pick([0, 1])),
      async () => { site.proxy.delay(200); await site.kill(pick([0, 1])); },
    ];
    const end = performance.now() + MINUTES * 60_000;
    let rounds = 0;
    do {
      isOver = false;
      await reconnect();
      const rooms = [...visits, ...incidents.map((sosId) => `sos:${sosId}`)];
      const steps = [...visits.map(visit), ...incidents.map(incident), ban, reconnect, ...rooms.map((room) => () => books.emit(room))];
      const doing = steps.map(during);
      await delay(FAULT / 4);
      await faults[rounds % faults.length]();
      await delay(FAULT);
      site.proxy.delay(0);
      await site.revive();
      isOver = true;
      await Promise.all(doing);

      // A pause: all users are connected, and every node knows it.
      await eventually(async () => { await reconnect(); return people.every(({ socket }) => socket?.connected); }, { timeout: QUIET, what: 'all users to be connected' });
      for (const room of visits) {
        await eventually(() => books.grant(room, some()), { timeout: QUIET, what: `the grants of ${room}` });
        await books.counted(room, () => people.filter((one) => one.rooms.has(room)), QUIET);
      }
      for (const sosId of incidents) {
        const users = await books.participants(sosId);
        await books.counted(`sos:${sosId}`, () => people.filter(({ user }) => users.includes(user)), QUIET);
      }
      assert.deepEqual(wrong, [], `PAIRS_SEED=${SEED}, round ${rounds}`);
      rounds += 1;
    } while (performance.now() < end);
  } finally {
    await site.stop();
  }
});
