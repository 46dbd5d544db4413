// Access is judged again when it changes: by a newer token, a withdrawn grant, a lost role. On one node and on two.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { SITES, device, must, quiet, refusal } from './support/care.mjs';
import { EVERYTHING, ask, connected, keeper, unique } from './support/clients.mjs';
import { count, internal, startCluster } from './support/cluster.mjs';
import { citizen, emergencies, helper } from './support/emergencies.mjs';
import { load } from './support/packages.mjs';
import { startPostgres } from './support/postgres.mjs';
import { eventually, once, record } from './support/wait.mjs';

const { Emitter } = load('@socket.io/redis-emitter');

const NOT_ALLOWED = { success: false, error: 'Not allowed' };

/** Gives a socket a newer token; answers the ack. */
const refresh = async ({ socket, node }, claims) => {
  const answer = await ask(socket, 'auth:refresh', { token: node.token(claims) });
  assert.equal(answer.success, true, JSON.stringify(answer));
  return answer;
};

/** The rooms that a client was taken out of, in order. */
const removed = ({ events }) => events.seen('muster:removed').map(([{ room }]) => room);

/** A client of the relay on a node: `{user, socket, events, node}`. */
async function member(node, { user = unique('user'), ...claims } = {}) {
  const socket = node.clients.socket({ namespace: '/relay', claims: { sub: user, ...claims } });
  const events = record(socket);
  await connected(socket);
  return { user, socket, events, node };
}

/** What was published in a room before this has reached `to`, who hears the room `mark`. */
async function settled(from, to, mark) {
  const value = unique('mark');
  assert.deepEqual(await ask(from.socket, 'publish', { room: mark, event: 'mark', data: value }), { success: true });
  await to.events.take('mark', (seen) => seen === value);
}

const RELAY = {
  'a newer token without a room ends being in it, before its ack': async ({ nodes }) => {
    const [lost, kept] = [unique('lost'), unique('kept')];
    const all = { rooms: [lost, kept], publish: ['*'] };
    const [ann, bob] = [await member(nodes[0], all), await member(nodes[1], all)];
    for (const { socket } of [ann, bob]) for (const room of [lost, kept]) assert.equal((await ask(socket, 'join', { room })).success, true);
    const answer = await refresh(ann, { sub: ann.user, rooms: [kept], publish: ['*'] });
    assert.deepEqual(Object.keys(answer).sort(), ['expiresAt', 'success']);
    assert.deepEqual(removed(ann), [lost], 'told before the ack');
    assert.equal((await count(nodes[1], lost, '/relay')).count, 1);
    assert.equal((await count(nodes[1], kept, '/relay')).count, 2);
    assert.deepEqual(await ask(bob.socket, 'publish', { room: lost, event: 'secret', data: 1 }), { success: true });
    await settled(bob, ann, kept);
    assert.deepEqual(ann.events.seen('secret'), []);
    assert.deepEqual(await ask(ann.socket, 'join', { room: lost }), NOT_ALLOWED);
    await refresh(ann, { sub: ann.user, ...all });
    assert.equal((await ask(ann.socket, 'join', { room: lost })).success, true, 'a token that lists it opens it again');
    assert.deepEqual(removed(ann), [lost]);
  },

  'nothing of a lost room comes after the ack, however much is published in it': async ({ nodes }) => {
    const room = unique('busy');
    const [ann, bob] = [await member(nodes[0], EVERYTHING), await member(nodes[1], EVERYTHING)];
    for (const { socket } of [ann, bob]) await ask(socket, 'join', { room });
    let publishing = true;
    const flood = (async () => {
      while (publishing) await Promise.all(Array.from({ length: 10 }, (_, data) => ask(bob.socket, 'publish', { room, event: 'secret', data })));
    })();
    await ann.events.count('secret', 50);
    await refresh(ann, { sub: ann.user, rooms: ['mark'], publish: ['*'] });
    const heard = ann.events.seen('secret').length;
    const last = ann.events.events.at(-1).event;
    publishing = false;
    await flood;
    await ask(ann.socket, 'join', { room: 'mark' });
    await settled(bob, ann, 'mark');
    assert.equal(ann.events.seen('secret').length, heard);
    assert.equal(last, 'muster:removed', 'the last that came before the ack');
  },

  'sockets of one user are judged each by its own token': async ({ nodes }) => {
    const room = unique('room');
    const phone = await member(nodes[0], EVERYTHING);
    const [desk, bob] = [await member(nodes[1], { user: phone.user, ...EVERYTHING }), await member(nodes[0], EVERYTHING)];
    for (const { socket } of [phone, desk]) await ask(socket, 'join', { room });
    await refresh(phone, { sub: phone.user, rooms: [], publish: ['*'] });
    await ask(bob.socket, 'publish', { room, event: 'news', data: 1 });
    assert.equal(await desk.events.take('news'), 1);
    assert.deepEqual([removed(phone), removed(desk), phone.events.seen('news')], [[room], [], []]);
  },

  'an open question is not answered to who may not publish any more': async ({ nodes }) => {
    const room = unique('room');
    const [ann, bob] = [await member(nodes[0], EVERYTHING), await member(nodes[1], EVERYTHING)];
    await ask(bob.socket, 'join', { room });
    const asked = new Promise((resolve) => { bob.socket.on('who', (data, answer) => resolve(() => answer('a secret'))); });
    const answered = ask(ann.socket, 'publish', { room, event: 'who', data: 1, ack: 4_000 });
    const answer = await asked;
    await refresh(ann, { sub: ann.user, rooms: ['*'], publish: [] });
    answer();
    assert.deepEqual(await answered, NOT_ALLOWED);
  },

  'rights that change too often are refused, and stay as they were': async ({ nodes }) => {
    const room = unique('room');
    const ann = await member(nodes[0], { rooms: [room], publish: [] });
    await ask(ann.socket, 'join', { room });
    const [own, other] = [[room], [room, 'other']].map((rooms) => nodes[0].token({ sub: ann.user, rooms, publish: [] }));
    let answer;
    for (let n = 0; n < 2_000 && answer?.success !== false; n += 1) answer = await ask(ann.socket, 'auth:refresh', { token: n % 2 ? own : other });
    assert.deepEqual(answer, { success: false, error: 'Too many requests' });
    assert.equal((await ask(ann.socket, 'join', { room })).success, true);
    assert.deepEqual(removed(ann), []);
  },

  'a token that changes nothing but its end changes no room': async ({ nodes }) => {
    const room = unique('room');
    const ann = await member(nodes[0], { rooms: [room], publish: [] });
    await ask(ann.socket, 'join', { room });
    await refresh(ann, { sub: ann.user, rooms: [room], publish: [] });
    assert.deepEqual(removed(ann), []);
    assert.equal((await count(nodes[1], room, '/relay')).count, 1);
  },
};

