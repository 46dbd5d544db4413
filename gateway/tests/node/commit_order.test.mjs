// Events report changes in the order of the commits, on any node, and are true when they arrive. Every pair runs
// many times over two nodes, with random pauses between the two. COMMIT_ROUNDS sets how often.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { unique } from './support/clients.mjs';
import { device, must, presence, quiet } from './support/care.mjs';
import { count, internal, startCluster } from './support/cluster.mjs';
import { NAMESPACE, emergencies, citizen, helper } from './support/emergencies.mjs';
import { holdLock, query, startPostgres } from './support/postgres.mjs';
import { delay, eventually, once } from './support/wait.mjs';

const ROUNDS = Number(process.env.COMMIT_ROUNDS ?? 12);

/** A short random pause, so that the two nodes meet at every point of each other's work. */
const moment = () => delay(Math.random() * 8);

/** Runs a scenario many times, some at once, and lists the problems that it returned. */
async function all(story) {
  const wrong = [];
  const left = Array.from({ length: ROUNDS }, (_, round) => round);
  await Promise.all(Array.from({ length: 4 }, async () => {
    while (left.length > 0) {
      const found = await story(left.shift());
      if (found !== undefined) wrong.push(found);
    }
  }));
  assert.deepEqual(wrong, [], `${wrong.length} of ${ROUNDS} wrong`);
}

/** The names of a socket's events in order of arrival, if `pick` accepts them. */
function names(socket, pick = () => true) {
  const seen = [];
  socket.onAny((event, ...args) => { if (pick(event, ...args)) seen.push(event); });
  return seen;
}

