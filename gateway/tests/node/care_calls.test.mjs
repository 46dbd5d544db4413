// Care's calls on two nodes: every way to start, continue and end a call, and the events that each device receives.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { ISO, TERMINAL, UUID_V7, device, hasStatus, must, quiet, refusal } from './support/care.mjs';
import { unique } from './support/clients.mjs';
import { LEASE_MS, startCluster } from './support/cluster.mjs';
import { delay, preview } from './support/wait.mjs';

/** The ringing time in tests without an answer, and the grace period of a lost party. */
const SHORT_RING_MS = 2_000;
const SHORT_GRACE_MS = 1_500;
/** Time for a dead node's lease to lapse and for other nodes to act, on a loaded machine. */
const NOTICED_MS = LEASE_MS + 20_000;

/** The end events of `callId` that a device has received and not taken: `[event, received]` each. */
function endings({ events }, callId) {
  return TERMINAL.flatMap((event) => events.seen(event, (received) => received.callId === callId).map(([received]) => [event, received]));
}

/** Waits until each device has received the call's end; requires that it is `expected` and comes once. */
async function ends(nodes, devices, event, expected, { timeout } = {}) {
  const received = await Promise.all(devices.map(({ events }) => events.take(event, ({ callId }) => callId === expected.callId, { timeout })));
  await quiet(nodes, ...devices);
  for (const [at, each] of devices.entries()) {
    assert.deepEqual(received[at], expected);
    assert.deepEqual(endings(each, expected.callId), [], `${each.user} on ${each.node.url} receives it once`);
  }
}

/** A caller with two devices, one on each node, and a recipient with three. */
async function parties([first, second], claims = {}) {
  const caller = await device(first, { name: 'caller', ...claims });
  const [desk, phone] = [await device(second, { user: caller.user }), await device(first, { name: 'callee' })];
  const [tablet, watch] = [await device(second, { user: phone.user }), await device(second, { user: phone.user })];
  return { caller, desk, phone, tablet, watch, callers: [caller, desk], callees: [phone, tablet, watch], all: [caller, desk, phone, tablet, watch] };
}

/** Starts a call, and returns its id when every device of the recipient has received it. */
async function ring(caller, callees, given = {}) {
  const { callId } = await must(caller, 'call:initiate', { recipientId: callees[0].user, ...given });
  for (const { events } of callees) await events.take('call:incoming', (received) => received.callId === callId);
  return callId;
}

/** Starts a call that the first of `callees` accepts; returns its id. */
async function talk(caller, callees) {
  const callId = await ring(caller, callees);
  await must(callees[0], 'call:accept', { callId });
  await caller.events.take('call:accepted', (received) => received.callId === callId);
  return callId;
}