const grant = (node, roomId, userIds) => internal(node, 'PUT', `/internal/rooms/${roomId}/members`, { userIds });

/** Grants a room until every node has answered in time: a loaded machine may take longer than a node waits. */
const grantEverywhere = (node, roomId, userIds) => eventually(async () => {
  const { status, body } = await grant(node, roomId, userIds);
  assert.equal(status, 200);
  return body.data.incomplete ? undefined : body.data;
}, { timeout: 20_000 });

const CARE = {
  'a newer token without a room ends being in it, unless a grant opens it': async ({ nodes, open }) => {
    const [lost, granted, topic] = [`visit:${unique('v')}`, `call:${unique('c')}`, `topic:${unique('t')}`];
    const rooms = [lost, granted];
    const [ann, bob] = [await open(0, { name: 'ann', rooms }), await open(1, { name: 'bob', rooms })];
    assert.equal((await grant(nodes[1], granted, [bob.user])).status, 200);
    const chat = `chat:${[ann.user, bob.user].sort().join(':')}`;
    for (const each of [ann, bob]) for (const roomId of [...rooms, topic, chat]) await must(each, 'room:join', { roomId });
    await must(bob, 'presence:subscribe', { userIds: [ann.user] });
    await refresh(bob, { sub: bob.user, name: 'Bob' });
    assert.deepEqual(removed(bob), [lost]);
    const left = await ann.events.take('room:userLeft');
    assert.deepEqual([left.roomId, left.userId], [lost, bob.user]);
    await must(ann, 'message:send', { roomId: lost, message: 'confidential' });
    await must(ann, 'message:send', { roomId: granted, message: 'for both' });
    assert.equal((await bob.events.take('message:new', ({ roomId }) => roomId === granted)).message, 'for both');
    await must(ann, 'presence:setStatus', { status: 'busy' });
    await bob.events.take('presence:changed', ({ userId, status }) => userId === ann.user && status === 'busy');
    await quiet(nodes, ann, bob);
    assert.deepEqual(bob.events.seen('message:new', ({ roomId }) => roomId === lost), []);
    assert.deepEqual(ann.events.seen('room:userLeft'), []);
    assert.equal((await count(nodes[0], lost)).count, 1);
    for (const roomId of [granted, topic, chat]) assert.equal((await count(nodes[0], roomId)).count, 2, roomId);
  },

  'whose other device has the right stays a participant': async ({ nodes, open }) => {
    const roomId = `visit:${unique('v')}`;
    const [ann, phone] = [await open(0, { name: 'ann', rooms: [roomId] }), await open(0, { name: 'bob', rooms: [roomId] })];
    const desk = await open(1, { user: phone.user, rooms: [roomId] });
    for (const each of [ann, phone, desk]) await must(each, 'room:join', { roomId });
    await refresh(phone, { sub: phone.user });
    await must(ann, 'message:send', { roomId, message: 'to the desk' });
    await desk.events.take('message:new');
    await quiet(nodes, ann, phone, desk);
    assert.deepEqual([removed(phone), removed(desk)], [[roomId], []]);
    assert.deepEqual([phone.events.seen('message:new'), ann.events.seen('room:userLeft')], [[], []]);
  },

  'nothing comes after a grant was withdrawn, on whichever node': async ({ nodes, open }) => {
    const roomId = `visit:${unique('v')}`;
    const devices = [await open(0, { name: 'ann' }), await open(0, { name: 'bob' }), await open(1, { name: 'cat' }), await open(1, { name: 'dan', rooms: [roomId] })];
    const [ann, bob, cat, dan] = devices;
    assert.equal((await grant(nodes[0], roomId, [ann.user, bob.user, cat.user])).status, 200);
    for (const each of devices) await must(each, 'room:join', { roomId });
    assert.deepEqual(await grantEverywhere(nodes[1], roomId, [ann.user]), { roomId, userIds: [ann.user], count: 1 });
    await must(ann, 'message:send', { roomId, message: 'confidential' });
    assert.equal((await dan.events.take('message:new')).message, 'confidential', 'whose token lists the room stays');
    const left = (await ann.events.count('room:userLeft', 2)).map(({ userId }) => userId).sort();
    assert.deepEqual(left, [bob.user, cat.user].sort());
    await quiet(nodes, ...devices);
    for (const each of [bob, cat]) assert.deepEqual([removed(each), each.events.seen('message:new')], [[roomId], []]);
    assert.deepEqual([removed(ann), removed(dan)], [[], []]);
    assert.equal((await count(nodes[0], roomId)).count, 2);
  },

  'a grant that is withdrawn while sockets join leaves none of them in': async ({ nodes, open }) => {
    const devices = await Promise.all(Array.from({ length: 6 }, (_, at) => open(at % 2, { name: 'racer' })));
    const users = devices.map(({ user }) => user);
    for (let round = 0; round < 15; round += 1) {
      const roomId = `visit:${unique('v')}`;
      await grant(nodes[0], roomId, users);
      const joining = devices.map((each) => each.ask('room:join', { roomId }));
      await grantEverywhere(nodes[round % 2], roomId, []);
      const outcomes = await Promise.all(joining);
      for (const [at, { success }] of outcomes.entries()) {
        if (success) await devices[at].events.take('muster:removed', ({ room }) => room === roomId);
      }
      assert.equal((await count(nodes[0], roomId)).count, 0, `round ${round}`);
    }
  },

  'a grant that is given again at once leaves everybody in who is told so': async ({ nodes, open }) => {
    const [ann, bob] = [await open(0, { name: 'ann' }), await open(1, { name: 'bob' })];
    const roomId = `visit:${unique('v')}`;
    for (let round = 0; round < 15; round += 1) {
      await grant(nodes[0], roomId, [ann.user, bob.user]);
      for (const each of [ann, bob]) await must(each, 'room:join', { roomId });
      await Promise.all([
        grant(nodes[0], roomId, [ann.user]).then(() => grant(nodes[1], roomId, [ann.user, bob.user])),
        // Comes back as soon as it is taken out.
        bob.events.take('muster:removed').then(() => eventually(async () => (await bob.ask('room:join', { roomId })).success)),
      ]);
      assert.equal((await count(nodes[0], roomId)).count, 2, `round ${round}`);
      assert.deepEqual(removed(bob), []);
    }
  },
};

