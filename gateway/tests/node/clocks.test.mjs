// The wall clock of a node is set on and back while calls ring and go on, tokens are good, and Redis is asked.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { device as anyDevice, must } from './support/care.mjs';
import { connected, keeper } from './support/clients.mjs';
import { fakeClock } from './support/fake_clock.mjs';
import { startGateway } from './support/gateway.mjs';
import { startRedis } from './support/redis.mjs';
import { delay, eventually, once } from './support/wait.mjs';

const HOUR = 3_600;
const RING_MS = 2_500;

/** A device with a token that outlives the jump. */
const device = (node, given = {}) => anyDevice(node, { exp: Math.floor(Date.now() / 1_000) + 3 * HOUR, ...given });

const jumped = (node) => node.waitLog(({ message }) => message === 'the wall clock has jumped');

for (const [what, seconds] of [['on', HOUR], ['back', -HOUR]]) {
  describe(`the clock is set ${what} by an hour`, { concurrency: true }, () => {
    let clock;
    let redis;
    /** One node for each test that sets its clock. */
    const start = async (env = {}) => {
      const own = fakeClock();
      const node = await startGateway({ env: { ...own.env, ...env } });
      node.clients = keeper(node);
      return { clock: own, node, stop: async () => { node.clients.closeAll(); await node.kill(); } };
    };
    before(async () => { redis = await startRedis(); });
    after(() => redis?.stop());

    test('a call has lasted as long as it lasted', { timeout: 60_000 }, async () => {
      let node;
      let stop;
      ({ clock, node, stop } = await start());
      try {
        const [caller, callee] = [await device(node), await device(node)];
        const { callId } = await must(caller, 'call:initiate', { recipientId: callee.user });
        const begun = performance.now();
        await must(callee, 'call:accept', { callId });
        await delay(1_100);
        clock.jump(seconds);
        await jumped(node);
        await delay(1_100);
        const { duration } = await must(caller, 'call:end', { callId });
        const most = (performance.now() - begun) / 1_000;
        assert.ok(duration >= 2 && duration <= most, `${duration} is not from 2 to ${most}`);
      } finally {
        await stop();
      }
    });

    test('a call that rings goes on ringing, and is missed when it has rung for its time', { timeout: 60_000 }, async () => {
      const { clock: own, node, stop } = await start({ CALL_RING: `${RING_MS}ms` });
      try {
        const [caller, callee] = [await device(node), await device(node)];
        const begun = performance.now();
        const { callId } = await must(caller, 'call:initiate', { recipientId: callee.user });
        await callee.events.take('call:incoming');
        own.jump(seconds);
        await jumped(node);
        await callee.events.take('call:missed', (told) => told.callId === callId, { timeout: 20_000 });
        const rung = performance.now() - begun;
        assert.ok(rung >= RING_MS && rung < RING_MS + 10_000, `it rang for ${rung} ms`);
      } finally {
        await stop();
      }
    });

    test('a token is good for as long as the clock says', { timeout: 60_000 }, async () => {
      const { clock: own, node, stop } = await start();
      try {
        const lives = (exp) => node.clients.connect({ claims: { exp: Math.floor(own.now() / 1_000) + exp } });
        const [short, long] = [await lives(6), await lives(3 * HOUR)];
        const ended = once(short, 'disconnect', { timeout: 30_000 });
        own.jump(seconds);
        await jumped(node);
        if (seconds > 0) {
          assert.deepEqual((await ended)[0], 'transport close', 'it has expired');
        } else {
          ended.catch(() => {});
          await delay(8_000);
          assert.ok(short.connected, 'it has an hour more');
        }
        assert.ok(long.connected);
        // Who comes now comes by the clock as it is now.
        await connected(node.clients.socket({ claims: { exp: Math.floor(own.now() / 1_000) + 60 } }));
      } finally {
        await stop();
      }
    });

    test('nobody is offline, and Redis is not slow', { timeout: 60_000 }, async () => {
      const { clock: own, node, stop } = await start({ REDIS_URL: redis.url, PRESENCE_GRACE: '20s', CALL_RING: '20s', REDIS_PREFIX: `clock${seconds}:` });
      try {
        const asker = await device(node);
        const other = await device(node);
        const { callId } = await must(other, 'call:initiate', { recipientId: asker.user });
        await must(asker, 'call:accept', { callId });
        other.socket.disconnect();
        own.jump(seconds);
        await jumped(node);
        await delay(3_000);
        const { presences } = await must(asker, 'presence:get', { userIds: [other.user] });
        assert.notEqual(presences[0].status, 'offline', 'within the grace period');
        assert.deepEqual(asker.events.seen('call:ended'), []);
        const back = await device(node, { user: other.user });
        await must(back, 'call:end', { callId });
        const lag = (await node.metrics()).get('muster_canary_lag_seconds');
        assert.ok(lag < 3, `a canary takes ${lag} s`);
        await eventually(async () => (await node.metrics()).get('muster_redis_up') === 1, { what: 'Redis to be up' });
      } finally {
        await stop();
      }
    });
  });
}
