// An anonymous emergency from start to end, on two nodes: no helper learns who the owner is, by any means.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';

import { TRANSPORTS, ask } from './support/clients.mjs';
import { HOLDBACK_MS, startCluster } from './support/cluster.mjs';
import { about, admin, citizen, emergencies, helper, north, place } from './support/emergencies.mjs';

/** The owner. Every identifying text is unique, so no other text contains it by chance. */
function stranger() {
  const mark = randomBytes(8).toString('hex');
  return citizen({ sub: `owner-${mark}`, name: `Ottilie${mark} Verborgen${mark}`, firstName: `Ottilie${mark}`, lastName: `Verborgen${mark}`, email: `o.${mark}@example.org`, avatar: `https://example.org/${mark}.png` });
}

/** The identifying texts of claims. */
const secrets = ({ sub, name, firstName, lastName, email, avatar }) => [sub, name, firstName, lastName, email, avatar];

/** Records every packet of a socket's connection, as it came. */
function tapping(frames) {
  return ({ io }) => io.engine.on('packet', ({ type, data }) => {
    frames.push(typeof data === 'string' ? data : `${type} ${Buffer.from(data ?? '').toString('latin1')}`);
  });
}

describe('an anonymous emergency on two nodes', () => {
  let cluster;
  let app;
  before(async () => {
    cluster = await startCluster(2);
    app = emergencies(cluster.nodes);
  });
  after(() => cluster?.stop());

  /** Helpers whose sockets and requests are overheard; what they got is in `frames` and `answers`. */
  function overheard() {
    const [frames, answers] = [[], []];
    return {
      frames,
      answers,
      online: (at, claims, options) => app.online(at, claims, { watch: tapping(frames), ...options }),
      request: async (...request) => {
        const { status, headers, text, body } = await app.api(...request);
        answers.push(`${request.slice(1, 3).join(' ')}: ${status} ${JSON.stringify(headers)} ${text}`);
        return { status, ...body };
      },
    };
  }

  /** What the logs of all nodes hold. */
  const logged = () => cluster.nodes.map(({ output }) => `${output.stdout}\n${output.stderr}`);

  /** Fails with the text in which one of `claims`' is found. */
  const keptFrom = (claims, what, texts) => {
    for (const text of texts) for (const secret of secrets(claims)) assert.ok(!text.includes(secret), `${what} contains '${secret}': ${text.slice(0, 2_000)}`);
  };

  test('nearby, responding, writing and watching helpers learn everything except the owner', async () => {
    const centre = place();
    const caller = stranger();
    const { frames, answers, online, request } = overheard();
    const [first, second, watcher] = await Promise.all([online(0, helper()), online(1, helper(), { transport: TRANSPORTS[1] }), online(1, helper())]);
    for (const [at, { socket }] of [first, second, watcher].entries()) assert.equal((await ask(socket, 'location:update', north(centre, 100 * (at + 1)))).success, true);
    const owner = await app.online(0, caller);
    const boss = await app.online(1, admin());

    // The alert, and its recipients.
    const { id, user, anonymousMode, nearbyHelperCount } = await app.raise(1, caller, { location: centre, anonymousMode: true, description: 'somebody is following me' });
    assert.deepEqual([user.id, anonymousMode, nearbyHelperCount], [caller.sub, true, 3]);
    for (const { events } of [first, second, watcher]) {
      for (const event of ['emergency:created', 'emergency:nearby']) {
        const { emergency } = await events.take(event, about(id));
        assert.deepEqual([emergency.anonymousMode, emergency.user, emergency.description], [true, null, 'somebody is following me']);
      }
    }
    const look = async () => {
      for (const [at, { claims }] of [first, second, watcher].entries()) {
        const { data } = await request(at % 2, 'GET', `/${id}`, claims);
        assert.deepEqual([data.id, data.user, data.resolvedBy], [id, null, null]);
      }
    };
    const find = async () => (await request(0, 'GET', `/nearby?latitude=${centre.latitude}&longitude=${centre.longitude}`, watcher.claims)).data;
    await look();
    assert.deepEqual((await find()).map((found) => [found.id, found.user]), [[id, null]]);

    // The responding helpers, and one who only watches.
    for (const [at, { claims }] of [first, second].entries()) {
      const { status, data } = await request(at, 'POST', `/${id}/respond`, claims);
      assert.deepEqual([status, data.user, data.helpers.at(-1).id], [200, null, claims.sub]);
    }
    for (const { socket } of [first, watcher]) {
      const { success, emergency } = await ask(socket, 'emergency:join', { emergencyId: id });
      assert.deepEqual([success, emergency.id, emergency.user], [true, id, null]);
    }
    assert.equal((await ask(owner.socket, 'emergency:join', { emergencyId: id })).emergency.user.id, caller.sub);
    await app.gathered(id, 4);
    await look();

    // Messages in both directions.
    const say = (person, message, to) => ask(person.socket, 'emergency:message', { emergencyId: id, message, ...to });
    const unsigned = async (sent, role, recipientId, receivers) => {
      assert.equal(sent.success, true, JSON.stringify(sent));
      assert.deepEqual([sent.message.senderRole, sent.message.recipientId], [role, recipientId]);
      for (const { events } of receivers) assert.deepEqual(await events.take('emergency:message'), sent.message);
    };
    const toAll = await say(owner, 'the green door');
    await unsigned(toAll, 'owner', null, [first, second]);
    assert.equal(toAll.message.senderId, null);
    const toFirst = await say(owner, 'come alone', { recipientId: first.claims.sub });
    await unsigned(toFirst, 'owner', first.claims.sub, [first]);
    assert.equal(toFirst.message.senderId, null);
    const answer = await say(first, 'two minutes');
    await unsigned(answer, 'helper', null, [owner]);
    assert.equal(answer.message.senderId, first.claims.sub);
    // Every guess gets the same answer, whether it is right or wrong.
    const guesses = [];
    for (const recipientId of [caller.sub, second.claims.sub, 'nobody']) guesses.push(await say(first, 'is it you', { recipientId }));
    assert.deepEqual(guesses, Array(3).fill({ success: false, error: 'Not authorized to write in this emergency' }));
    const kept = await request(1, 'GET', `/${id}/messages`, first.claims);
    assert.deepEqual(kept.data.map((message) => message.id).sort(), [toAll, toFirst, answer].map(({ message }) => message.id).sort());
    assert.equal((await request(0, 'GET', `/${id}/messages`, watcher.claims)).status, 403);
    assert.equal((await app.good(200, 0, 'GET', `/${id}/messages`, caller)).length, 3);

    // Statuses and locations. The owner moves, disconnects and returns, too.
    assert.equal((await request(0, 'PUT', `/${id}/helper-status`, first.claims, { status: 'on_way', notes: 'By bicycle' })).data.user, null);
    for (const { events } of [owner, second, watcher]) assert.equal((await events.take('helper:status_update')).status, 'on_way');
    assert.equal((await ask(first.socket, 'location:update', centre)).success, true);
    for (const { events } of [owner, second, watcher]) assert.equal((await events.take('helper:location')).helperId, first.claims.sub);
    assert.equal((await ask(owner.socket, 'location:update', centre)).success, true);
    const phone = await app.online(1, caller);
    await app.gathered(id, 5);
    phone.socket.disconnect();
    await app.gathered(id, 4);
    assert.equal((await request(1, 'PUT', `/${id}/helper-status`, second.claims, { status: 'cancelled' })).data.user, null);
    await app.gathered(id, 3);

    // Users who may see the owner.
    for (const [at, claims] of [[0, caller], [1, boss.claims]]) {
      const { user: shown } = await app.good(200, at, 'GET', `/${id}`, claims);
      assert.deepEqual(shown, { id: caller.sub, displayName: caller.name, avatar: caller.avatar });
    }
    const { body: inCharge } = await app.api(1, 'GET', `/nearby?latitude=${centre.latitude}&longitude=${centre.longitude}`, boss.claims);
    assert.deepEqual(inCharge.data.map((found) => found.user.id), [caller.sub]);

    // The end.
    assert.equal((await app.resolve(0, id, caller, { resolutionNotes: 'safe now' })).user.id, caller.sub);
    for (const { events } of [first, watcher]) {
      const received = await events.take('emergency:resolved');
      assert.deepEqual([received.resolvedBy, received.resolutionType, received.resolutionNotes], [null, 'user_resolved', 'safe now']);
    }
    for (const { events } of [first, second, watcher]) assert.equal((await events.take('emergency:ended', about(id))).status, 'resolved');
    await look();
    assert.deepEqual(await find(), []);
    assert.equal((await request(0, 'POST', `/${id}/respond`, second.claims)).status, 409);
    assert.equal((await ask(watcher.socket, 'emergency:join', { emergencyId: id })).emergency.resolvedBy, null);
    for (const at of [0, 1]) await app.quiet(at, first, second, watcher);

    for (const { claims } of [first, second]) assert.ok(frames.some((frame) => frame.includes(claims.sub)), `frames about ${claims.sub} were recorded`);
    assert.ok(frames.filter((frame) => frame.includes(id)).length >= 15 && answers.length >= 15, `${frames.length} frames and ${answers.length} answers were recorded`);
    keptFrom(caller, 'a frame', frames);
    keptFrom(caller, 'an answer', answers);
    for (const log of logged()) assert.match(log, /"ready"/, 'logs were recorded');
    keptFrom(caller, 'a log', logged());
  });

  test('cancelled by the owner and by an admin, and with an owner who disconnects for good', async () => {
    const { frames, answers, online, request } = overheard();
    const watcher = await online(0, helper());
    const callers = [];
    for (const end of ['caller', 'admin']) {
      const caller = stranger();
      callers.push(caller);
      const owner = await app.online(1, caller);
      const { id } = await app.raise(1, caller, { anonymousMode: true });
      assert.equal((await request(1, 'POST', `/${id}/respond`, watcher.claims)).data.user, null);
      await app.gathered(id, 2);
      owner.socket.disconnect();
      await app.gathered(id, 1);
      await app.cancel(0, id, end === 'caller' ? caller : admin());
      assert.equal((await watcher.events.take('emergency:cancelled', about(id))).emergencyId, id);
      assert.equal((await watcher.events.take('emergency:ended', about(id))).status, 'cancelled');
      assert.equal((await request(0, 'GET', `/${id}`, watcher.claims)).data.user, null);
    }
    // A helper's departure is announced after the hold-back, so anything about the owners' departures has been sent
    // by then.
    const caller = stranger();
    callers.push(caller);
    const leaver = await app.online(1, helper());
    const { id } = await app.raise(0, caller, { anonymousMode: true });
    for (const { claims } of [watcher, leaver]) assert.equal((await request(0, 'POST', `/${id}/respond`, claims)).data.user, null);
    await app.gathered(id, 2);
    leaver.socket.disconnect();
    await watcher.events.take('helper:offline', about(id), { timeout: HOLDBACK_MS + 10_000 });
    assert.ok(frames.some((frame) => frame.includes(id)));
    for (const each of callers) {
      keptFrom(each, 'a frame', frames);
      keptFrom(each, 'an answer', answers);
      keptFrom(each, 'a log', logged());
    }
  });

  test('one that is not anonymous shows the owner, so the checks above look in the right places', async () => {
    const caller = stranger();
    const { frames, answers, online, request } = overheard();
    const watcher = await online(1, helper());
    const { id } = await app.raise(0, caller);
    await watcher.events.take('emergency:created', about(id));
    await request(0, 'GET', `/${id}`, watcher.claims);
    for (const texts of [frames, answers]) assert.ok(texts.some((text) => text.includes(caller.sub) && text.includes(caller.name)));
  });
});