const EMERGENCIES = {
  'a helper who is one no more leaves the helpers and the emergencies of others': async ({ nodes }) => {
    const app = emergencies(nodes);
    const [owner, first, other] = [await app.online(0, citizen()), await app.online(1, helper()), await app.online(0, helper())];
    const { id } = await app.raise(0, owner.claims);
    const own = await app.raise(1, first.claims);
    for (const { claims } of [first, other]) await app.respond(0, id, claims);
    await owner.events.count('helper:joined', 2);
    const { sub } = first.claims;
    await refresh({ socket: first.socket, node: nodes[1] }, { sub, role: 'citizen' });
    assert.deepEqual(removed(first).sort(), [`emergency:${id}`, 'helpers'].sort());
    assert.equal((await owner.events.take('helper:offline')).helperId, sub);
    await app.setStatus(1, id, other.claims, { status: 'arrived' });
    await owner.events.take('helper:status_update');
    const next = await app.raise(0, citizen());
    await other.events.take('emergency:created', ({ emergency }) => emergency.id === next.id);
    await app.respond(0, own.id, other.claims);
    await first.events.take('helper:joined', ({ emergencyId }) => emergencyId === own.id);
    for (const at of [0, 1]) await app.quiet(at, first);
    assert.deepEqual(first.events.seen('helper:status_update'), []);
    assert.deepEqual(first.events.seen('emergency:created', ({ emergency }) => emergency.id === next.id), []);
  },

  'a response brings only those sockets in whose token is a helper\'s': async ({ nodes }) => {
    const app = emergencies(nodes);
    const claims = helper();
    const [duty, home] = [await app.online(0, claims), await app.online(1, { ...claims, role: 'citizen' })];
    const { id } = await app.raise(0, citizen());
    await app.respond(1, id, claims);
    await duty.events.take('helper:joined');
    const later = await app.online(0, { ...claims, role: 'citizen' });
    await app.setStatus(0, id, claims, { status: 'on_way' });
    await duty.events.take('helper:status_update');
    for (const at of [0, 1]) await app.quiet(at, home);
    for (const each of [home, later]) assert.deepEqual([each.events.seen('helper:joined'), each.events.seen('helper:status_update')], [[], []]);
  },
};

