// User ids and rooms as identity providers and other servers name them, on two nodes and a Redis Cluster; the reasons
// of refused tokens; names and texts that show nothing.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { device, must, refusal } from './support/care.mjs';
import { EVERYTHING, ask, bounded, connected, keeper, refused, unique } from './support/clients.mjs';
import { count, internal, startCluster } from './support/cluster.mjs';
import { rawToken, runGateway, startGateway, sumMetric } from './support/gateway.mjs';
import { load } from './support/packages.mjs';
import { pollingSession, rawWebSocket } from './support/raw.mjs';
import { startRedisCluster } from './support/redis.mjs';
import { eventually, record } from './support/wait.mjs';

const now = () => Math.floor(Date.now() / 1000);

/** Ids from real issuers, and characters that could break a key, a path or a pattern. */
const IDS = [
  'auth0|5f7c8ec7c33c6c004bbafe82', 'google-oauth2|103547991597142817347', 'user@example.org', 'f:2f1cbbf1-1a2b-4c3d:user@example.org', 'abc@clients',
  'dXNlcg==', 'josé', 'user+tag', 'https://issuer.example/u/1?x=%20#y', 'DOMAIN\\ann', "o'neil; --", '{curly}', '}{', 'a b', '*', '100%', '%3A', ':', '"', '\u{1f600}', 'é'.repeat(127), 1, 42,
];