describe('two nodes on PostgreSQL', () => {
  let postgres;
  let cluster;
  let nodes;
  let app;
  before(async () => {
    postgres = await startPostgres();
    cluster = await startCluster(2, { env: { DATABASE_URL: postgres.url } });
    nodes = cluster.nodes;
    app = emergencies(nodes);
  });
  after(async () => {
    await cluster?.stop();
    await postgres?.kill();
  });

  const sos = (at, action, body) => internal(nodes[at], 'POST', `/internal/participants/${action}`, body);

  test('a client that receives a call\'s acceptance or end finds both parties\' presence changed', () => all(async (round) => {
    const [caller, callee] = await Promise.all([device(nodes[round % 2]), device(nodes[1 - (round % 2)])]);
    const { callId } = await must(caller, 'call:initiate', { recipientId: callee.user, callType: 'audio' });
    await callee.events.take('call:incoming');
    const statuses = async (asker) => Promise.all([caller, callee].map(async ({ user }) => (await presence(asker, user)).status));
    const onAccepted = caller.events.take('call:accepted').then(() => statuses(caller));
    await must(callee, 'call:accept', { callId });
    const accepted = await onAccepted;
    const [ends, other] = Math.random() < 0.5 ? [caller, callee] : [callee, caller];
    const onEnded = other.events.take('call:ended').then(() => statuses(other));
    await moment();
    await must(ends, 'call:end', { callId });
    const ended = await onEnded;
    if (accepted.join() !== 'in_call,in_call') return `accepted, and the two are ${accepted}`;
    if (ended.join() !== 'online,online') return `ended, and the two are ${ended}`;
    return undefined;
  }));

  test('a call ends after it was accepted, not before', () => all(async (round) => {
    const [caller, callee] = await Promise.all([device(nodes[round % 2]), device(nodes[1 - (round % 2)])]);
    const received = names(caller.socket, (event) => /^call:/.test(event));
    const { callId } = await must(caller, 'call:initiate', { recipientId: callee.user, callType: 'audio' });
    await callee.events.take('call:incoming');
    const accepting = callee.ask('call:accept', { callId });
    await moment();
    await must(caller, 'call:end', { callId });
    const { success } = await accepting;
    await quiet(nodes, caller);
    const expected = success ? ['call:accepted', 'call:ended'] : ['call:ended'];
    return received.join() === expected.join() ? undefined : received;
  }));

  test('calls that are answered on both nodes at once do not block each other', async () => {
    // A node's next transactions delete the rows of its ringing events, and the answers take them back.
    await Promise.all(Array.from({ length: 40 }, async (_, at) => {
      const [caller, callee] = await Promise.all([device(nodes[at % 2]), device(nodes[1 - (at % 2)])]);
      const { callId } = await must(caller, 'call:initiate', { recipientId: callee.user, callType: 'audio' });
      await must(callee, 'call:accept', { callId });
      await must(caller, 'call:end', { callId });
    }));
  });

  test('finished jobs\' rows that another transaction has locked block no client, and are deleted when it ends', async () => {
    const [sender, recipient] = await Promise.all([device(nodes[0]), device(nodes[1])]);
    const send = () => must(sender, 'message:send', { recipientId: recipient.user, message: 'hi' });
    // Locks the first rows of events that it finds.
    const locking = holdLock(postgres.url, "DO $$ BEGIN LOOP PERFORM 1 FROM jobs WHERE app = '' FOR UPDATE; EXIT WHEN FOUND; END LOOP; END $$");
    let lock;
    locking.then((held) => { lock = held; }, () => {});
    for (const until = performance.now() + 10_000; !lock && performance.now() < until;) await send();
    await locking;
    for (let sent = 0; sent < 20; sent += 1) await send();
    await lock.end();
    await eventually(() => query(postgres.url, "SELECT COUNT(*) FROM jobs WHERE app = ''") === '0');
  });

  test('a message becomes delivered before it becomes read', () => all(async (round) => {
    const [sender, reader] = await Promise.all([device(nodes[round % 2]), device(nodes[1 - (round % 2)])]);
    const statuses = [];
    sender.socket.on('message:status', ({ status }) => statuses.push(status));
    const arrived = reader.events.take('message:new');
    const { message } = await must(sender, 'message:send', { recipientId: reader.user, message: 'hi' });
    await arrived;
    await moment();
    await must(reader, 'message:read', { messageIds: [message.id] });
    if (!statuses.includes('read')) await once(sender.socket, 'message:status', { filter: ({ status }) => status === 'read' });
    await quiet(nodes, sender);
    return ['delivered,read', 'read'].includes(statuses.join()) ? undefined : statuses;
  }));

  test('no response is reported after an emergency was resolved', () => all(async (round) => {
    const [owner, first, second] = [citizen(), helper(), helper()];
    const watchers = await Promise.all([0, 1].map((at) => app.online(at, owner)));
    const emergency = await app.raise(round % 2, owner);
    await app.gathered(emergency.id, 2);
    const lists = watchers.map(({ socket }) => names(socket, (event) => /^(emergency:(status_changed|resolved)|helper:joined)$/.test(event)));
    const responding = [first, second].map((claims) => app.api(1 - (round % 2), 'POST', `/${emergency.id}/respond`, claims));
    await moment();
    await app.resolve(round % 2, emergency.id, owner);
    const accepted = (await Promise.all(responding)).filter(({ status }) => status === 200).length;
    await app.quiet(0, ...watchers);
    await app.quiet(1, ...watchers);
    for (const list of lists) {
      if (list.at(-1) !== 'emergency:resolved' || list.filter((event) => event === 'helper:joined').length !== accepted) return list;
    }
    return lists[0].join() === lists[1].join() ? undefined : lists;
  }));

  /** A participant of an incident, with a socket on each node. */
  const participant = async (sosId) => {
    const userId = unique('participant');
    const sockets = await Promise.all(nodes.map((node) => node.clients.connect({ claims: { sub: userId } })));
    assert.equal((await sos(0, 'joined', { sosId, userId, userType: 'rescuer' })).status, 200);
    return { userId, sockets };
  };

  test('no join is reported after the participant\'s leave', () => all(async (round) => {
    const [sosId, userId] = [unique('sos'), unique('citizen')];
    const { sockets } = await participant(sosId);
    const lists = sockets.map((socket) => names(socket, (event, body) => /^participant:/.test(event) && body.userId === userId));
    const joining = sos(round % 2, 'joined', { sosId, userId, userType: 'citizen' });
    await moment();
    const left = await sos(1 - (round % 2), 'left', { sosId, userId });
    await joining;
    const again = await sos(1 - (round % 2), 'left', { sosId, userId });
    assert.deepEqual([left.status, again.status].sort(), [200, 404]);
    const ends = sockets.map((socket) => once(socket, 'end'));
    for (const [at, event] of ['nearly the end', 'end'].entries()) {
      await internal(nodes[at], 'POST', '/internal/emit', { to: { room: `sos:${sosId}` }, event, data: {} });
    }
    await Promise.all(ends);
    return lists.every((list) => list.join() === 'participant:joined,participant:left') ? undefined : lists;
  }));

  /** How many sockets each node counts in a room. */
  const counts = (room, namespace) => Promise.all(nodes.map(async (node) => (await count(node, room, namespace)).count));

  test('a participant who left is no longer counted, on any node', () => all(async (round) => {
    const sosId = unique('sos');
    const [leaver] = [await participant(sosId), await participant(sosId)];
    await moment();
    assert.equal((await sos(round % 2, 'left', { sosId, userId: leaver.userId })).status, 200);
    const found = await counts(`sos:${sosId}`);
    return found.join() === '2,2' ? undefined : found;
  }));

  test('a helper who cancelled is no longer counted, on any node', () => all(async (round) => {
    const [owner, helps] = [citizen(), helper()];
    await Promise.all([0, 1].map((at) => app.online(at, helps)));
    const { id } = await app.raise(round % 2, owner);
    await app.respond(1 - (round % 2), id, helps);
    await moment();
    await app.setStatus(round % 2, id, helps, { status: 'cancelled' });
    const found = await counts(`emergency:${id}`, NAMESPACE);
    return found.join() === '0,0' ? undefined : found;
  }));

  test('a helper who responds again is not removed by an earlier cancellation', () => all(async (round) => {
    const [owner, helps] = [citizen(), helper()];
    const devices = await Promise.all([0, 1].map((at) => app.online(at, helps)));
    const { id } = await app.raise(round % 2, owner);
    await app.respond(round % 2, id, helps);
    const cancelling = app.setStatus(round % 2, id, helps, { status: 'cancelled' });
    await moment();
    await app.respond(1 - (round % 2), id, helps);
    const mark = unique('mark');
    await internal(nodes[1 - (round % 2)], 'POST', '/internal/emit', { namespace: NAMESPACE, to: { room: `emergency:${id}` }, event: mark, data: {} });
    await cancelling;
    await app.quiet(0, ...devices);
    await app.quiet(1, ...devices);
    const { helpers } = await app.good(200, 0, 'GET', `/${id}`, owner);
    if (helpers[0].status === 'cancelled') return undefined;
    const received = devices.map(({ events }) => events.seen(mark).length);
    return received.join() === '1,1' ? undefined : received;
  }));

  test('a client that has received its disconnect is no longer counted, on any node', () => all(async (round) => {
    const sosId = unique('sos');
    const { userId, sockets } = await participant(sosId);
    const found = sockets.map((socket) => new Promise((resolve) => {
      socket.on('disconnect', (reason) => resolve(internal(nodes[round % 2], 'GET', `/internal/participants/${sosId}/active`).then(({ body }) => {
        const ids = body.data.participants.map(({ socketId }) => socketId);
        return [reason, ids.includes(socket.recordedId)];
      })));
      socket.recordedId = socket.id;
    }));
    assert.equal((await sos(1 - (round % 2), 'left', { sosId, userId })).status, 200);
    const seen = await Promise.all(found);
    return seen.every((one) => one.join() === 'io server disconnect,false') ? undefined : seen;
  }));
});
