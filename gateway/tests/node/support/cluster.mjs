// Several gateways on one Redis and one database, for the cluster tests.

import { randomBytes } from 'node:crypto';

import { keeper } from './clients.mjs';
import { startGateway, temporaryDirectory } from './gateway.mjs';
import { startRedis } from './redis.mjs';
import { request } from './raw.mjs';
import { eventually } from './wait.mjs';

/** The lease in these tests: short, but long enough for a loaded machine. */
export const LEASE_MS = 2_000;

/** The hold-back in these tests. */
export const HOLDBACK_MS = 1_000;

/**
 * Starts `size` gateways on one Redis (a private one unless given) and one database: `{nodes, redis, secret, clients,
 * start(), stop()}`. They are ready when it resolves.
 */
export async function startCluster(size, { env = {}, redis, redisUrl } = {}) {
  const own = redis ?? (await startRedis());
  const secret = randomBytes(32).toString('hex');
  const database = `sqlite:${temporaryDirectory()}/cluster.db`;
  const cluster = { redis: own, secret, nodes: [], databaseUrl: env.DATABASE_URL ?? database };
  const settings = (extra) => ({
    JWT_SECRET: secret,
    DATABASE_URL: database,
    REDIS_URL: redisUrl ?? own.url,
    LEASE: `${LEASE_MS}ms`,
    LEAVE_HOLDBACK: `${HOLDBACK_MS}ms`,
    ...env,
    ...extra,
  });
  /** Starts one more node. */
  cluster.start = async (extra = {}) => {
    const node = await startGateway({ env: settings(extra) });
    node.clients = keeper(node);
    cluster.nodes.push(node);
    await ready(node);
    return node;
  };
  cluster.stop = async () => {
    for (const node of cluster.nodes) {
      node.clients.closeAll();
      await node.kill();
    }
    if (!redis) await own.stop();
  };
  try {
    // One after the other, because the first creates the tables.
    for (let at = 0; at < size; at += 1) await cluster.start();
  } catch (error) {
    await cluster.stop();
    throw error;
  }
  return cluster;
}

/** Waits until a node reports that it is ready. */
export function ready(node, { timeout = 15_000 } = {}) {
  return eventually(async () => (await request(node.port, 'GET', '/ready')).status === 200, { timeout, what: 'the node to be ready' });
}

/** A JSON request to the internal listener: `{status, body}`. */
export async function internal(node, method, path, body, headers = {}) {
  const response = await fetch(`${node.internalUrl}${path}`, {
    method,
    headers: { 'X-Internal-Request': 'true', ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return { status: response.status, body: await response.json() };
}

/** `/count` of a room: the complete `data`. */
export async function count(node, room, namespace = '/') {
  const { body } = await internal(node, 'GET', `/internal/rooms/${encodeURIComponent(room)}/count?namespace=${namespace}`);
  return body.data ?? body;
}