describe('users of any id, on two nodes and a Redis Cluster', () => {
  let servers;
  let cluster;
  before(async () => {
    servers = await startRedisCluster();
    cluster = await startCluster(2, { redis: servers.servers[0], redisUrl: servers.url });
  }, { timeout: 90_000 });
  after(async () => {
    await cluster?.stop();
    await servers?.stop();
  });

  const part = (id) => String(id).replaceAll('%', '%25').replaceAll(':', '%3A');
  const roomOf = (...ids) => `chat:${ids.map(String).sort().map(part).join(':')}`;
  /** A user of `care` on a node: `sub` is the claim, possibly a number, and `user` the id that other users see. */
  const person = async (at, sub) => {
    const node = cluster.nodes[at];
    const socket = node.clients.socket({ claims: { sub } });
    const events = record(socket);
    await connected(socket);
    const { userId } = await events.take('connected');
    assert.equal(userId, String(sub));
    return { user: userId, socket, events, ask: (event, ...args) => ask(socket, event, ...args) };
  };

  test('they write to each other, share a room, watch each other and receive events from backends', { timeout: 60_000 }, async () => {
    await bounded(IDS.length, 4, async (at) => {
      const [one, other] = [IDS[at], IDS[(at + 1) % IDS.length]];
      const [ann, bob] = await Promise.all([person(0, one), person(1, other)]);
      try {
        await must(ann, 'presence:subscribe', { userIds: [bob.user] });
        const sent = await must(ann, 'message:send', { recipientId: bob.user, message: unique('hello') });
        const heard = await bob.events.take('message:new', ({ id }) => id === sent.message.id);
        assert.deepEqual([heard.senderId, heard.recipientId], [ann.user, bob.user]);

        const roomId = roomOf(one, other);
        await must(ann, 'room:join', { roomId });
        const { participants } = await must(bob, 'room:join', { roomId });
        assert.deepEqual(participants.map(({ userId }) => userId).sort(), [ann.user, bob.user].sort());
        assert.equal((await ann.events.take('room:userJoined', (joined) => joined.roomId === roomId)).userId, bob.user);
        const said = await must(bob, 'message:send', { roomId, message: 'hi' });
        assert.equal(said.message.conversationId, sent.message.conversationId, 'the room is their conversation');
        const { messages } = await must(bob, 'message:history', { recipientId: ann.user, limit: 100 });
        assert.ok([sent, said].every(({ message }) => messages.some(({ id }) => id === message.id)));

        const { presences } = await must(ann, 'presence:get', { userIds: [bob.user] });
        assert.deepEqual(presences.map(({ userId, status }) => [userId, status]), [[bob.user, 'online']]);

        const event = unique('news').replaceAll(':', '.');
        for (const to of [{ user: bob.user }, { room: `user:${bob.user}` }, { room: roomId }]) {
          const { status } = await internal(cluster.nodes[0], 'POST', '/internal/emit', { to, event, data: 1 });
          assert.equal(status, 200, JSON.stringify(to));
          await bob.events.take(event);
        }
        const active = await internal(cluster.nodes[0], 'GET', `/internal/rooms/${encodeURIComponent(roomId)}/active`);
        assert.deepEqual([...new Set(active.body.data.members.map(({ userId }) => userId))].sort(), [ann.user, bob.user].sort());
      } finally {
        ann.socket.disconnect();
        bob.socket.disconnect();
      }
    });
  });

  test('no pair of users can enter the room of another pair', async () => {
    const [ann, eve] = await Promise.all([person(0, 'a:b'), person(1, 'a')]);
    const bob = await person(0, 'b');
    for (const [who, roomId] of [[eve, 'chat:a%3Ab:c'], [eve, 'chat:a:b:c'], [ann, 'chat:a:b'], [ann, 'chat:a:b:c'], [bob, 'chat:a%3Ab:c'], [ann, 'chat:a%3ab:c']]) {
      assert.equal(await refusal(who, 'room:join', { roomId }), 'Room access denied', `${who.user} ${roomId}`);
    }
    await must(ann, 'room:join', { roomId: 'chat:a%3Ab:c' });
    await must(eve, 'room:join', { roomId: 'chat:a:b' });
  });

  test('they take part in an incident with such an id, by REST and by backends', { timeout: 60_000 }, async () => {
    await bounded(IDS.length, 4, async (at) => {
      const [sub, sosId] = [IDS[at], `${unique('sos')} {${at}}/%2F:é`];
      const path = `/api/sos/${encodeURIComponent(sosId)}/participants`;
      const headers = { Authorization: `Bearer ${cluster.nodes[0].token({ sub })}`, 'Content-Type': 'application/json' };
      const call = async (method, rest, body) => {
        const answer = await fetch(`${cluster.nodes[at % 2].url}${path}${rest}`, { method, headers, body: body && JSON.stringify(body) });
        return { status: answer.status, body: await answer.json() };
      };
      const told = await internal(cluster.nodes[0], 'POST', '/internal/participants/joined', { sosId, userId: String(sub), userType: 'citizen', displayName: ' ' });
      assert.deepEqual([told.status, told.body.data?.userId], [200, String(sub)], JSON.stringify(told.body));
      const user = encodeURIComponent(String(sub));
      const check = await call('GET', `/${user}/check`);
      assert.equal(check.status, 200, JSON.stringify(check.body));
      const history = await call('GET', `/user/${user}/history`);
      assert.ok(history.body.data.some((record) => record.sosId === sosId && record.userId === String(sub)), JSON.stringify(history.body));
      const left = await call('PATCH', `/${user}/leave`, {});
      assert.equal(left.status, 200, JSON.stringify(left.body));
    });
  });

  test('a room with any name is counted and receives events on both nodes, and is never confused with another', { timeout: 60_000 }, async () => {
    const rooms = ['General Chat', 'team/42', 'a#b', 'a#', '#', 'a}:m', '{a}', 'a}', '*', 'a?c', '[ab]', 'room:x', 'x\\', 'é', '%', 'a b', 'a'];
    const sockets = await Promise.all([0, 1].map((at) => cluster.nodes[at].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: unique('u') } })));
    const events = sockets.map(record);
    for (const room of rooms) for (const socket of sockets) assert.deepEqual(await ask(socket, 'join', { room }), { success: true, room });
    for (const [at, room] of rooms.entries()) {
      assert.equal((await count(cluster.nodes[at % 2], room, '/relay')).count, 2, room);
      assert.deepEqual(await ask(sockets[at % 2], 'publish', { room, event: 'e', data: room }), { success: true });
      const emitted = await internal(cluster.nodes[at % 2], 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'once', data: room }, { 'Idempotency-Key': unique('key}:n') });
      assert.equal(emitted.status, 200);
    }
    for (const heard of events) {
      for (const room of rooms) {
        await heard.take('e', (data) => data === room);
        await heard.take('once', (data) => data === room);
      }
      assert.deepEqual(heard.events, [], 'each of them once');
    }
  });

  test("a node's pattern for its own sockets delivers nothing twice", async () => {
    const socket = await cluster.nodes[0].clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: unique('u') } });
    // As many bytes as a socket's id and the same beginning, but no id.
    const room = `${socket.id.slice(0, 4)}${'é'.repeat(8)}`;
    const events = record(socket);
    assert.equal((await ask(socket, 'join', { room })).success, true);
    for (const data of [1, 2]) await internal(cluster.nodes[1], 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'e', data });
    await events.take('e', (data) => data === 2);
    assert.deepEqual(events.seen('e'), [[1]]);
  });

  test('a subprotocol is answered by the node of the session, whichever node is asked', async () => {
    const session = await pollingSession(cluster.nodes[0].port);
    const path = `/socket.io/?EIO=4&transport=websocket&sid=${session.sid}`;
    const ws = await rawWebSocket(cluster.nodes[1].port, path, { headers: { 'Sec-WebSocket-Protocol': 'my.proto, other' } });
    assert.equal(ws.response.headers['sec-websocket-protocol'], 'my.proto');
    ws.destroy();
  });
});