describe('calls on two nodes', { concurrency: 4 }, () => {
  let cluster;
  let nodes;
  before(async () => {
    // The same two users call each other more often than people do.
    cluster = await startCluster(2, { env: { CALLS_PER_MINUTE: '0' } });
    nodes = [...cluster.nodes];
  });
  after(() => cluster?.stop());

  test('it rings everywhere, one device accepts it, the others are notified, and the duration is correct', { timeout: 60_000 }, async () => {
    const { caller, desk, phone, tablet, watch, callers, callees, all } = await parties(nodes);
    const answer = await must(caller, 'call:initiate', { recipientId: phone.user, callType: 'video', visitId: 'visit-1', metadata: { why: 'x' } });
    assert.deepEqual(Object.keys(answer).sort(), ['callId', 'success']);
    const { callId } = answer;
    assert.match(callId, UUID_V7);
    for (const { events } of callees) {
      const { timestamp, ...incoming } = await events.take('call:incoming');
      assert.match(timestamp, ISO);
      assert.deepEqual(incoming, { callId, callerId: caller.user, callerName: `Name of ${caller.user}`, callType: 'video', visitId: 'visit-1' });
    }
    const asked = performance.now();
    assert.deepEqual(await must(tablet, 'call:accept', { callId }), { success: true, callId });
    const accepted = performance.now();
    for (const { events } of callers) {
      const { timestamp, ...received } = await events.take('call:accepted');
      assert.match(timestamp, ISO);
      assert.deepEqual(received, { callId, userId: phone.user });
    }
    for (const { events } of [phone, watch]) assert.deepEqual(await events.take('call:answered_elsewhere'), { callId });
    assert.equal(await refusal(watch, 'call:accept', { callId }), 'Call is not ringing');
    assert.equal(await refusal(phone, 'call:reject', { callId }), 'Call is not ringing');
    // The clock has to advance: the duration is in whole seconds.
    await delay(2_100);
    const ending = performance.now();
    const { duration, ...ended } = await must(desk, 'call:end', { callId });
    const over = performance.now();
    assert.deepEqual(ended, { success: true, callId });
    const [least, most] = [Math.floor((ending - accepted) / 1_000), Math.ceil((over - asked) / 1_000)];
    assert.ok(Number.isInteger(duration) && least <= duration && duration <= most, `${duration} is not in ${least}..${most}`);
    await ends(nodes, all, 'call:ended', { callId, duration, reason: 'ended', endedBy: caller.user });
    for (const { events } of callers) assert.deepEqual([...events.seen('call:incoming'), ...events.seen('call:answered_elsewhere')], []);
    assert.deepEqual(tablet.events.seen('call:answered_elsewhere'), [], 'not to the accepting device');
    for (const { events } of callees) assert.deepEqual([...events.seen('call:incoming'), ...events.seen('call:accepted')], [], 'it rings once');
  });

  test('a device that connects while it rings receives it, too, and may accept it', { timeout: 60_000 }, async () => {
    const caller = await device(nodes[0]);
    const absent = unique('absent');
    const { callId } = await must(caller, 'call:initiate', { recipientId: absent, callType: 'audio' });
    const late = await device(nodes[1], { user: absent });
    const incoming = await late.events.take('call:incoming');
    assert.deepEqual([incoming.callId, incoming.callType, incoming.visitId], [callId, 'audio', null]);
    await must(late, 'call:accept', { callId });
    const later = await device(nodes[0], { user: absent });
    await quiet(nodes, later);
    assert.deepEqual(later.events.seen('call:incoming'), [], 'it no longer rings');
    const { duration } = await must(late, 'call:end', { callId });
    await ends(nodes, [caller, late, later], 'call:ended', { callId, duration, reason: 'ended', endedBy: absent });
  });

  test('signals reach only the other party\'s device in the call', { timeout: 60_000 }, async () => {
    const { caller, phone, tablet, callees, all } = await parties(nodes);
    const stranger = await device(nodes[1]);
    const callId = await talk(caller, [tablet, ...callees.filter((each) => each !== tablet)]);
    const offer = { type: 'offer', sdp: 'v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\n', nested: [{ candidate: null }, 1.5, true] };
    for (const [from, to, signal] of [[caller, tablet, offer], [tablet, caller, { type: 'answer' }], [caller, tablet, 'text'], [tablet, caller, [1, 2]]]) {
      assert.deepEqual(await must(from, 'call:signal', { callId, signal }), { success: true });
      assert.deepEqual(await to.events.take('call:signal'), { callId, signal, userId: from.user });
    }
    for (let n = 0; n < 30; n += 1) caller.socket.emit('call:signal', { callId, signal: n });
    assert.deepEqual((await tablet.events.count('call:signal', 30)).map(({ signal }) => signal), Array.from({ length: 30 }, (_, n) => n), 'in order');
    tablet.events.clear();
    await refusal(stranger, 'call:signal', { callId, signal: 'mine' });
    await quiet(nodes, ...all, stranger);
    for (const { user, node, events } of [...all, stranger]) assert.deepEqual(events.seen('call:signal'), [], `${user} on ${node.url}`);
    await must(phone, 'call:end', { callId });
  });

  test('a rejected call is over, and both parties receive the reason', { timeout: 60_000 }, async () => {
    const { caller, phone, tablet, callees, all } = await parties(nodes);
    for (const [reason, received] of [['not now', 'not now'], [undefined, null]]) {
      const callId = await ring(caller, callees);
      assert.deepEqual(await must(tablet, 'call:reject', { callId, reason }), { success: true, callId });
      await ends(nodes, all, 'call:rejected', { callId, userId: phone.user, reason: received });
      assert.equal(await refusal(phone, 'call:accept', { callId }), 'Call is over');
    }
  });

  for (const [who, by] of [['the caller', 'desk'], ['the recipient', 'tablet']]) {
    test(`ended by ${who} while it rings, it has no duration`, { timeout: 60_000 }, async () => {
      const them = await parties(nodes);
      const callId = await ring(them.caller, them.callees);
      assert.deepEqual(await must(them[by], 'call:end', { callId }), { success: true, callId, duration: 0 });
      await ends(nodes, them.all, 'call:ended', { callId, duration: 0, reason: 'ended', endedBy: them[by].user });
      await hasStatus(them.caller, them.caller.user, 'online');
    });
  }

  test('users in a call are busy for other callers, and cannot call other users', { timeout: 60_000 }, async () => {
    const [ann, bob, cat] = [await device(nodes[0]), await device(nodes[1]), await device(nodes[1])];
    const call = (from, to) => refusal(from, 'call:initiate', { recipientId: to.user });
    const callId = await ring(ann, [bob]);
    const isBusy = async () => {
      for (const each of [ann, bob]) {
        assert.equal(await call(cat, each), 'User is busy');
        assert.equal(await call(each, cat), 'You are already in a call');
      }
    };
    await isBusy();
    await must(bob, 'call:accept', { callId });
    await isBusy();
    await must(bob, 'call:end', { callId });
    await quiet(nodes, cat);
    assert.deepEqual(cat.events.seen('call:incoming'), []);
    await must(cat, 'call:end', { callId: await talk(cat, [ann]) });
    await refusal(ann, 'call:initiate', { recipientId: ann.user });
  });

  test('when both call each other at the same moment, exactly one call starts', { timeout: 90_000 }, async () => {
    const [ann, bob] = [await device(nodes[0]), await device(nodes[1])];
    for (let round = 0; round < 25; round += 1) {
      const answers = await Promise.all([[ann, bob], [bob, ann]].map(([from, to]) => from.ask('call:initiate', { recipientId: to.user })));
      const won = answers.findIndex(({ success }) => success);
      assert.deepEqual(answers.map(({ success }) => success).sort(), [false, true], `round ${round}: ${preview(answers)}`);
      assert.ok(['User is busy', 'You are already in a call'].includes(answers[1 - won].error), answers[1 - won].error);
      const { callId } = answers[won];
      const [caller, callee] = won === 0 ? [ann, bob] : [bob, ann];
      assert.equal((await callee.events.take('call:incoming')).callId, callId);
      await must(callee, 'call:accept', { callId });
      const { duration } = await must(caller, 'call:end', { callId });
      await ends(nodes, [ann, bob], 'call:ended', { callId, duration, reason: 'ended', endedBy: caller.user });
      assert.deepEqual(caller.events.seen('call:incoming'), []);
    }
  });

  test('two devices accept at once: one gets the call', { timeout: 90_000 }, async () => {
    const { caller, phone, tablet, callees, all } = await parties(nodes);
    for (let round = 0; round < 15; round += 1) {
      const callId = await ring(caller, callees);
      const answers = await Promise.all([phone, tablet].map((each) => each.ask('call:accept', { callId })));
      assert.deepEqual(answers.map(({ success }) => success).sort(), [false, true], preview(answers));
      const [winner, loser] = answers[0].success ? [phone, tablet] : [tablet, phone];
      await loser.events.take('call:answered_elsewhere', (received) => received.callId === callId);
      const { duration } = await must(loser, 'call:end', { callId });
      await ends(nodes, all, 'call:ended', { callId, duration, reason: 'ended', endedBy: phone.user });
      assert.deepEqual(winner.events.seen('call:answered_elsewhere', (received) => received.callId === callId), []);
      assert.equal(caller.events.seen('call:accepted', (received) => received.callId === callId).length, 1);
    }
  });

  test('actions without permission are refused, and change nothing', { timeout: 60_000 }, async () => {
    const [ann, bob, eve] = [await device(nodes[0]), await device(nodes[1]), await device(nodes[1])];
    const callId = await ring(ann, [bob]);
    for (const event of ['call:accept', 'call:reject']) assert.equal(await refusal(ann, event, { callId }), 'Only the recipient may do this');
    for (const from of [ann, bob]) assert.equal(await refusal(from, 'call:signal', { callId, signal: 1 }), 'Call is not active');
    const foreign = async () => {
      for (const event of ['call:accept', 'call:reject', 'call:end', 'call:signal']) await refusal(eve, event, { callId, signal: 1 });
    };
    await foreign();
    await must(bob, 'call:accept', { callId });
    await foreign();
    await must(ann, 'call:end', { callId });
    for (const from of [ann, bob]) {
      assert.equal(await refusal(from, 'call:end', { callId }), 'Call is over');
      await refusal(from, 'call:signal', { callId, signal: 1 });
    }
    for (const event of ['call:accept', 'call:reject']) assert.equal(await refusal(bob, event, { callId }), 'Call is over', event);
    await foreign();
    for (const event of ['call:accept', 'call:reject', 'call:end', 'call:signal']) {
      assert.equal(await refusal(ann, event, { callId: '01890000-0000-7000-8000-000000000000', signal: 1 }), 'Call not found', event);
      for (const payload of [{}, { callId: 7 }, { callId: 'a\nb' }, 'x', null]) await refusal(ann, event, payload);
    }
    for (const payload of [{}, { recipientId: 7 }, { recipientId: 'a\nb' }, { recipientId: bob.user, callType: 'smell' }, null]) await refusal(ann, 'call:initiate', payload);
    ann.socket.emit('call:end', { callId });
    assert.deepEqual(await ann.events.take('error'), { message: 'Call is over' });
    await quiet(nodes, ann, bob, eve);
    for (const each of [ann, bob]) assert.equal(endings(each, callId).length, 1, 'it ended once');
    assert.deepEqual(eve.events.events, [], 'other users receive no events');
  });

  test('a party who reconnects in time continues the call, on another node', { timeout: 60_000 }, async () => {
    const [ann, bob] = [await device(nodes[0]), await device(nodes[1])];
    const callId = await talk(ann, [bob]);
    ann.socket.io.engine.close();
    const back = await device(nodes[1], { user: ann.user });
    await must(back, 'call:signal', { callId, signal: 'restart' });
    assert.equal((await bob.events.take('call:signal')).signal, 'restart');
    await must(bob, 'call:signal', { callId, signal: 'again' });
    assert.equal((await back.events.take('call:signal')).signal, 'again', 'the device that sent the last signal is theirs');
    const { duration } = await must(back, 'call:end', { callId });
    await ends(nodes, [back, bob], 'call:ended', { callId, duration, reason: 'ended', endedBy: ann.user });
  });
});

