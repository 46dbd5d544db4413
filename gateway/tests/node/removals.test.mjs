// Withdrawn grants, participants who leave and banned users, while nodes are killed and Redis is slow: users who lost a
// room stay out, banned users are disconnected, and counts are correct when nothing moves. PAIRS_MINUTES sets the
// duration (10 in `make chaos`), PAIRS_SEED repeats a run.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { after, before, describe, test } from 'node:test';

import { keeper, unique } from './support/clients.mjs';
import { count, internal, ready, startCluster } from './support/cluster.mjs';
import { NAMESPACE, citizen, emergencies, helper } from './support/emergencies.mjs';
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
        // An unanswered join may have taken effect, so the user joins again.
        await eventually(async () => {
          await Promise.all(people.filter((one) => one.unsure.has(room)).map((one) => books.join(one, room)));
          return !people.some((one) => one.unsure.has(room));
        }, { timeout: QUIET, what: `answers to all joins of ${room}` });
        await books.counted(room, () => people.filter((one) => one.rooms.has(room)), QUIET);
      }
      for (const sosId of incidents) {
        const users = await books.participants(sosId);
        // A removal that is done late disconnects its user.
        await books.counted(`sos:${sosId}`, () => people.filter(({ user }) => users.includes(user)), QUIET, reconnect);
      }
      assert.deepEqual(wrong, [], `PAIRS_SEED=${SEED}, round ${rounds}`);
      rounds += 1;
    } while (performance.now() < end);
  } finally {
    await site.stop();
  }
});

