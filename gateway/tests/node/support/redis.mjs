// A private Redis server on a free port, for tests that need one or make it unavailable.

import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { temporaryDirectory } from './gateway.mjs';
import { load } from './packages.mjs';
import { freePort } from './ports.mjs';
import { eventually, within } from './wait.mjs';

const INSTALL = 'Redis is not installed: run `apt-get install redis-server`';

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Starts a server: `{url, port, connect(), kill(), restart(), freeze(), thaw()}`. `kill` ends it at once, and its data
 * are lost unless it was started with `appendonly`. `config` is its configuration file; `isReady` matches the log line
 * of a server that is ready.
 */
export async function startRedis({ args = [], port, config, ready: isReady = /Ready to accept connections/ } = {}) {
  const chosen = port ?? (await freePort());
  const directory = temporaryDirectory();
  const server = { port: chosen, url: `redis://127.0.0.1:${chosen}` };
  const clients = new Set();
  let child;
  let exited;

  server.restart = async () => {
    const settings = config
      ? [config, '--port', String(chosen), '--bind', '127.0.0.1', ...args]
      : ['--port', String(chosen), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', directory, '--loglevel', 'notice', ...args];
    child = spawn('redis-server', settings, { stdio: ['ignore', 'pipe', 'pipe'] });
    const started = child;
    running.add(started);
    let log = '';
    const ready = new Promise((resolve, reject) => {
      started.on('error', (error) => reject(error.code === 'ENOENT' ? new Error(INSTALL) : error));
      const read = (text) => {
        log += text;
        if (isReady.test(log)) resolve();
      };
      started.stdout.setEncoding('utf8').on('data', read);
      started.stderr.setEncoding('utf8').on('data', read);
      exited = onceEvent(started, 'close').then(() => {
        running.delete(started);
        reject(new Error(`Redis ended: ${log}`));
      });
    });
    ready.catch(() => {});
    exited.catch(() => {});
    await within(ready, 10_000, 'Redis to be ready');
  };
  server.freeze = () => child.kill('SIGSTOP');
  server.thaw = () => child.kill('SIGCONT');
  server.kill = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGCONT');
    child.kill('SIGKILL');
    await within(exited, 10_000, 'the end of Redis');
  };
  /** A client of the npm package `redis`, closed with the server. */
  server.connect = async () => {
    const client = load('redis').createClient({ url: server.url });
    client.on('error', () => {});
    await client.connect();
    clients.add(client);
    return client;
  };
  /** Stops the server and all of its clients. */
  server.stop = async () => {
    for (const client of clients) await within(client.quit(), 2_000, 'a client to quit').catch(() => client.disconnect().catch(() => {}));
    clients.clear();
    await server.kill();
  };
  await server.restart();
  return server;
}

/**
 * Starts a primary, a replica and three Sentinels that watch them: `{url, primary, replica, master(), stop()}`.
 * `master` returns the port of the server that the Sentinels name.
 */
export async function startSentinels({ downAfter = 1_000, failover = 4_000 } = {}) {
  const name = 'main';
  const servers = [];
  const stop = async () => { for (const server of servers.splice(0).reverse()) await server.stop(); };
  try {
    const primary = await startRedis();
    servers.push(primary);
    const replica = await startRedis({ args: ['--replicaof', '127.0.0.1', String(primary.port), '--repl-diskless-sync-delay', '0'] });
    servers.push(replica);
    const look = await replica.connect();
    await eventually(async () => /master_link_status:up/.test(await look.info('replication')), { timeout: 20_000, what: 'the replica to be in step' });
    const sentinels = [];
    for (let at = 0; at < 3; at += 1) sentinels.push(await startSentinel({ name, port: primary.port, downAfter, failover }));
    servers.push(...sentinels);
    const ask = await sentinels[0].connect();
    const others = async () => {
      const fields = await ask.sendCommand(['SENTINEL', 'MASTER', name]);
      const field = (what) => Number(fields[fields.indexOf(what) + 1]);
      return field('num-other-sentinels') === 2 && field('num-slaves') === 1;
    };
    await eventually(others, { timeout: 20_000, what: 'the Sentinels to know each other' });
    return {
      primary,
      replica,
      sentinels,
      url: `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}/${name}`,
      master: async () => Number((await ask.sendCommand(['SENTINEL', 'GET-MASTER-ADDR-BY-NAME', name]))[1]),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function startSentinel({ name, port, downAfter, failover }) {
  const config = join(temporaryDirectory(), 'sentinel.conf');
  writeFileSync(config, [
    `sentinel monitor ${name} 127.0.0.1 ${port} 2`,
    `sentinel down-after-milliseconds ${name} ${downAfter}`,
    `sentinel failover-timeout ${name} ${failover}`,
    '',
  ].join('\n'));
  return startRedis({ config, args: ['--sentinel'], ready: /\+monitor master/ });
}

/**
 * Starts a Redis Cluster of three primaries with a replica each: `{url, servers, stop()}`; the first three servers are
 * primaries, and each of the others replicates one of them.
 */
export async function startRedisCluster({ nodeTimeout = 2_000 } = {}) {
  const servers = [];
  const stop = async () => { for (const server of servers.splice(0)) await server.stop(); };
  try {
    const args = ['--cluster-enabled', 'yes', '--cluster-node-timeout', String(nodeTimeout), '--repl-diskless-sync-delay', '0'];
    for (let at = 0; at < 6; at += 1) servers.push(await startRedis({ args: [...args, '--cluster-port', String(await freePort())] }));
    const clients = await Promise.all(servers.map((server) => server.connect()));
    const portOfBus = async (client) => (await client.sendCommand(['CONFIG', 'GET', 'cluster-port']))[1];
    for (const [at, from] of [0, 5_461, 10_923, 16_384].entries()) {
      if (at < 3) await clients[at].sendCommand(['CLUSTER', 'ADDSLOTSRANGE', String(from), String([5_460, 10_922, 16_383][at])]);
    }
    for (const [at, client] of clients.entries()) {
      // Distinct epochs, so that the servers agree on the slots' owners at once.
      await client.sendCommand(['CLUSTER', 'SET-CONFIG-EPOCH', String(at + 1)]);
    }
    for (let at = 1; at < 6; at += 1) {
      await clients[0].sendCommand(['CLUSTER', 'MEET', '127.0.0.1', String(servers[at].port), await portOfBus(clients[at])]);
    }
    const knows = (count) => async () => (await Promise.all(clients.map((client) => client.sendCommand(['CLUSTER', 'INFO']))))
      .every((info) => info.includes(`cluster_known_nodes:${count}`) && info.includes('cluster_state:ok'));
    await eventually(knows(6), { timeout: 30_000, what: 'the servers to know each other' });
    for (let at = 0; at < 3; at += 1) {
      const primary = await clients[at].sendCommand(['CLUSTER', 'MYID']);
      await clients[at + 3].sendCommand(['CLUSTER', 'REPLICATE', primary]);
    }
    const inStep = async () => (await Promise.all(clients.slice(3).map((client) => client.info('replication'))))
      .every((info) => /master_link_status:up/.test(info));
    await eventually(inStep, { timeout: 30_000, what: 'the replicas to be in step' });
    return { servers, url: `redis+cluster://${servers.map(({ port }) => `127.0.0.1:${port}`).join(',')}`, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