const OTHERS = {
  'who takes part in an incident stays in its room under any role': async ({ nodes }) => {
    const user = unique('citizen');
    const token = (role) => nodes[0].token({ sub: user, role, name: 'Ann' });
    const socket = await nodes[1].clients.connect({ token: token('rescuer') });
    const ann = { socket, events: record(socket), node: nodes[0] };
    const headers = { Authorization: `Bearer ${token('rescuer')}`, 'Content-Type': 'application/json' };
    const raised = await (await fetch(`${nodes[0].url}/api/sos`, { method: 'POST', headers, body: '{}' })).json();
    const room = `sos:${raised.data.id}`;
    assert.equal((await count(nodes[0], room)).count, 1);
    await refresh(ann, { sub: user, role: 'citizen' });
    assert.deepEqual(removed(ann), []);
    assert.equal((await count(nodes[0], room)).count, 1);
    assert.equal((await ask(socket, 'sos:location', { sosId: raised.data.id, latitude: 1, longitude: 1 })).success, true);
  },

  'a chat room is open to every token': async ({ nodes }) => {
    const user = unique('user');
    const socket = await nodes[0].clients.connect({ claims: { sub: user, role: 'admin', rooms: ['x'] } });
    const ann = { socket, events: record(socket), node: nodes[0] };
    const roomId = unique('room');
    assert.equal((await ask(socket, 'join_room', roomId)).success, true);
    await refresh(ann, { sub: user });
    assert.deepEqual(removed(ann), []);
    assert.equal((await ask(socket, 'send_message', { roomId, content: 'still here' })).success, true);
  },
};

/** Names that only servers give to events. */
const SERVERS = ['connect', 'connect_error', 'connected', 'connecting', 'connection', 'disconnect', 'disconnecting', 'newListener', 'removeListener', 'error', 'muster:resync', 'muster:removed', 'muster:'];