describe('calls without an answer', { concurrency: 4 }, () => {
  let cluster;
  let nodes;
  before(async () => {
    cluster = await startCluster(2, { env: { CALL_RING: `${SHORT_RING_MS}ms` } });
    nodes = [...cluster.nodes];
  });
  after(() => cluster?.stop());

  test('are missed, once, on every device of both parties, and both are free again', { timeout: 60_000 }, async () => {
    const { caller, phone, callees, all } = await parties(nodes);
    const callId = await ring(caller, callees);
    await ends(nodes, all, 'call:missed', { callId, callerId: caller.user, recipientId: phone.user }, { timeout: 20_000 });
    for (const event of ['call:accept', 'call:reject', 'call:end']) assert.equal(await refusal(phone, event, { callId }), 'Call is over');
    const next = await ring(phone, [caller]);
    await must(phone, 'call:end', { callId: next });
  });

  test('are missed when the recipient has no device at all', { timeout: 60_000 }, async () => {
    const caller = await device(nodes[0]);
    const recipientId = unique('nobody');
    const { callId } = await must(caller, 'call:initiate', { recipientId });
    await ends(nodes, [caller], 'call:missed', { callId, callerId: caller.user, recipientId }, { timeout: 20_000 });
    const late = await device(nodes[1], { user: recipientId });
    await quiet(nodes, late);
    assert.deepEqual(late.events.seen('call:incoming'), []);
  });

  test('one that was answered is not missed later', { timeout: 60_000 }, async () => {
    const [ann, bob] = [await device(nodes[0]), await device(nodes[1])];
    const { callId } = await must(ann, 'call:initiate', { recipientId: bob.user });
    await must(bob, 'call:accept', { callId });
    // Waits longer than the ringing time.
    await delay(SHORT_RING_MS * 2);
    await quiet(nodes, ann, bob);
    for (const each of [ann, bob]) assert.deepEqual(endings(each, callId), []);
    assert.ok((await must(ann, 'call:end', { callId })).duration >= 2);
  });
});

