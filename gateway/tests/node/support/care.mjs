// Shared parts of the care app's tests: the sites they run on, users with their devices, and how to know that no
// further event is coming.

import assert from 'node:assert/strict';

import { ask, connected, keeper, unique } from './clients.mjs';
import { internal, startCluster } from './cluster.mjs';
import { startGateway } from './gateway.mjs';
import { startPostgres } from './postgres.mjs';
import { eventually, record } from './wait.mjs';

export const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;
export const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** Every event that ends a call. */
export const TERMINAL = ['call:rejected', 'call:ended', 'call:missed'];

/** A single node, listed twice, because tests use a first and a second node. */
const EMBEDDED = {
  name: 'one node, embedded',
  async start(env = {}) {
    const node = await startGateway({ env });
    node.clients = keeper(node);
    return { nodes: [node, node], stop: async () => { node.clients.closeAll(); await node.kill(); } };
  },
};

const ON_REDIS = { name: 'two nodes on Redis', start: (env = {}) => startCluster(2, { env }) };

const ON_POSTGRES = {
  name: 'two nodes on PostgreSQL',
  async start(env = {}) {
    const postgres = await startPostgres();
    const cluster = await startCluster(2, { env: { ...env, DATABASE_URL: postgres.url } });
    return { nodes: cluster.nodes, stop: async () => { await cluster.stop(); await postgres.kill(); } };
  },
};

/** Where the tests run: `start(env)` returns `{nodes, stop()}`, and each node has `clients`. */
export const SITES = [EMBEDDED, ON_REDIS, ON_POSTGRES];

/**
 * A connected device of a user on `node`, after the welcome event: `{user, socket, events, node, ask(event, …)}`.
 * Without `user`, a new user whose name begins with `name`.
 */
export async function device(node, { name = 'user', user = unique(name), ...claims } = {}) {
  const socket = node.clients.socket({ claims: { sub: user, name: `Name of ${user}`, ...claims } });
  const events = record(socket);
  await connected(socket);
  assert.deepEqual(await events.take('connected'), { socketId: socket.id, userId: user });
  return { user, socket, events, node, ask: (event, ...args) => ask(socket, event, ...args) };
}

/** Emits with an ack, and asserts success. */
export async function must(from, event, ...args) {
  const answer = await from.ask(event, ...args);
  assert.equal(answer.success, true, `${event} ${JSON.stringify(args)}: ${JSON.stringify(answer)}`);
  return answer;
}

/** Emits with an ack, asserts a refusal with a public sentence, and returns the sentence. */
export async function refusal(from, event, ...args) {
  const answer = await from.ask(event, ...args);
  assert.equal(answer.success, false, `${event} ${JSON.stringify(args)}: ${JSON.stringify(answer)}`);
  publicText(answer.error);
  return answer.error;
}

/** Asserts that a client may read an error's text: a sentence without internals. */
export function publicText(text) {
  assert.equal(typeof text, 'string');
  assert.doesNotMatch(text, /sql|postgres|redis|panick|serde|tokio|\/src\/|\/tmp\/|line \d+ column|127\.0\.0\.1/i);
}

/**
 * Waits until everything that the nodes have sent to these devices has arrived: a later event of each node arrives
 * after it.
 */
export async function quiet(nodes, ...devices) {
  const users = new Set(devices.map(({ user }) => user));
  for (const node of new Set(nodes)) {
    const mark = unique('mark');
    for (const user of users) {
      const { status } = await internal(node, 'POST', '/internal/emit', { to: { user }, event: 'mark', data: mark });
      assert.equal(status, 200);
    }
    await Promise.all(devices.map(({ events }) => events.take('mark', (seen) => seen === mark)));
  }
}

/** The presence of `user` as `asker` receives it. */
export async function presence(asker, user) {
  const { presences } = await must(asker, 'presence:get', { userIds: [user] });
  assert.equal(presences.length, 1);
  assert.equal(presences[0].userId, user);
  return presences[0];
}

/** Waits until `asker` receives that `user` has `status`; nodes learn of each other's users asynchronously. */
export function hasStatus(asker, user, status, { timeout } = {}) {
  return eventually(async () => (await presence(asker, user)).status === status, { timeout, what: `${user} to be ${status}` });
}
