// Document 002 (emergencies) from its reader's side: its examples, unchanged, on one node and on two.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { keepingConsole, snippets } from './documents/snippets.mjs';
import { connected, keeper, refused } from './support/clients.mjs';
import { startCluster } from './support/cluster.mjs';
import { NAMESPACE, about, citizen, emergencies, helper } from './support/emergencies.mjs';
import { startGateway } from './support/gateway.mjs';
import { record } from './support/wait.mjs';

/** The emergency and the location of the document's example. */
const SHOWN = '507f1f77bcf86cd799439011';
const NEW_YORK = { latitude: 40.7128, longitude: -74.006 };

const SITES = [
  {
    name: 'one node',
    async start() {
      const node = await startGateway();
      node.clients = keeper(node);
      return { nodes: [node, node], stop: async () => { node.clients.closeAll(); await node.kill(); } };
    },
  },
  {
    name: 'two nodes',
    async start() {
      const cluster = await startCluster(2);
      return { nodes: cluster.nodes, stop: () => cluster.stop() };
    },
  },
];

for (const site of SITES) {
  describe(`document 002 on ${site.name}`, () => {
    let nodes;
    let stop;
    let app;
    let documents;
    before(async () => {
      ({ nodes, stop } = await site.start());
      app = emergencies(nodes);
      documents = nodes.map(({ url }) => snippets('emergencies', { url }));
    });
    after(() => stop?.());

    /** A user who runs an example on node `at`; without `emergency` it uses the document's id. */
    const reader = async (at, snippet, claims, { emergency } = {}) => {
      const printed = keepingConsole();
      const socket = await documents[at].connect(snippet, app.token(claims), { console: printed, ids: emergency ? { [SHOWN]: emergency } : {} });
      nodes[at].clients.open.add(socket);
      const events = record(socket);
      await connected(socket);
      return { socket, events, printed };
    };

    test('the unchanged example receives nearby emergencies, and an error for its unknown emergency', async () => {
      const { socket, events, printed } = await reader(0, 'browser', helper());
      assert.equal(socket.io.engine.transport.name, 'websocket', 'it tries WebSocket first');
      await printed.printed('Connected to emergency namespace');
      await printed.printed('Socket error: Emergency not found');
      await printed.printed(/^Location updated: \{/);
      assert.deepEqual(await events.take('location:updated'), { ...NEW_YORK, message: 'Location updated successfully' });
      const { id } = await app.raise(1, citizen(), { location: { ...NEW_YORK, address: '123 Main St' } });
      await printed.printed(new RegExp(`^New emergency: .*"${id}"`));
      await printed.printed(new RegExp(`^Emergency nearby: .*"${id}"`));
      assert.equal((await events.take('emergency:created', about(id))).nearbyHelperCount, 1);
      assert.equal((await events.take('emergency:nearby', about(id))).distance, 0);
      socket.disconnect();
      await printed.printed('Disconnected: io client disconnect');
    });

    test('the example with an emergency that exists prints its events from the join to the end', async () => {
      const [owner, watcher, responder] = [citizen(), helper(), helper()];
      const { id } = await app.raise(0, owner);
      const readers = [await reader(1, 'browser', owner, { emergency: id }), await reader(0, 'browser', watcher, { emergency: id })];
      for (const { printed, events } of readers) {
        await printed.printed(`Joined room: emergency:${id}`);
        const { emergencyId, room, message } = await events.take('emergency:joined');
        assert.deepEqual({ emergencyId, room, message }, { emergencyId: id, room: `emergency:${id}`, message: 'Successfully joined emergency room' });
      }
      await app.respond(1, id, responder);
      await app.setStatus(0, id, responder, { status: 'on_way', notes: 'On my way, ETA 5 minutes' });
      await app.resolve(1, id, owner, { resolutionNotes: 'Help arrived, situation resolved' });
      for (const { printed } of readers) {
        await printed.printed(new RegExp(`^Helper joined: .*"${responder.sub}"`));
        await printed.printed('Status changed: responding');
        await printed.printed('Helper status: on_way');
        await printed.printed(/^Emergency resolved: .*"user_resolved"/);
        assert.deepEqual(printed.lines.filter((line) => /error/i.test(line)), []);
      }
    });

    test('the example for React Native connects, with the reader\'s own token', async () => {
      const { socket, events } = await reader(1, 'react-native', helper());
      assert.equal(socket.nsp, NAMESPACE);
      assert.equal(socket.io.engine.transport.name, 'websocket');
      socket.emit('location:update', NEW_YORK);
      assert.equal((await events.take('location:updated')).message, 'Location updated successfully');
    });

    test('a malformed token is refused, and the example prints why', async () => {
      const printed = keepingConsole();
      const socket = await documents[0].connect('browser', 'not-a-token', { console: printed });
      nodes[0].clients.open.add(socket);
      assert.equal((await refused(socket)).message, 'Invalid token');
      await printed.printed('Connection error: Invalid token');
    });
  });
}
