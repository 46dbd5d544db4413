// Where pairs run: on one node, on one node of two, across two nodes, and on Node.js servers as the control. Each place
// has a neighbour: a room with steady traffic, and a backend that emits to it.

import { EVERYTHING, ask, keeper, unique } from './clients.mjs';
import { internal, startCluster } from './cluster.mjs';
import { startGateway } from './gateway.mjs';
import { startNodeServer, subscribed } from './node_server.mjs';
import { answersOn, emitterSender } from './order.mjs';
import { load } from './packages.mjs';
import { startPostgres } from './postgres.mjs';
import { startRedis } from './redis.mjs';

const { Emitter } = load('@socket.io/redis-emitter');

/** Users in a run do more than real users. */
const LIMITS = { EVENTS_PER_SECOND: '0', CALLS_PER_MINUTE: '0' };

/** The interval, in milliseconds, at which the neighbour publishes on each node. */
const BEAT = 5;

/** A room on these nodes in which clients publish and a backend emits until `stop()`. */
async function startNeighbour(nodes) {
  const room = unique('neighbour');
  const sockets = await Promise.all(nodes.flatMap((node) => [0, 1].map(async () => {
    const socket = await node.clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: unique('neighbour') } });
    await ask(socket, 'join', { room });
    return socket;
  })));
  let beat = 0;
  const timer = setInterval(() => {
    beat += 1;
    sockets[beat % sockets.length].emit('publish', { room, event: 'beat', data: beat });
    const node = nodes[beat % nodes.length];
    // If it fails, a pair detects that and fails, too.
    if (node.internalUrl && beat % 4 === 0) internal(node, 'POST', '/internal/emit', { namespace: '/relay', to: { room }, event: 'beat', data: beat }).catch(() => {});
  }, BEAT / nodes.length);
  return () => {
    clearInterval(timer);
    for (const socket of sockets) socket.disconnect();
  };
}

/**
 * The backends on a Redis: the npm emitter, a Node.js server, and a connection that reads the answers to its requests.
 */
async function startBackends(redis, nodes, token) {
  const client = await redis.connect();
  const server = await startNodeServer(redis, { token });
  const requests = emitterSender(await redis.connect(), await answersOn(await redis.connect()));
  await subscribed(client, nodes.length + 1);
  return { emitter: new Emitter(client), server: server.io, requests, servers: nodes.length + 1, stop: server.stop };
}

async function startAlone(env) {
  const node = await startGateway({ env });
  node.clients = keeper(node);
  const stopNeighbour = await startNeighbour([node]);
  return {
    places: [{ name: 'one node', nodes: [node, node] }],
    async stop() {
      stopNeighbour();
      node.clients.closeAll();
      await node.kill();
    },
  };
}

/** A single node on a Redis, for commands of backends through Redis. */
async function startOneOnRedis(env) {
  const cluster = await startCluster(1, { env });
  const [node] = cluster.nodes;
  const backends = await startBackends(cluster.redis, cluster.nodes, node.token);
  const stopNeighbour = await startNeighbour(cluster.nodes);
  return {
    places: [{ name: 'one node', nodes: [node, node], backends }],
    async stop() {
      stopNeighbour();
      await backends.stop();
      await cluster.stop();
    },
  };
}

async function startTwo(env, hasBackends) {
  const postgres = await startPostgres();
  const cluster = await startCluster(2, { env: { ...env, DATABASE_URL: postgres.url } });
  const [one, two] = cluster.nodes;
  const backends = hasBackends ? await startBackends(cluster.redis, cluster.nodes, one.token) : undefined;
  const stopNeighbour = await startNeighbour(cluster.nodes);
  return {
    places: [{ name: 'same node of two', nodes: [one, one], backends }, { name: 'two nodes', nodes: [one, two], backends }],
    async stop() {
      stopNeighbour();
      await backends?.stop();
      await cluster.stop();
      await postgres.kill();
    },
  };
}

async function startControl() {
  const redis = await startRedis();
  const nodes = await Promise.all([startNodeServer(redis), startNodeServer(redis)]);
  const backends = await startBackends(redis, nodes);
  const stopNeighbour = await startNeighbour(nodes);
  return {
    places: [{ name: 'Node.js', nodes, backends, isControl: true }],
    async stop() {
      stopNeighbour();
      await backends.stop();
      for (const node of nodes) await node.stop();
      await redis.stop();
    },
  };
}

/**
 * Starts everything: `{places, stop()}`. A place is `{name, nodes, backends?}` with two `nodes`, which may be the same
 * one. With `hasBackends` each is on a Redis and has `backends`: `{emitter, server, requests, servers}`.
 */
export async function startPlaces({ env = {}, hasBackends = false, withControl = false } = {}) {
  const settings = { ...LIMITS, ...env };
  const starting = [hasBackends ? startOneOnRedis(settings) : startAlone(settings), startTwo(settings, hasBackends)];
  if (withControl) starting.push(startControl());
  const started = await Promise.allSettled(starting);
  const sites = started.filter(({ status }) => status === 'fulfilled').map(({ value }) => value);
  const stop = async () => { await Promise.all(sites.map((site) => site.stop())); };
  const failed = started.find(({ status }) => status === 'rejected');
  if (failed) {
    await stop();
    throw failed.reason;
  }
  return { places: sites.flatMap(({ places }) => places), stop };
}