const RESERVED = {
  'clients publish no event by which a server speaks': async ({ nodes }) => {
    const room = unique('room');
    const [ann, bob] = [await member(nodes[0], EVERYTHING), await member(nodes[1], EVERYTHING)];
    await ask(bob.socket, 'join', { room });
    for (const event of SERVERS) {
      for (const more of [{}, { ack: 1_000 }]) assert.deepEqual(await ask(ann.socket, 'publish', { room, event, data: { room }, ...more }), { success: false, error: 'Invalid event' }, event);
    }
    for (const event of ['errors', 'reconnect', 'muster']) assert.deepEqual(await ask(ann.socket, 'publish', { room, event, data: 1 }), { success: true }, event);
    for (const event of ['errors', 'reconnect', 'muster']) await bob.events.take(event);
    assert.deepEqual(bob.events.events, []);
  },

  'a backend is told what it cannot emit': async ({ nodes }) => {
    const emit = (to, event) => internal(nodes[1], 'POST', '/internal/emit', { namespace: '/relay', to, event, data: 1 });
    const ann = await member(nodes[0], EVERYTHING);
    const to = { user: ann.user };
    for (const event of ['connect', 'connect_error', 'disconnect', 'disconnecting', 'newListener', 'removeListener']) {
      const { status, body } = await emit(to, event);
      assert.deepEqual([status, body], [400, { success: false, error: 'Invalid event' }], event);
    }
    for (const event of ['connection', 'new_namespace']) assert.equal((await emit('servers', event)).status, 400, event);
    for (const event of ['error', 'connected', 'muster:notice']) {
      assert.equal((await emit(to, event)).status, 200, event);
      await ann.events.take(event);
    }
  },

  'no client enters the own room of a socket': async ({ nodes }) => {
    const [eve, ...others] = [await member(nodes[0], EVERYTHING), await member(nodes[0], EVERYTHING), await member(nodes[1], EVERYTHING)];
    for (const { socket: { id }, events } of others) {
      for (const room of [id, `${id.slice(0, 4)}${'x'.repeat(16)}`]) assert.deepEqual(await ask(eve.socket, 'join', { room }), { success: false, error: 'Invalid room' }, room);
      const { status } = await internal(nodes[1], 'POST', '/internal/emit', { namespace: '/relay', to: { room: id }, event: 'private', data: id });
      assert.equal(status, 200);
      assert.equal(await events.take('private'), id);
    }
    const room = 'a-room-of-20-letters';
    assert.equal(room.length, 20);
    assert.equal((await ask(eve.socket, 'join', { room })).success, true, 'which no socket is called');
    await settled(eve, eve, room);
    assert.deepEqual(eve.events.seen('private'), []);
  },
};

for (const site of SITES.slice(0, 2)) {
  describe(`access, ${site.name}`, { concurrency: 4 }, () => {
    let started;
    before(async () => { started = await site.start({ EVENTS_PER_SECOND: '0' }); });
    after(async () => { await started?.stop(); });
    const open = (at, claims) => device(started.nodes[at], claims);
    for (const [name, run] of Object.entries({ ...RELAY, ...CARE, ...EMERGENCIES, ...OTHERS, ...RESERVED })) {
      test(name, () => run({ nodes: started.nodes, open }));
    }
  });
}

describe('access, what backends do', () => {
  test('a socket stays where a backend has put it, under any token, and leaves where a backend says so', async () => {
    const cluster = await startCluster(2);
    try {
      const emitter = new Emitter(await cluster.redis.connect()).of('/relay');
      const [room, own] = [unique('team'), unique('own')];
      const ann = await member(cluster.nodes[0], { rooms: [own], publish: [] });
      await ask(ann.socket, 'join', { room: own });
      emitter.in(ann.socket.id).socketsJoin(room);
      await eventually(async () => (await count(cluster.nodes[1], room, '/relay')).count === 1, { what: 'the socket to be in the room' });
      await refresh(ann, { sub: ann.user, rooms: ['nothing'], publish: [] });
      assert.deepEqual(removed(ann), [own]);
      const heard = once(ann.socket, 'news');
      emitter.to(room).emit('news', 1);
      assert.deepEqual(await heard, [1]);
      emitter.in(ann.socket.id).socketsLeave(room);
      await eventually(async () => (await count(cluster.nodes[1], room, '/relay')).count === 0, { what: 'the socket to be out' });
    } finally {
      await cluster.stop();
    }
  });
});

describe('access, while the records are away', () => {
  test('a room that cannot be judged is kept, said to be so, and judged when it can be', { timeout: 60_000 }, async () => {
    const postgres = await startPostgres();
    const cluster = await startCluster(1, { env: { DATABASE_URL: postgres.url } });
    const [node] = cluster.nodes;
    try {
      const roomId = `visit:${unique('v')}`;
      const ann = await device(node, { name: 'ann', rooms: [roomId] });
      await must(ann, 'room:join', { roomId });
      await postgres.kill();
      const answer = await ask(ann.socket, 'auth:refresh', { token: node.token({ sub: ann.user }) });
      assert.deepEqual([answer.success, answer.incomplete, removed(ann)], [true, true, []]);
      await postgres.restart();
      assert.equal((await ann.events.take('muster:removed', () => true, { timeout: 20_000 })).room, roomId);
      assert.equal((await count(node, roomId)).count, 0);
      assert.equal(await refusal(ann, 'room:join', { roomId }), 'Room access denied');
    } finally {
      await cluster.stop();
      await postgres.kill();
    }
  });
});
