// The cost of alerting a thousand connected helpers: one search for nearby helpers, and one broadcast for all of
// them.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { bounded, connected } from './support/clients.mjs';
import { startCluster } from './support/cluster.mjs';
import { citizen, emergencies, helper, NAMESPACE } from './support/emergencies.mjs';
import { once } from './support/wait.mjs';

const HELPERS = 1_000;

describe(`${HELPERS} helpers`, () => {
  let cluster;
  before(async () => { cluster = await startCluster(2); });
  after(() => cluster?.stop());

  test('cost one search and one broadcast', { timeout: 120_000 }, async (t) => {
    const app = emergencies(cluster.nodes);
    const sockets = await bounded(HELPERS, 50, async (n) => {
      const claims = helper();
      const socket = cluster.nodes[n % 2].clients.socket({ namespace: NAMESPACE, token: app.token(claims), transports: ['websocket'] });
      await connected(socket);
      // The answer proves that the socket is in the helpers' room.
      assert.equal((await socket.emitWithAck('auth:refresh', { token: app.token(claims) })).success, true);
      return socket;
    });
    const redis = await cluster.redis.connect();
    const looks = async () => Number(/cmdstat_geosearch:calls=(\d+)/.exec(await redis.info('commandstats'))?.[1] ?? 0);
    const published = async () => (await cluster.nodes[0].metrics()).get('muster_redis_published_total');
    const [looksBefore, publishedBefore] = [await looks(), await published()];
    const begun = performance.now();
    const received = sockets.map((socket) => once(socket, 'emergency:created', { timeout: 30_000 }));
    const raised = await app.raise(0, citizen());
    const all = await Promise.all(received);
    assert.ok(all.every(([created]) => created.emergency.id === raised.id && created.nearbyHelperCount === 0));
    assert.deepEqual([(await looks()) - looksBefore, (await published()) - publishedBefore], [1, 1]);
    t.diagnostic(`${HELPERS} helpers on two nodes received it within ${(performance.now() - begun).toFixed(0)} ms`);
  });
});