describe('why a token is refused', () => {
  const SECRET = 'a secret of the tests that is long enough';
  let gateway;
  let clients;
  before(async () => {
    gateway = await startGateway({ env: { JWT_SECRET: SECRET, JWT_ISSUER: 'us', JWT_AUDIENCE: 'here' } });
    clients = keeper(gateway);
  });
  after(async () => {
    clients?.closeAll();
    await gateway?.kill();
  });

  const good = () => ({ sub: 'u1', exp: now() + 60, iss: 'us', aud: 'here' });
  const REFUSED = {
    signature: [() => rawToken(good(), 'another secret')],
    expired: [() => rawToken({ ...good(), exp: now() - 60 }, SECRET), 'exp', 'Token expired'],
    issuer: [() => rawToken({ ...good(), iss: 'hushhush' }, SECRET), 'iss'],
    audience: [() => rawToken({ ...good(), aud: ['hushhush'] }, SECRET), 'aud'],
    algorithm: [() => rawToken(good(), SECRET, { alg: 'none' })],
    user_id: [() => rawToken({ ...good(), userId: { hushhush: 1 } }, SECRET), 'userId'],
    time: [() => rawToken({ ...good(), exp: 'hushhush' }, SECRET), 'exp'],
    malformed: [() => 'hushhush'],
    missing: [() => '', undefined, 'Authentication required'],
  };

  test('the reason is logged once a minute, without the value of the claim, and counted each time', async () => {
    for (const [reason, [make, claim, message = 'Invalid token']] of Object.entries(REFUSED)) {
      for (let time = 0; time < 2; time += 1) {
        assert.equal((await refused(clients.socket({ namespace: '/relay', token: make() }))).message, message, reason);
      }
      const line = await gateway.waitLog((entry) => entry.message === 'a token is refused' && entry.reason === reason);
      assert.deepEqual([line.level, line.claim, line.place, line.address], ['INFO', claim, '/relay', '127.0.0.1'], reason);
      assert.equal(sumMetric(await gateway.metrics(), 'muster_tokens_refused_total', `reason="${reason}"`), 2, reason);
    }
    const lines = gateway.logs.filter((entry) => entry.message === 'a token is refused');
    assert.equal(lines.length, Object.keys(REFUSED).length);
    assert.ok(!gateway.output.stderr.includes('hushhush'));
  });

  test('an unusable claim is logged by name, and refuses no client', async () => {
    const token = rawToken({ ...good(), avatar: 'hushhush'.repeat(400), role: ['admin', 'user'], rooms: 'a b', name: { first: 'x' } }, SECRET);
    const socket = await clients.connect({ token });
    socket.disconnect();
    for (const claim of ['avatar', 'rooms', 'name']) await gateway.waitLog((entry) => entry.claim === claim && /as if it were absent/.test(entry.message));
    assert.ok(!gateway.output.stderr.includes('hushhush'));
  });
});

test('JWT_USER_CLAIM names the claim with the user, in tokens of the gateway, too', async () => {
  const env = { JWT_SECRET: 'a secret of the tests that is long enough', JWT_USER_CLAIM: 'https://example.org/uid' };
  const gateway = await startGateway({ env });
  const clients = keeper(gateway);
  try {
    const userOf = async (token) => {
      const socket = clients.socket({ token });
      const events = record(socket);
      await connected(socket);
      return (await events.take('connected')).userId;
    };
    assert.equal(await userOf(gateway.token({ sub: 'other', [env.JWT_USER_CLAIM]: 7 })), '7');
    const printed = await runGateway(['token', '--user', 'auth0|5f7c'], { env });
    assert.equal(printed.code, 0, printed.stderr);
    assert.equal(await userOf(printed.stdout.trim()), 'auth0|5f7c');
    assert.equal((await refused(clients.socket({ token: gateway.token({ sub: 'u1', userId: 'u1' }) }))).message, 'Invalid token');
  } finally {
    clients.closeAll();
    await gateway.kill();
  }
});

