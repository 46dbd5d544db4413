// Document 004 (care) from its reader's side: its snippets, unchanged, on one node and spread over two.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { request } from './documents/http.mjs';
import { keepingConsole, snippets } from './documents/snippets.mjs';
import { ISO, SITES, UUID_V7, hasStatus, must } from './support/care.mjs';
import { ask, connected, refused } from './support/clients.mjs';
import { internal } from './support/cluster.mjs';
import { runGateway } from './support/gateway.mjs';
import { record } from './support/wait.mjs';

const CHAT = 'chat:user1:user2';
const [EMBEDDED, ON_REDIS] = SITES;

for (const { name, start } of [EMBEDDED, ON_REDIS]) {
  describe(`document 004 on ${name}`, () => {
    let site;
    let nodes;
    let documents;
    before(async () => {
      site = await start({ AUTH_ERRORS: 'prefixed' });
      nodes = site.nodes;
      documents = nodes.map(({ url }) => snippets('care', { url }));
    });
    after(() => site?.stop());

    /** A reader's device: a socket created by the document's own code on a node, with a console and the snippets. */
    const reader = async (at, claims) => {
      const console = keepingConsole();
      const socket = await documents[at].connect('connect', nodes[at].token(claims), { console });
      nodes[at].clients.open.add(socket);
      const events = record(socket);
      await connected(socket);
      await console.printed(`Connected: ${socket.id}`);
      const run = (snippet, given = {}) => documents[at].run(snippet, { socket, console, ...given });
      return { user: claims.sub, socket, events, console, run, ask: (event, ...args) => ask(socket, event, ...args) };
    };

    test('messages, rooms and typing work together as documented', async () => {
      const rooms = ['visit:visit-123'];
      const [patient, doctor] = [
        await reader(0, { sub: 'user1', name: 'User One', role: 'patient', rooms }),
        await reader(1, { sub: 'user2', name: 'User Two', role: 'doctor', rooms }),
      ];
      await must(doctor, 'room:join', { roomId: 'visit:visit-123' });
      await patient.run('send_message');
      const message = await doctor.events.take('message:new');
      assert.deepEqual([message.senderId, message.visitId, message.message], ['user1', 'visit-123', 'Hello, doctor!']);
      assert.match(message.id, UUID_V7);
      assert.match(message.timestamp, ISO);
      await patient.console.printed(`Message ID: ${message.id}`);
      await must(patient, 'room:join', { roomId: 'visit:visit-123' });
      await doctor.run('send_message');
      await patient.console.printed('New message: Hello, doctor!');

      await doctor.run('join_room');
      await doctor.console.printed(`Joined room: ${CHAT}`);
      await doctor.console.printed(/^Participants: \[{[^{]*}\]$/);
      await patient.run('join_room');
      await patient.console.printed(/^Participants: \[{[^{]*},{[^{]*}\]$/);
      const arrival = await doctor.events.take('room:userJoined', ({ roomId }) => roomId === CHAT);
      assert.deepEqual([arrival.userId, arrival.role], ['user1', 'patient']);

      await patient.run('typing');
      await doctor.events.take('typing:stop');
      await doctor.run('typing');
      await patient.console.printed('user2 is typing...');

      const heard = [patient, doctor].map(({ events }) => events.take('message:new', ({ id }) => id === 'msg-123'));
      const told = [patient, doctor].map(({ events }) => events.take('system:maintenance'));
      const addressed = await reader(1, { sub: 'user-123' });
      await addressed.run('notifications');
      await addressed.console.printed('Unread: 0');
      assert.deepEqual(await documents[0].serve('server_side', { internalUrl: nodes[0].internalUrl }), [200, 200, 200]);
      for (const event of heard) assert.equal((await event).message, 'Hello!');
      for (const event of told) assert.equal((await event).message, 'Scheduled maintenance in 10 minutes');
      await addressed.console.printed('Notification: New Message You have a new message');
    });

    test('a video call is set up, taken and ended', async () => {
      const rooms = ['visit:visit-123'];
      const [caller, recipient] = [await reader(0, { sub: 'user-789', rooms }), await reader(1, { sub: 'user-456', rooms })];
      await recipient.run('call_incoming');
      await caller.run('call_initiate');
      const incoming = await recipient.events.take('call:incoming');
      assert.deepEqual([incoming.callerId, incoming.callType, incoming.visitId], ['user-789', 'video', 'visit-123']);
      const { callId } = incoming;
      await recipient.run('call_accept', { callId });
      assert.equal((await caller.events.take('call:accepted')).callId, callId);
      await caller.run('call_end', { callId });
      for (const { events } of [caller, recipient]) {
        const ended = await events.take('call:ended');
        assert.equal(ended.callId, callId);
        assert.ok(Number.isInteger(ended.duration));
      }
    });

    test('presence can be read, set and subscribed to', async () => {
      const [one, two] = [await reader(0, { sub: 'user-1' }), await reader(1, { sub: 'user-2' })];
      for (const { user } of [one, two]) await hasStatus(one, user, 'online');
      await one.run('subscribe');
      await one.run('presence');
      for (const line of ['user-1: online', 'user-2: online']) await one.console.printed(line);
      await hasStatus(two, 'user-1', 'busy');
      await two.run('presence');
      await two.console.printed('user-1: busy');
      await one.console.printed('user-2 is now busy');
      const changed = await one.events.take('presence:changed', ({ userId, status }) => userId === 'user-2' && status === 'busy');
      assert.equal(changed.customStatus, 'In a meeting');
    });

    test('notifications arrive and are counted', async () => {
      const user = await reader(1, { sub: 'user-321' });
      await user.run('notifications');
      await user.console.printed('Unread: 0');
      const body = { userId: 'user-321', title: 'Visit', message: 'starts soon' };
      assert.equal((await internal(nodes[0], 'POST', '/internal/notifications', body)).status, 201);
      await user.console.printed('Notification: Visit starts soon');
      await user.run('notifications');
      await user.console.printed('Unread: 1');
    });

    test('the patterns: request and response, and a room from join to leave', async () => {
      const [actor, watcher] = [await reader(0, { sub: 'actor' }), await reader(1, { sub: 'watcher' })];
      const answered = new Promise((resolve) => {
        const socket = { emit: (event, data, ack) => actor.socket.emit(event, data, (response) => { ack(response); resolve(response); }) };
        actor.run('request_response', { socket, data: {} });
      });
      assert.equal((await answered).success, false, 'the document describes no such event');

      const roomId = 'topic:appointments';
      await must(watcher, 'room:join', { roomId });
      await actor.run('room_based', { roomId, roomType: 'topic', message: 'anyone?' });
      await watcher.events.take('room:userLeft', ({ userId }) => userId === 'actor');
      const seen = watcher.events.events.map(({ event }) => event).filter((event) => ['room:userJoined', 'message:new'].includes(event));
      assert.deepEqual(seen, ['room:userJoined', 'message:new']);
      assert.equal((await watcher.events.take('message:new')).message, 'anyone?');
    });

    test('errors are the documented ones', async () => {
      const user = await reader(1, { sub: 'user-9' });
      await user.run('errors', { data: { roomId: 'visit:not-mine', message: 'x' } });
      await user.console.printed('Error: Room access denied');
      const expired = nodes[0].token({ exp: Math.floor(Date.now() / 1000) - 600 });
      for (const [token, message] of [['not-a-token', 'Authentication error: Invalid token'], [expired, 'Authentication error: Token expired']]) {
        const socket = await documents[0].connect('connect', token, { console: keepingConsole() });
        nodes[0].clients.open.add(socket);
        const refusal = refused(socket);
        await documents[0].run('errors', { socket, console: keepingConsole(), data: {} });
        assert.equal((await refusal).message, message);
      }
    });

    test('the utility functions report the state, disconnect and reconnect', async () => {
      const user = await reader(0, { sub: 'user-10' });
      const { id } = user.socket;
      await user.run('utility');
      for (const line of ['Connected: true', `Socket ID: ${id}`]) await user.console.printed(line);
      await connected(user.socket);
      await user.console.printed(`Connected: ${user.socket.id}`);
      assert.notEqual(user.socket.id, id);
    });

    test('a user logs in, and the token opens a socket', { timeout: 60_000 }, async () => {
      for (const email of ['user@example.com', 'patient@example.com']) {
        const added = await runGateway(['user', 'add', '--email', email, '--name', email, '--role', 'citizen'], { env: { DATABASE_URL: nodes[0].databaseUrl }, input: 'password123\n' });
        assert.equal(added.code, 0, added.stderr);
      }
      const socket = await documents[0].connect('login');
      nodes[0].clients.open.add(socket);
      const events = record(socket);
      await connected(socket);
      assert.equal((await events.take('connected')).socketId, socket.id);
      const answer = await request('login', { document: 'care', url: nodes[1].url });
      assert.equal(answer.success, true);
      const other = await nodes[0].clients.connect({ token: answer.token });
      assert.equal((await ask(other, 'notification:getUnreadCount')).success, true);
    });
  });
}