describe('the node that started the call dies while it rings', () => {
  const RING_MS = 8_000;
  let cluster;
  let nodes;
  before(async () => {
    cluster = await startCluster(2, { env: { CALL_RING: `${RING_MS}ms` } });
    nodes = [...cluster.nodes];
  });
  after(() => cluster?.stop());

  test('the recipient misses it, exactly once', { timeout: 120_000 }, async () => {
    const doomed = await cluster.start();
    const [caller, phone] = [await device(doomed), await device(nodes[0])];
    const tablet = await device(nodes[1], { user: phone.user });
    const callId = await ring(caller, [phone, tablet]);
    await doomed.kill();
    await ends(nodes, [phone, tablet], 'call:missed', { callId, callerId: caller.user, recipientId: phone.user }, { timeout: RING_MS + NOTICED_MS });
    assert.equal(await refusal(phone, 'call:accept', { callId }), 'Call is over');
    const next = await device(nodes[1]);
    await must(next, 'call:end', { callId: await talk(next, [phone]) });
  });

  test('the caller, reconnected to another node, receives it, too', { timeout: 120_000 }, async () => {
    const doomed = await cluster.start();
    const [caller, phone] = [await device(doomed), await device(nodes[0])];
    const callId = await ring(caller, [phone]);
    await doomed.kill();
    const back = await device(nodes[1], { user: caller.user });
    await ends(nodes, [back, phone], 'call:missed', { callId, callerId: caller.user, recipientId: phone.user }, { timeout: RING_MS + NOTICED_MS });
    await must(back, 'call:end', { callId: await talk(back, [phone]) });
  });
});

