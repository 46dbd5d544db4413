// The push webhook: what a service that notifies offline helpers receives, how it can verify requests, and that no
// request of a client waits for it.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, before, describe, test } from 'node:test';

import { ask } from './support/clients.mjs';
import { startCluster } from './support/cluster.mjs';
import { ISO, about, citizen, emergencies, helper, place } from './support/emergencies.mjs';
import { startPushReceiver } from './support/push.mjs';
import { until } from './support/wait.mjs';

const SECRET = 'a secret that only the two of us know';

/** A delivery, after checking that its signature covers its text and time. */
function signed({ headers, raw }) {
  const timestamp = headers['x-muster-timestamp'];
  assert.match(timestamp, /^\S+$/);
  assert.equal(headers['x-muster-signature'], `sha256=${createHmac('sha256', SECRET).update(`${timestamp}.${raw}`).digest('hex')}`);
}

describe('the push webhook of two nodes', () => {
  let receiver;
  let cluster;
  let app;
  before(async () => {
    receiver = await startPushReceiver();
    cluster = await startCluster(2, { env: { PUSH_WEBHOOK_URL: receiver.url, PUSH_WEBHOOK_SECRET: SECRET } });
    app = emergencies(cluster.nodes);
  });
  after(async () => {
    await cluster?.stop();
    await receiver?.stop();
  });

  test('an emergency and its end are delivered, once each and signed', async () => {
    receiver.answer = () => 200;
    const location = place();
    const [near, far] = await Promise.all([app.online(1, helper()), app.online(0, helper())]);
    assert.equal((await ask(near.socket, 'location:update', location)).success, true);
    assert.equal((await ask(far.socket, 'location:update', place())).success, true);
    const owner = citizen();
    const { nearbyHelperCount, ...emergency } = await app.raise(0, owner, { location });
    assert.equal(nearbyHelperCount, 1);
    const [created] = await receiver.about(emergency.id, 1);
    assert.deepEqual([created.method, created.url], ['POST', '/push?to=helpers']);
    assert.match(created.headers['content-type'], /^application\/json\b/);
    const { id, timestamp, ...body } = created.body;
    assert.equal(created.headers['idempotency-key'], id);
    assert.match(timestamp, ISO);
    assert.deepEqual(body, { event: 'emergency:created', emergency, nearbyHelperIds: [near.claims.sub] });
    signed(created);

    await app.resolve(1, emergency.id, owner, { resolutionNotes: 'done' });
    const [ended] = await receiver.about(emergency.id, 1, 'emergency:ended');
    signed(ended);
    assert.notEqual(ended.body.id, id);
    assert.equal(ended.headers['idempotency-key'], ended.body.id);
    assert.deepEqual([ended.body.emergency.status, ended.body.emergency.resolutionNotes, Array.isArray(ended.body.nearbyHelperIds)], ['resolved', 'done', true]);
    assert.match(ended.body.timestamp, ISO);

    // One more from each node: by then, duplicates would have arrived.
    for (const at of [0, 1]) await receiver.about((await app.raise(at, citizen())).id, 1);
    assert.deepEqual((await receiver.about(emergency.id, 2)).map(({ body: each }) => each.event), ['emergency:created', 'emergency:ended']);
  });

  test('a cancelled emergency is delivered as ended', async () => {
    const owner = citizen();
    const { id } = await app.raise(1, owner);
    await app.cancel(0, id, owner);
    const [{ body }] = await receiver.about(id, 1, 'emergency:ended');
    assert.equal(body.emergency.status, 'cancelled');
  });

  test('a refused request is repeated with the same id until it is accepted', { timeout: 60_000 }, async () => {
    const answers = [500, 503, 200];
    receiver.answer = ({ body }) => (body.event === 'emergency:created' ? answers.shift() ?? 200 : 200);
    const { id } = await app.raise(0, citizen());
    const tries = await receiver.about(id, 3, 'emergency:created', { timeout: 45_000 });
    for (const each of tries) {
      signed(each);
      assert.equal(each.raw, tries[0].raw);
      assert.equal(each.headers['idempotency-key'], tries[0].headers['idempotency-key']);
    }
    await receiver.about((await app.raise(0, citizen())).id, 1);
    assert.equal((await receiver.about(id, 3)).length, 3, 'an accepted request is not repeated');
  });

  test('an anonymous emergency does not reveal its owner', async () => {
    receiver.answer = () => 200;
    const owner = citizen({ name: 'Ottilie Verborgen', email: 'ottilie@example.org' });
    const { id } = await app.raise(1, owner, { anonymousMode: true });
    await app.resolve(0, id, owner);
    for (const { raw, body, headers } of await receiver.about(id, 2)) {
      assert.deepEqual([body.emergency.user, body.emergency.resolvedBy], [null, null]);
      for (const secret of [owner.sub, owner.name, owner.email]) assert.ok(!`${raw} ${JSON.stringify(headers)}`.includes(secret), `${secret} in ${raw}`);
    }
  });

  test('no emergency waits for a webhook that never answers', { timeout: 60_000 }, async () => {
    receiver.answer = () => undefined;
    const watcher = await app.online(1, helper());
    const caller = citizen();
    const held = await app.raise(0, caller);
    await watcher.events.take('emergency:created', about(held.id));
    await app.resolve(1, held.id, caller);
    await watcher.events.take('emergency:ended', about(held.id));
    const [delivery] = await receiver.about(held.id, 1);
    assert.ok(delivery.isOpen, 'all were notified and answered before the timeout of the webhook');
    // More of them than may be in flight at once.
    for (let calls = 0; calls < 20; calls += 1) {
      const owner = citizen();
      const { id } = await app.raise(0, owner);
      assert.equal((await watcher.events.take('emergency:created', about(id))).emergency.id, id);
      await app.resolve(0, id, owner);
      assert.equal((await watcher.events.take('emergency:ended', about(id))).status, 'resolved');
    }
  });
});
