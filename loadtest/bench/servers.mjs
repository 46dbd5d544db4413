// The servers: their names, and the command that starts a node of each.
//
// `name` is what scenarios say, `family` what --servers says. A server of two nodes has a Redis beside it. `node` gets
// the ports and the run, and returns a command line and an environment.

import { join } from 'node:path';

import { ROOT } from './options.mjs';

const gateway = ({ port, internalPort, redisPort, work, options, secret }) => ({
  command: [options.gateway],
  env: {
    JWT_SECRET: secret,
    // It stores nothing, so each node of a pair may have its own file.
    MOUNTS: 'relay=/relay',
    LISTEN: `127.0.0.1:${port}`,
    INTERNAL_LISTEN: `127.0.0.1:${internalPort}`,
    DATABASE_URL: `sqlite:${join(work, `gateway-${port}.db`)}`,
    // All connections here share one user.
    SOCKETS_PER_USER: '0',
    EVENTS_PER_SECOND: '0',
    DRAIN: '1s',
    LOG: 'warn',
    ...(redisPort && { REDIS_URL: `redis://127.0.0.1:${redisPort}` }),
    ...options.gatewayEnv,
  },
});

const floor = ({ port, options, scenario }) => ({
  command: [options.loadtest, 'floor', '--listen', `127.0.0.1:${port}`, ...(scenario.coalesce ? [`--coalesce=${options.coalesce}`] : [])],
});

const node = (engine) => ({ port, redisPort }) => ({
  command: [
    process.execPath, join(ROOT, 'loadtest/peers/node/server.mjs'), '--port', String(port), '--engine', engine,
    ...(redisPort ? ['--redis', String(redisPort)] : []),
  ],
  env: { NODE_ENV: 'production' },
});

const socketioxide = (allocator) => ({ port, redisPort, options }) => ({
  command: [
    join(options.peers, allocator, 'release/peer-socketioxide'), '--port', String(port),
    ...(redisPort ? ['--redis', String(redisPort)] : []),
  ],
});

const SINGLE = [
  { name: 'floor', title: 'floor', node: floor },
  { name: 'gateway', title: 'gateway', node: gateway },
  { name: 'socketioxide-mimalloc', title: 'socketioxide, mimalloc', node: socketioxide('mimalloc') },
  { name: 'socketioxide', title: 'socketioxide', node: socketioxide('glibc') },
  { name: 'node-uws', title: 'Node.js, uWebSockets.js', node: node('uws') },
  { name: 'node-ws', title: 'Node.js, ws', node: node('ws') },
].map((server) => ({ ...server, family: server.name, nodes: 1 }));

const PAIRS = SINGLE.filter(({ name }) => ['gateway', 'socketioxide-mimalloc', 'node-ws'].includes(name))
  .map((server) => ({ ...server, name: `${server.name}-pair`, title: `${server.title}: two nodes`, nodes: 2 }));

/** Enough nodes to show costs that grow with their number. */
const TWENTY = { ...SINGLE.find(({ name }) => name === 'gateway'), name: 'gateway-twenty', title: 'gateway: twenty nodes', nodes: 20 };

/** Not a server: the rate that Redis accepts from a client that does nothing else. */
const REDIS = { name: 'redis-benchmark', title: 'redis-benchmark, PUBLISH without subscribers', family: 'redis-benchmark', nodes: 0 };

export const SERVERS = new Map([...SINGLE, ...PAIRS, TWENTY, REDIS].map((server) => [server.name, server]));
export const FAMILIES = [...new Set([...SERVERS.values()].map(({ family }) => family))];
/** Families whose faults fail the run; faults of other servers are findings. */
export const OURS = ['gateway', 'floor'];