describe('the node that started the call dies, and the call continues', () => {
  let cluster;
  let nodes;
  before(async () => {
    cluster = await startCluster(2);
    nodes = [...cluster.nodes];
  });
  after(() => cluster?.stop());

  test('it is accepted after that, and the caller receives it on the new node', { timeout: 120_000 }, async () => {
    const doomed = await cluster.start();
    const [caller, phone] = [await device(doomed), await device(nodes[0])];
    const callId = await ring(caller, [phone]);
    await doomed.kill();
    const back = await device(nodes[1], { user: caller.user });
    await must(phone, 'call:accept', { callId });
    assert.equal((await back.events.take('call:accepted')).callId, callId);
    const { duration } = await must(back, 'call:end', { callId });
    await ends(nodes, [back, phone], 'call:ended', { callId, duration, reason: 'ended', endedBy: caller.user });
  });
});

describe('a party is lost', { concurrency: 4 }, () => {
  let cluster;
  let nodes;
  before(async () => {
    cluster = await startCluster(2, { env: { PRESENCE_GRACE: `${SHORT_GRACE_MS}ms` } });
    nodes = [...cluster.nodes];
  });
  after(() => cluster?.stop());

  /** Calls `lose` for the last device of `gone`, and expects the call to fail for `stays`. */
  const fails = async (gone, stays, callId, lose) => {
    await lose();
    const received = await stays.events.take('call:ended', () => true, { timeout: SHORT_GRACE_MS + NOTICED_MS });
    const { duration, ...rest } = received;
    assert.ok(Number.isInteger(duration));
    assert.deepEqual(rest, { callId, reason: 'failed', endedBy: null });
    assert.equal(await refusal(stays, 'call:end', { callId }), 'Call is over');
    const next = await device(stays.node);
    await must(next, 'call:end', { callId: await talk(next, [stays]) });
    await quiet(nodes, stays);
    assert.deepEqual(endings(stays, callId), [], `${gone.user}'s loss is announced once`);
  };

  test('the caller loses the connection: the call fails', { timeout: 90_000 }, async () => {
    const [ann, bob] = [await device(nodes[0]), await device(nodes[1])];
    await fails(ann, bob, await talk(ann, [bob]), () => ann.socket.io.engine.close());
  });

  test('the recipient disconnects: the call fails', { timeout: 90_000 }, async () => {
    const [ann, bob] = [await device(nodes[0]), await device(nodes[1])];
    await fails(bob, ann, await talk(ann, [bob]), () => bob.socket.disconnect());
  });

  test('their node dies: the call fails', { timeout: 120_000 }, async () => {
    const doomed = await cluster.start();
    const [ann, bob] = [await device(nodes[0]), await device(doomed)];
    await fails(bob, ann, await talk(ann, [bob]), () => doomed.kill());
  });

  test('the call continues while another of their devices is connected', { timeout: 60_000 }, async () => {
    const [ann, bob] = [await device(nodes[0]), await device(nodes[1])];
    const other = await device(nodes[1], { user: ann.user });
    const callId = await talk(ann, [bob]);
    ann.socket.io.engine.close();
    // Waits longer than the grace period.
    await delay(SHORT_GRACE_MS * 2);
    await quiet(nodes, bob, other);
    assert.deepEqual(endings(bob, callId), []);
    const { duration } = await must(other, 'call:end', { callId });
    await ends(nodes, [bob, other], 'call:ended', { callId, duration, reason: 'ended', endedBy: ann.user });
  });
});