describe('a slow node still removes a user who has come back through another one', () => {
  /** One direction of the slow node's connections to Redis, in milliseconds. */
  const SLOW = 60;
  /** The user comes back at these times after the removal began, in milliseconds. */
  const TIMES = Array.from({ length: 16 }, (_, n) => n * 60);

  let redis;
  let postgres;
  let proxy;
  let cluster;
  let slow;
  let quick;
  let app;
  before(async () => {
    [redis, postgres] = await Promise.all([startRedis(), startPostgres()]);
    proxy = await startProxy(redis.port);
    cluster = await startCluster(1, { redis, redisUrl: proxy.url, env: { DATABASE_URL: postgres.url } });
    slow = cluster.nodes[0];
    quick = await cluster.start({ REDIS_URL: redis.url });
    app = emergencies(cluster.nodes);
  });
  after(async () => {
    await cluster?.stop();
    await proxy?.close();
    await redis?.stop();
    await postgres?.kill();
  });

  /** Runs a scenario at all times, each with a user of its own, and lists the problems that it returned. */
  const all = async (story) => {
    const stories = TIMES.map((time) => story(time));
    const ready = await Promise.all(stories.map((one) => one.next().then(({ value }) => value)));
    assert.equal(ready.length, TIMES.length);
    proxy.delay(SLOW);
    const found = await Promise.all(stories.map((one) => one.next().then(({ value }) => value)));
    proxy.delay(0);
    const wrong = found.filter((problem) => problem !== undefined);
    assert.deepEqual(wrong, [], `${wrong.length} of ${TIMES.length} wrong`);
  };

  /**
   * Watches whether a socket receives what is sent to a room from the answer to its user's request to the end of their
   * removal: `from(answer)` returns the problem, if there is one.
   */
  const staying = (socket, room, removal) => {
    const received = new Set();
    let reason;
    socket.on('disconnect', (why) => { reason = why; });
    socket.on('mark', (n) => received.add(n));
    const mark = (n) => internal(quick, 'POST', '/internal/emit', { namespace: socket.nsp, to: { room }, event: 'mark', data: n });
    return {
      async from(answer) {
        if (answer.status !== 200) return { answer };
        let isOver = false;
        const over = removal.then(() => { isOver = true; });
        let sent = 0;
        for (; !isOver || sent < 2; sent += 1) {
          await mark(sent);
          await delay(100);
        }
        await over;
        await mark(sent);
        await eventually(() => received.has(sent) || reason !== undefined, { timeout: 2_000 }).catch(() => {});
        // An answer that says `incomplete` promises only that the socket is in the room later.
        const missed = answer.body.incomplete ? 0 : sent + 1 - received.size;
        return reason !== undefined || missed > 0 ? { reason, missed, sent, body: answer.body } : undefined;
      },
    };
  };

  test('a participant', () => all(async function* story(time) {
    const [sosId, sub] = [unique('sos'), unique('participant')];
    const sos = (node, action) => internal(node, 'POST', `/internal/participants/${action}`, { sosId, userId: sub, userType: 'rescuer' });
    const claims = { sub };
    await quick.clients.connect({ claims });
    assert.equal((await sos(quick, 'joined')).status, 200);
    yield 'ready';
    const leaving = sos(slow, 'left');
    // A socket that connects before the record says so is disconnected, too.
    const takesPart = async () => {
      const headers = { Authorization: `Bearer ${quick.token({ sub: 'chief', role: 'rescuer' })}` };
      const { data } = await fetch(`${quick.url}/api/sos/${sosId}/participants/active`, { headers }).then((response) => response.json());
      return data.some(({ userId }) => userId === sub);
    };
    await eventually(async () => !(await takesPart()), { interval: 10 });
    await delay(time);
    const back = await quick.clients.connect({ claims });
    const stays = staying(back, `sos:${sosId}`, leaving);
    const joined = await sos(quick, 'joined');
    const problem = await stays.from(joined);
    assert.ok(await takesPart());
    return problem && { time, ...problem };
  }));

  test('a helper', () => all(async function* story(time) {
    const [owner, helps] = [citizen(), helper()];
    const { socket } = await app.online(1, helps);
    const { id } = await app.raise(1, owner);
    await app.respond(1, id, helps);
    yield 'ready';
    const cancelling = app.setStatus(0, id, helps, { status: 'cancelled' });
    await delay(time);
    const stays = staying(socket, `emergency:${id}`, cancelling);
    const responded = await app.api(1, 'POST', `/${id}/respond`, helps);
    const problem = await stays.from(responded);
    const { helpers } = await app.good(200, 1, 'GET', `/${id}`, owner);
    // Who responded before the cancellation took effect has cancelled.
    return helpers[0].status !== 'cancelled' && problem ? { time, ...problem } : undefined;
  }));

  test('the answers say that a node has not answered, and its sockets follow later', async () => {
    const [sosId, owner, helps] = [unique('sos'), citizen(), helper()];
    const { id } = await app.raise(1, owner);
    await app.online(0, helps);
    await slow.clients.connect({ claims: helps });
    const join = async () => {
      const headers = { Authorization: `Bearer ${quick.token(helps)}`, 'Content-Type': 'application/json' };
      const response = await fetch(`${quick.url}/api/sos/${sosId}/participants/join`, { method: 'POST', headers, body: '{}' });
      return { status: response.status, body: await response.json() };
    };
    process.kill(slow.pid, 'SIGSTOP');
    try {
      const [joined, responded] = await Promise.all([join(), app.api(1, 'POST', `/${id}/respond`, helps)]);
      assert.deepEqual([joined.status, joined.body.incomplete], [201, true]);
      assert.deepEqual([responded.status, responded.body.incomplete], [200, true]);
    } finally {
      process.kill(slow.pid, 'SIGCONT');
    }
    const there = async () => {
      const counts = [await count(quick, `sos:${sosId}`), await count(quick, `emergency:${id}`, NAMESPACE)];
      return counts.every(({ users }) => users >= 1);
    };
    await eventually(there, { timeout: 20_000, what: 'the sockets to be in both rooms' });
    const again = await join();
    assert.deepEqual([again.status, again.body.incomplete], [200, undefined]);
  });
});
