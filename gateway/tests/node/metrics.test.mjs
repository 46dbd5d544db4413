// Metrics that no other test file changes: each test causes what a metric counts, and checks that it changes.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING, TRANSPORTS, ask, keeper, unique } from './support/clients.mjs';
import { internal, startCluster } from './support/cluster.mjs';
import { startGateway, sumMetric } from './support/gateway.mjs';
import { freePort } from './support/ports.mjs';
import { startPostgres } from './support/postgres.mjs';
import { eventually, once } from './support/wait.mjs';

/** Metrics that grow with any use of a node. */
const USED = [
  'muster_sessions_opened_total', 'muster_packets_received_total', 'muster_packets_sent_total', 'muster_bytes_received_total', 'muster_bytes_sent_total',
  'muster_joins_total', 'muster_broadcasts_total', 'muster_deliveries_total', 'muster_batches_total', 'muster_writes_total',
  'muster_delivery_lag_seconds_count', 'muster_fanout_size_count', 'muster_records_seconds_count', 'muster_redis_published_total', 'muster_redis_heard_total',
];

/** The current value of the counter `name` on `node`, and a way to wait until it has grown. */
async function watch(node, name, ...labels) {
  const now = async () => sumMetric(await node.metrics(), name, ...labels);
  const before = await now();
  return { before, grows: (by = 1) => eventually(async () => (await now()) >= before + by, { timeout: 20_000, what: `${name} to grow from ${before}` }) };
}

/** Waits until a gauge has a value. */
const shows = (node, name, condition) => eventually(async () => condition((await node.metrics()).get(name)), { timeout: 20_000, what: `${name} to be ${condition}` });

describe('on a node of a cluster', () => {
  let cluster;
  let node;
  let postgres;
  let redis;
  before(async () => {
    postgres = await startPostgres();
    cluster = await startCluster(1, { env: { DATABASE_URL: postgres.url, DRAIN: '6s' } });
    [node] = cluster.nodes;
    redis = await cluster.redis.connect();
  });
  after(async () => {
    await cluster?.stop();
    await postgres?.kill();
  });

  test('all use is counted', async () => {
    const counters = await Promise.all(USED.map((name) => watch(node, name)));
    const events = await watch(node, 'muster_events_total', 'app="relay"', 'outcome="ok"');
    const room = unique('room');
    const socket = await node.clients.connect({ namespace: '/relay', claims: EVERYTHING });
    await ask(socket, 'join', { room });
    const heard = once(socket, 'hello');
    await ask(socket, 'publish', { room, event: 'hello', data: 1 });
    await heard;
    const member = await node.clients.connect({ transport: TRANSPORTS[1] });
    await ask(member, 'join_room', room);
    await ask(member, 'send_message', { roomId: room, content: 'hello' });
    await Promise.all([...counters, events].map(({ grows }) => grows()));
    await shows(node, 'muster_redis_channels', (value) => value > 0);
    for (const transport of ['websocket', 'polling']) await shows(node, `muster_connections{transport="${transport}"}`, (value) => value > 0);
  });

  test('sockets that are notified that they may have missed events', async () => {
    const socket = await node.clients.connect({ namespace: '/relay', claims: EVERYTHING });
    const [resyncs, reconnects] = [await watch(node, 'muster_resyncs_total'), await watch(node, 'muster_redis_reconnects_total')];
    const told = once(socket, 'muster:resync', { timeout: 20_000 });
    await redis.sendCommand(['CLIENT', 'KILL', 'TYPE', 'pubsub']);
    assert.equal((await told)[0].room, null);
    await Promise.all([resyncs.grows(), reconnects.grows()]);
  });

  test('a room that is notified that it may have missed events', async () => {
    const room = unique('room');
    const socket = await node.clients.connect({ namespace: '/relay', claims: EVERYTHING });
    await ask(socket, 'join', { room });
    const heard = once(socket, 'tracked');
    assert.equal((await internal(node, 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'tracked', data: 1 })).status, 200);
    await heard;
    const resyncs = await watch(node, 'muster_resyncs_total');
    const told = once(socket, 'muster:resync', { timeout: 20_000, filter: (body) => body.room === room });
    await redis.sendCommand(['FLUSHALL']);
    await redis.sendCommand(['CLIENT', 'KILL', 'TYPE', 'pubsub']);
    await told;
    // Once for all sockets of the namespace, and once for this room.
    await resyncs.grows(2);
  });

  test('invalid input', async () => {
    const malformed = await watch(node, 'muster_redis_malformed_total');
    const channel = (await redis.sendCommand(['PUBSUB', 'CHANNELS', 'socket.io-request*']))[0];
    await redis.publish(channel, 'rubbish');
    await malformed.grows();
  });

  test('a frozen Redis: errors, the canary, the lease', { timeout: 60_000 }, async () => {
    const socket = await node.clients.connect({ namespace: '/relay', claims: EVERYTHING });
    const [errors, leases] = [await watch(node, 'muster_redis_errors_total'), await watch(node, 'muster_lease_losses_total')];
    await shows(node, 'muster_redis_up', (value) => value === 1);
    cluster.redis.freeze();
    try {
      await shows(node, 'muster_canary_lag_seconds', (value) => value > 1);
      const answer = await ask(socket, 'publish', { room: 'any', event: 'hello', data: 1 });
      assert.equal(answer.success, false);
      await errors.grows();
      await shows(node, 'muster_redis_up', (value) => value === 0);
      // Longer than the lease.
      await shows(node, 'muster_canary_lag_seconds', (value) => value > 4);
    } finally {
      cluster.redis.thaw();
    }
    await leases.grows();
    await shows(node, 'muster_redis_up', (value) => value === 1);
    await shows(node, 'muster_canary_lag_seconds', (value) => value < 1);
  });

  test('a database that fails', { timeout: 60_000 }, async () => {
    const [errors, failed] = [await watch(node, 'muster_records_errors_total'), await watch(node, 'muster_events_total', 'outcome="failed"')];
    const member = await node.clients.connect();
    const room = unique('room');
    await ask(member, 'join_room', room);
    await postgres.kill();
    try {
      await ask(member, 'send_message', { roomId: room, content: 'lost' });
      await Promise.all([errors.grows(), failed.grows()]);
    } finally {
      await postgres.restart();
    }
  });

  test('a drain', { timeout: 60_000 }, async () => {
    for (let at = 0; at < 8; at += 1) await node.clients.connect({ namespace: '/relay' });
    node.signal('SIGTERM');
    await shows(node, 'muster_drain_remaining', (value) => value > 0);
    await node.exited;
  });
});

test('if the database is not available at the start, requests that need it fail and are counted', async () => {
  const node = await startGateway({ env: { DATABASE_URL: `postgres://postgres@127.0.0.1:${await freePort()}/postgres` } });
  const clients = keeper(node);
  try {
    await (await watch(node, 'muster_records_errors_total')).grows(2);
  } finally {
    clients.closeAll();
    await node.kill();
  }
});
