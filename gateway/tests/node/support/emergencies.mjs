// Shared parts of the emergencies app's tests: the sites it runs on, its users, and locations far from each other.

import assert from 'node:assert/strict';

import { ask, connected, keeper, unique } from './clients.mjs';
import { HOLDBACK_MS, count, internal, startCluster } from './cluster.mjs';
import { startGateway } from './gateway.mjs';
import { startPostgres } from './postgres.mjs';
import { eventually, record } from './wait.mjs';

export const NAMESPACE = '/emergencies';
export const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;
export const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** Metres of a degree of latitude. */
export const DEGREE = 111_195;

/** Two `nodes`, which are the same one for a single node, and how to stop them. */
export const SITES = [
  {
    name: 'one node, embedded',
    async start() {
      const node = await startGateway({ env: { LEAVE_HOLDBACK: `${HOLDBACK_MS}ms` } });
      node.clients = keeper(node);
      return { nodes: [node, node], stop: async () => { node.clients.closeAll(); await node.kill(); } };
    },
  },
  {
    name: 'two nodes on PostgreSQL',
    async start() {
      const postgres = await startPostgres();
      const cluster = await startCluster(2, { env: { DATABASE_URL: postgres.url } });
      return { nodes: cluster.nodes, stop: async () => { await cluster.stop(); await postgres.kill(); } };
    },
  },
];

let places = 0;

/** A location at least a hundred kilometres away from all others that this returned. */
export function place() {
  places += 1;
  return { latitude: -60 + (places % 120), longitude: -170 + 2 * Math.floor(places / 120) };
}

/** A location `metres` to the north of another. */
export function north({ latitude, longitude }, metres) {
  return { latitude: latitude + metres / DEGREE, longitude };
}

/** Claims of a unique user: one who calls for help, one who helps, one who is in charge. */
export const citizen = (claims) => ({ sub: unique('citizen'), role: 'citizen', name: 'Ann Citizen', ...claims });
export const helper = (claims) => ({
  sub: unique('helper'),
  role: 'helper',
  verified: true,
  name: 'John Doe',
  firstName: 'John',
  lastName: 'Doe',
  trustScore: 85,
  helperRating: { average: 4.8, count: 50 },
  ...claims,
});
export const admin = (claims) => ({ sub: unique('admin'), role: 'admin', name: 'Ada Admin', ...claims });

/** The app on `nodes`, from its users' side. */
export function emergencies(nodes) {
  const token = (claims) => nodes[0].token(claims);

  /**
   * Sends a request to the app's REST API on node `at`: `{status, headers, text, body}`; without claims it is
   * anonymous.
   */
  const api = async (at, method, path, claims, body) => {
    const response = await fetch(`${nodes[at].url}/api/v1/emergencies${path}`, {
      method,
      headers: { ...(claims ? { Authorization: `Bearer ${token(claims)}` } : {}), ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    return { status: response.status, headers: Object.fromEntries(response.headers), text, body: JSON.parse(text) };
  };

  /** The `data` of a request that must succeed with `status`. */
  const good = async (status, ...request) => {
    const answer = await api(...request);
    assert.equal(answer.status, status, answer.text);
    assert.equal(answer.body.success, true, answer.text);
    assert.match(answer.body.timestamp, ISO);
    return answer.body.data;
  };

  /** The `error` of a request that must be refused with `status`. */
  const bad = async (status, ...request) => {
    const answer = await api(...request);
    assert.equal(answer.status, status, `${JSON.stringify(request.slice(1))}: ${answer.text}`);
    assert.deepEqual(Object.keys(answer.body).sort(), ['error', 'success'], answer.text);
    assert.equal(answer.body.success, false);
    assert.equal(typeof answer.body.error, 'string');
    return answer.body.error;
  };

  /**
   * A user with a connected socket on node `at`, in its rooms, and all events that it received: `{claims, socket,
   * events}`. `watch` gets the socket before it connects.
   */
  const online = async (at, claims, { watch = () => {}, ...options } = {}) => {
    const own = token(claims);
    const socket = nodes[at].clients.socket({ namespace: NAMESPACE, token: own, ...options });
    const events = record(socket);
    watch(socket);
    await connected(socket, options);
    // A node handles a client's events after it has placed the socket in its rooms.
    assert.equal((await ask(socket, 'auth:refresh', { token: own })).success, true);
    return { claims, socket, events };
  };

  /** An emergency that `owner` raises on node `at`, as its owner receives it. */
  const raise = (at, owner, body) => good(201, at, 'POST', '', owner, { type: 'medical', location: place(), ...body });

  const respond = (at, id, claims) => good(200, at, 'POST', `/${id}/respond`, claims);
  const setStatus = (at, id, claims, body) => good(200, at, 'PUT', `/${id}/helper-status`, claims, body);
  const resolve = (at, id, claims, body = {}) => good(200, at, 'POST', `/${id}/resolve`, claims, body);
  const cancel = (at, id, claims) => good(200, at, 'POST', `/${id}/cancel`, claims);

  /** Waits until `sockets` sockets are in an emergency's room. */
  const gathered = (id, sockets) => eventually(async () => (await count(nodes[1], `emergency:${id}`, NAMESPACE)).count === sockets, { what: `${sockets} sockets in the room` });

  /**
   * Resolves when `people` have received everything sent to them through node `at` before; anything missing was not
   * sent.
   */
  const quiet = async (at, ...people) => {
    const event = unique('barrier');
    const told = people.map(({ events }) => events.take(event));
    for (const user of new Set(people.map(({ claims }) => claims.sub))) {
      const { status } = await internal(nodes[at], 'POST', '/internal/emit', { namespace: NAMESPACE, to: { user }, event, data: {} });
      assert.equal(status, 200);
    }
    await Promise.all(told);
  };

  return { token, api, good, bad, online, raise, respond, setStatus, resolve, cancel, gathered, quiet };
}

/** Matches the events of an emergency, in whichever field they name it. */
export const about = (id) => (event) => (event.emergencyId ?? event.emergency?.id) === id;

/** Asserts that an ack is a refusal in the contract's format. */
export function refusal(answer, error) {
  assert.deepEqual(Object.keys(answer).sort(), ['error', 'success'], JSON.stringify(answer));
  assert.equal(answer.success, false);
  if (error === undefined) assert.equal(typeof answer.error, 'string');
  else assert.equal(answer.error, error);
}
