// A load balancer without sticky sessions: every request of a session goes to another node.

import assert from 'node:assert/strict';
import { createServer, connect } from 'node:net';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, TRANSPORTS, ask, bounded, keeper, unique } from './support/clients.mjs';
import { count, startCluster } from './support/cluster.mjs';
import { request } from './support/raw.mjs';
import { eventually, once } from './support/wait.mjs';

/** A round-robin balancer for TCP connections; each HTTP request has its own. */
async function balancer(nodes) {
  let turn = 0;
  const open = new Set();
  const server = createServer((client) => {
    const node = nodes[turn % nodes.length];
    turn += 1;
    const upstream = connect(node.port, '127.0.0.1');
    for (const socket of [client, upstream]) {
      open.add(socket);
      socket.on('close', () => open.delete(socket));
    }
    client.on('error', () => upstream.destroy());
    upstream.on('error', () => client.destroy());
    client.pipe(upstream).pipe(client);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      for (const socket of open) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

describe('behind a balancer without sticky sessions', () => {
  let cluster;
  let front;
  let clients;
  before(async () => {
    cluster = await startCluster(3);
    front = await balancer(cluster.nodes);
    clients = keeper({ url: front.url, token: cluster.nodes[0].token });
  });
  after(async () => {
    clients?.closeAll();
    await front?.close();
    await cluster?.stop();
  });

  for (const transport of TRANSPORTS) {
    test(`${transport.name}: thirty clients exchange events`, { timeout: 60_000 }, async () => {
      const room = unique('room');
      const sockets = await bounded(30, 6, (n) => clients.connect({ namespace: '/relay', transport, claims: { ...EVERYTHING, sub: `u${n}` } }));
      for (const socket of sockets) assert.equal((await ask(socket, 'join', { room })).success, true);
      const seen = sockets.map(() => []);
      sockets.forEach((socket, at) => socket.on('m', (n) => seen[at].push(n)));
      for (let n = 0; n < 20; n += 1) await ask(sockets[n], 'publish', { room, event: 'm', data: n });
      await eventually(() => seen.every((list) => list.length === 20), { timeout: 15_000, what: 'every message to reach every client' });
      for (const list of seen) assert.deepEqual(list, [...Array(20).keys()]);
      assert.equal((await count(cluster.nodes[1], room, '/relay')).count, 30);
      for (const socket of sockets) socket.disconnect();
      await eventually(async () => (await count(cluster.nodes[2], room, '/relay')).count === 0, { what: 'nobody to be left' });
    });
  }

  test('a session of a dead node, or of none, is unknown at once', { timeout: 60_000 }, async () => {
    const transport = TRANSPORTS[1];
    const doomed = await cluster.start();
    const sockets = [await doomed.clients.connect({ namespace: '/relay', transport, claims: EVERYTHING })];
    const sid = sockets[0].io.engine.id;
    assert.equal(sid.slice(0, 4), doomed.node);
    await doomed.kill();
    for (const id of [sid, `ZZZZ${'a'.repeat(16)}`]) {
      const start = performance.now();
      const answer = await request(cluster.nodes[0].port, 'GET', `/socket.io/?EIO=4&transport=polling&sid=${id}`);
      assert.deepEqual([answer.status, JSON.parse(answer.body)], [400, { code: 1, message: 'Session ID unknown' }]);
      assert.ok(performance.now() - start < 3_000);
    }
    const again = once(sockets[0], 'disconnect').catch(() => {});
    await again;
  });

  test('the internal endpoint for nodes accepts only nodes', async () => {
    const [node] = cluster.nodes;
    const answer = await fetch(`${node.internalUrl}/internal/engine?EIO=4&transport=polling&sid=x`);
    assert.equal(answer.status, 403);
    const handshake = await fetch(`${node.internalUrl}/internal/engine?EIO=4&transport=polling`, { headers: { 'X-Internal-Request': 'true' } });
    assert.equal(handshake.status, 400);
    assert.equal((await request(node.port, 'GET', '/internal/engine?EIO=4&transport=polling&sid=x')).status, 404);
  });
});

describe('a node that tunnels WebSockets of another node', () => {
  test('ends them over the window of its drain, like its own', { timeout: 60_000 }, async () => {
    const window = 4_000;
    const cluster = await startCluster(2, { env: { DRAIN: `${window}ms` } });
    const front = await balancer(cluster.nodes);
    const [staying, going] = cluster.nodes;
    const clients = keeper({ url: front.url, token: staying.token });
    try {
      const sockets = await bounded(200, 10, (n) => clients.connect({ namespace: '/relay', transport: TRANSPORTS[2], claims: { ...EVERYTHING, sub: `u${n}` } }));
      const carried = (await going.metrics()).get('muster_tunnels');
      assert.ok(carried > 20, `${carried} of ${sockets.length}`);
      const ends = [];
      const start = performance.now();
      for (const socket of sockets.filter((each) => each.io.engine.id.startsWith(staying.node))) {
        socket.on('disconnect', (reason) => ends.push({ reason, after: performance.now() - start }));
      }
      assert.deepEqual(await going.stop(), { code: 0, signal: null });
      const took = performance.now() - start;
      assert.ok(took < window + 2_500, `it took ${took} ms`);
      await eventually(() => ends.length === carried, { what: 'every carried client to notice' });
      assert.deepEqual([...new Set(ends.map(({ reason }) => reason))], ['transport close']);
      for (let at = 0; at < took; at += 500) {
        const wave = ends.filter(({ after: time }) => time >= at && time < at + 500).length;
        assert.ok(wave < carried * 0.5, `${wave} of ${carried} were closed between ${at} and ${at + 500} ms`);
      }
    } finally {
      clients.closeAll();
      await front.close();
      await cluster.stop();
    }
  });
});