describe('on a single node', () => {
  let gateway;
  before(async () => {
    gateway = await startGateway();
    gateway.clients = keeper(gateway);
  });
  after(async () => {
    gateway?.clients.closeAll();
    await gateway?.kill();
  });

  test('invisible text is no message, no status and no name', async () => {
    const [ann, bob] = await Promise.all([device(gateway), device(gateway)]);
    for (const blank of ['\u200b', ' \u200b\n', '\ufeff', '\u3164', '\u2060\u00ad', '\u{e0020}', '\u202e']) {
      await must(ann, 'join_room', 'lobby');
      assert.equal(await refusal(ann, 'send_message', { roomId: 'lobby', content: blank }), 'Message cannot be empty');
      assert.equal(await refusal(ann, 'message:send', { recipientId: bob.user, message: blank }), 'Message cannot be empty');
      assert.equal(await refusal(ann, 'join_room', blank), 'Invalid room id');
      const { socket } = await device(gateway, { name: blank, user: unique('named') });
      assert.equal((await ask(socket, 'join_room', 'lobby')).success, true);
    }
    const { message } = await must(ann, 'send_message', { roomId: 'lobby', content: '👩\u200d🚀\u200b' });
    assert.equal(message.content, '👩\u200d🚀\u200b', 'invisible characters beside visible ones stay');
  });

  test('a namespace of over 128 characters beside a good one is "Invalid namespace", and the good one stays connected', async () => {
    const relay = await gateway.clients.connect({ namespace: '/relay', claims: EVERYTHING });
    const long = relay.io.socket(`/${'n'.repeat(500)}`, { auth: { token: gateway.token() } });
    assert.equal((await refused(long)).message, 'Invalid namespace');
    assert.equal(await ask(relay, 'echo', 1), 1);
  });

  test('the first subprotocol of a WebSocket is selected, as in Node.js', async () => {
    const { WebSocket, WebSocketServer } = load('ws');
    const node = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    await new Promise((resolve) => { node.once('listening', resolve); });
    try {
      for (const protocols of [['my.proto'], ['one', 'two'], []]) {
        const [theirs, ours] = await Promise.all([`ws://127.0.0.1:${node.address().port}/`, `${gateway.url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket`].map(async (url) => {
          const socket = new WebSocket(url, protocols);
          await new Promise((resolve, reject) => { socket.once('open', resolve).once('error', reject); });
          socket.terminate();
          return socket.protocol;
        }));
        assert.deepEqual([ours, theirs], [protocols[0] ?? '', protocols[0] ?? '']);
      }
    } finally {
      node.close();
    }
    const socket = gateway.clients.socket({ namespace: '/relay', claims: EVERYTHING, transport: { options: { transports: ['polling', 'websocket'] } }, protocols: ['my.proto'] });
    await connected(socket, { transport: { upgraded: true } });
    assert.equal(await ask(socket, 'echo', 1), 1);
  });

  test('a token with the prefix `Bearer ` is accepted wherever it is sent', async () => {
    const token = `Bearer ${gateway.token(EVERYTHING)}`;
    const socket = await gateway.clients.connect({ namespace: '/relay', auth: { token } });
    assert.equal((await ask(socket, 'auth:refresh', { token })).success, true);
    const other = await gateway.clients.connect({ namespace: '/relay', auth: {}, query: { token } });
    assert.equal(await ask(other, 'echo', 1), 1);
  });

  test('tokens that expire one after the other end their namespaces, and the last one the connection', { timeout: 20_000 }, async () => {
    const chat = await gateway.clients.connect({ claims: { exp: now() + 2 } });
    const relay = await gateway.clients.also(chat, '/relay', { claims: { ...EVERYTHING, exp: now() + 4 } });
    const ends = Object.entries({ chat, relay }).map(([name, socket]) => new Promise((resolve) => { socket.once('disconnect', (reason) => resolve([name, reason])); }));
    assert.deepEqual(await Promise.all(ends), [['chat', 'io server disconnect'], ['relay', 'transport close']]);
    const both = await gateway.clients.connect({ claims: { exp: now() + 2 } });
    const beside = await gateway.clients.also(both, '/relay', { claims: { ...EVERYTHING, exp: now() + 2 } });
    const reasons = [both, beside].map((socket) => new Promise((resolve) => { socket.once('disconnect', resolve); }));
    assert.deepEqual(await Promise.all(reasons), ['transport close', 'transport close'], 'both can reconnect');
    await eventually(() => !both.io.engine || both.io.engine.readyState === 'closed', { what: 'the engine to be closed' });
  });
});
