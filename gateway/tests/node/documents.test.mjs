// Document 003 (chat) from its reader's side: its snippets, unchanged, on every transport.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { keepingConsole, snippets } from './documents/snippets.mjs';
import { TRANSPORTS, connected, keeper, refused } from './support/clients.mjs';
import { startGateway } from './support/gateway.mjs';
import { pollingSession } from './support/raw.mjs';
import { record } from './support/wait.mjs';

const ROOM = 'asteroid-2465633';
const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const john = { sub: 'john', name: 'John Doe', email: 'john@example.com' };
const jane = { sub: 'jane', name: 'Jane Roe', email: 'jane@example.com' };

for (const transport of TRANSPORTS) {
  describe(`document 003 over ${transport.name}`, () => {
    let gateway;
    let clients;
    let document;
    before(async () => {
      gateway = await startGateway({ env: { PING_INTERVAL: '25s', PING_TIMEOUT: '60s' } });
      clients = keeper(gateway);
      document = snippets('chat', { url: gateway.url, transport });
    });
    after(async () => {
      clients?.closeAll();
      await gateway?.kill();
    });

    /** A connected socket, created by the document's own code. */
    const reader = async (snippet, claims) => {
      const socket = await document.connect(snippet, gateway.token(claims));
      clients.open.add(socket);
      await connected(socket, { transport });
      assert.equal(socket.io.engine.transport.name, transport.final);
      return socket;
    };

    test('the snippets work together as the document says', async () => {
      const socket = await reader('connect-auth', john);
      const other = await reader('connect-headers', jane);
      const events = record(socket);
      const others = record(other);
      const printed = keepingConsole();
      const printedByOther = keepingConsole();
      await document.run('errors', { socket, console: printed });

      await document.run('join_room', { socket: other, console: printedByOther });
      await printedByOther.printed(`Room ${ROOM}: 0 messages`);
      await document.run('join_room', { socket, console: printed });
      await printed.printed(`Room ${ROOM}: 0 messages`);
      const arrival = await others.take('user_joined');
      assert.deepEqual({ ...arrival, timestamp: '' }, { userId: 'john', email: 'john@example.com', timestamp: '' });
      assert.match(arrival.timestamp, ISO);

      await document.run('send_message', { socket, console: printed });
      await printed.printed('John Doe: This asteroid has a high risk score!');
      const message = await others.take('new_message');
      assert.deepEqual({ ...message, id: '', createdAt: '' }, {
        id: '',
        content: 'This asteroid has a high risk score!',
        roomId: ROOM,
        userId: 'john',
        createdAt: '',
        user: { id: 'john', name: 'John Doe', avatar: null },
      });
      assert.match(message.createdAt, ISO);
      assert.equal(typeof message.id, 'string');
      assert.deepEqual(await events.take('new_message'), message, 'the sender gets the same message');

      await document.run('typing', { socket: other, console: printedByOther });
      await document.run('typing', { socket, console: printed });
      await printedByOther.printed('john@example.com is typing...');
      assert.deepEqual(await others.take('user_typing'), { userId: 'john', email: 'john@example.com' });
      assert.deepEqual(await others.take('user_stopped_typing'), { userId: 'john' });

      await document.run('leave_room', { socket, console: printed });
      const departure = await others.take('user_left');
      assert.deepEqual({ ...departure, timestamp: '' }, { userId: 'john', email: 'john@example.com', timestamp: '' });
      assert.match(departure.timestamp, ISO);

      await document.run('send_message', { socket, console: printed });
      await printed.printed('Socket error: You must join the room first');

      await document.run('join_room', { socket, console: printed });
      const history = await events.take('room_history', ({ messages }) => messages.length > 0);
      assert.equal(history.roomId, ROOM);
      const { userId, ...remembered } = message;
      assert.equal(userId, 'john');
      assert.equal(history.messages.length, 1);
      for (const [key, value] of Object.entries(remembered)) assert.deepEqual(history.messages[0][key], value, `history's ${key}`);
      await printed.printed(`Room ${ROOM}: 1 messages`);
    });

    test('a malformed token ends in connect_error "Invalid token"', async () => {
      const socket = await document.connect('connect-auth', 'not-a-token');
      clients.open.add(socket);
      const error = await refused(socket);
      assert.equal(error.message, 'Invalid token');
    });

    test('a malformed header ends in connect_error "Invalid token"', async () => {
      const socket = await document.connect('connect-headers', 'not-a-token');
      clients.open.add(socket);
      const error = await refused(socket);
      assert.equal(error.message, 'Invalid token');
    });

    test('no token ends in connect_error "Authentication required"', async () => {
      const socket = clients.socket({ transport, auth: {}, autoConnect: false });
      await document.run('errors', { socket, console: keepingConsole() });
      socket.connect();
      const error = await refused(socket);
      assert.equal(error.message, 'Authentication required');
    });

    test('the connection settings are the documented ones', async () => {
      const { open } = await pollingSession(gateway.port);
      assert.equal(open.pingInterval, 25_000);
      assert.equal(open.pingTimeout, 60_000);
    });
  });
}
