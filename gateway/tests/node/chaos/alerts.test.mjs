// Every alert of the chart fires in a real Prometheus when what it warns of happens to a real node, and none fires for nodes
// that are well. The rules are the shipped ones, with every duration divided by 60, so that minutes become seconds.
//
// `MusterHandlerPanicked` is missing: it warns of a bug, and no known input panics. `charts/tests/rules_test.yaml` tests its rule.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { EVERYTHING, ask, bounded, keeper, unique } from '../support/clients.mjs';
import { internal, startCluster } from '../support/cluster.mjs';
import { citizen, emergencies } from '../support/emergencies.mjs';
import { startGateway, temporaryDirectory } from '../support/gateway.mjs';
import { sql } from '../support/incidents.mjs';
import { freePort } from '../support/ports.mjs';
import { startPostgres } from '../support/postgres.mjs';
import { startPrometheus } from '../support/prometheus.mjs';
import { startProxy } from '../support/proxy.mjs';
import { pollingSession, rawEngine, rawHttp, rawSocketIo, requestText } from '../support/raw.mjs';
import { startRedis } from '../support/redis.mjs';
import { delay, eventually } from '../support/wait.mjs';

const SHIPPED = fileURLToPath(new URL('../../../../charts/muster/files/rules.yaml', import.meta.url));
const FASTER = 60;
/** Members of each of the rooms of a node that gets too little of the processor. */
const MEMBERS = 50;
const WITHOUT_CAUSE = ['MusterHandlerPanicked'];
const SECONDS = { s: 1, m: 60, h: 3_600 };

/** The shipped rules, with their durations divided. */
function fasterRules() {
  const shorter = (_, before, number, unit, after) => `${before}${Math.max(Math.round(Number(number) * SECONDS[unit] / FASTER), 1)}s${after}`;
  const text = readFileSync(SHIPPED, 'utf8')
    .replaceAll(/(\[)(\d+)([smh])(\])/g, shorter)
    .replaceAll(/(\bfor: )(\d+)([smh])($)/gm, shorter);
  const file = join(temporaryDirectory(), 'rules.yaml');
  writeFileSync(file, text);
  return file;
}

const names = () => [...readFileSync(SHIPPED, 'utf8').matchAll(/- alert: (\w+)/g)].map(([, name]) => name);
const target = (node) => `127.0.0.1:${node.internalPort}`;

/** A node alone with its clients. */
async function alone(env = {}) {
  const node = await startGateway({ env: { EVENTS_PER_SECOND: '0', SOCKETS_PER_USER: '0', ...env } });
  node.clients = keeper(node);
  return { nodes: [node], node, stop: async () => { node.clients.closeAll(); await node.kill(); } };
}

async function inCluster(size, options) {
  const cluster = await startCluster(size, options);
  return { cluster, nodes: cluster.nodes, node: cluster.nodes[0], redis: cluster.redis, stop: () => cluster.stop() };
}

/** A node alone that keeps its records in a PostgreSQL server of its own. */
async function onPostgres() {
  const postgres = await startPostgres();
  const site = await alone({ DATABASE_URL: postgres.url });
  return { ...site, postgres, stop: async () => { await site.stop(); await postgres.kill(); } };
}

const newUser = () => ({ ...EVERYTHING, sub: unique('user') });

/** What an alert warns of: how the nodes are started, and what happens to them again and again until the alert fires. */
const CASES = [
  {
    alerts: ['MusterNodeDown'],
    start: alone,
    async happen({ node }) { await node.kill(); await delay(500); },
  },
  {
    alerts: ['MusterNodeRestarting'],
    start: alone,
    async happen(site) {
      await site.node.kill();
      site.node = await site.node.restart();
      site.stop = () => site.node.kill();
      await delay(2_000);
    },
  },
  {
    // All nodes here are one binary, so Prometheus gives the second one another version.
    alerts: ['MusterVersionsMixed'],
    start: () => inCluster(2),
    relabel: ({ nodes }) => [{ source_labels: ['__name__', 'instance'], regex: `muster_build_info;${target(nodes[1])}`, target_label: 'version', replacement: 'another' }],
    happen: () => delay(500),
  },
  {
    alerts: ['MusterDrainStuck'],
    start: () => alone({ DRAIN: '60s' }),
    async happen(site) {
      if (!site.signalled) {
        for (let at = 0; at < 20; at += 1) await site.node.clients.connect({ namespace: '/relay', claims: newUser() });
        site.node.signal('SIGTERM');
        site.signalled = true;
      }
      await delay(500);
    },
  },
  {
    alerts: ['MusterMemoryPerConnectionHigh'],
    start: () => alone({ PING_INTERVAL: '5m', OUTBOX_BYTES: '10000000' }),
    async happen(site) {
      if (!site.filled) {
        // Polling clients that never poll again, with much waiting for each.
        const users = Array.from({ length: 1_010 }, newUser);
        await bounded(users.length, 50, async (at) => {
          const session = await pollingSession(site.node.port);
          await session.post(`40/relay,${JSON.stringify({ token: site.node.token(users[at]) })}`);
          await session.get();
        });
        for (let round = 0; round < 4; round += 1) {
          await bounded(users.length, 20, async (at) => {
            const { status } = await internal(site.node, 'POST', '/internal/emit', { namespace: '/relay', to: { user: users[at].sub }, event: 'much', data: `${at} ${'x'.repeat(80_000)}` });
            assert.equal(status, 200);
          });
        }
        site.filled = true;
      }
      await delay(500);
    },
  },
  {
    alerts: ['MusterAtCapacity', 'MusterFull'],
    start: () => alone({ MAX_CONNECTIONS: '10' }),
    async happen(site) {
      site.members ??= await bounded(10, 10, () => rawSocketIo(site.node.port, { namespace: '/relay', token: site.node.token(newUser()) }));
      const { status } = await fetch(`${site.node.url}/socket.io/?EIO=4&transport=polling`);
      assert.equal(status, 503);
      await delay(200);
    },
  },
  {
    alerts: ['MusterStrangersEvicted'],
    start: () => alone({ MAX_PENDING: '10' }),
    async happen({ node }) {
      await bounded(10, 10, () => pollingSession(node.port));
      await delay(200);
    },
  },
  {
    alerts: ['MusterLogLinesDropped'],
    start: () => alone({ LOG: 'trace' }),
    async happen({ node }) {
      // Nobody reads the log any more, and much is logged.
      node.child.stderr.pause();
      await bounded(200, 20, async () => { (await rawEngine(node.port)).destroy(); });
    },
  },
  {
    alerts: ['MusterRedisDown', 'MusterRedisErrors'],
    start: () => inCluster(1),
    async happen(site) {
      site.socket ??= await site.node.clients.connect({ namespace: '/relay', claims: newUser() });
      if (!site.isFrozen) site.redis.freeze();
      site.isFrozen = true;
      await ask(site.socket, 'publish', { room: 'any', event: 'hello', data: 1 });
      await delay(100);
    },
  },
  {
    alerts: ['MusterRedisUnsteady', 'MusterResyncsGoOn'],
    start: () => inCluster(1),
    async happen(site) {
      site.socket ??= await site.node.clients.connect({ namespace: '/relay', claims: newUser() });
      site.admin ??= await site.redis.connect();
      await site.admin.sendCommand(['CLIENT', 'KILL', 'TYPE', 'pubsub']);
      await delay(500);
    },
  },
  {
    alerts: ['MusterCanarySlow'],
    async start() {
      const redis = await startRedis();
      const proxy = await startProxy(redis.port);
      const site = await inCluster(1, { redis, redisUrl: proxy.url });
      const { stop } = site;
      return { ...site, proxy, stop: async () => { await stop(); await proxy.close(); await redis.stop(); } };
    },
    async happen({ proxy }) { proxy.delay(400); await delay(500); },
  },
  {
    alerts: ['MusterLeaseLost'],
    start: () => inCluster(2),
    async happen({ node }) {
      node.signal('SIGSTOP');
      await delay(6_000);
      node.signal('SIGCONT');
      await delay(3_000);
    },
  },
  {
    alerts: ['MusterRedisMalformed'],
    start: () => inCluster(1),
    async happen(site) {
      site.admin ??= await site.redis.connect();
      const [channel] = await eventually(async () => {
        const channels = await site.admin.sendCommand(['PUBSUB', 'CHANNELS', 'socket.io-request*']);
        return channels.length > 0 && channels;
      }, { what: 'the node to subscribe a channel of requests' });
      await site.admin.publish(channel, 'rubbish');
      await delay(300);
    },
  },
  {
    // Hashing passwords takes all of a core, and whoever asks for it takes nothing.
    alerts: ['MusterCpuHigh'],
    start: () => alone({ WORKERS: '1', TRUSTED_PROXIES: '127.0.0.1' }),
    async happen({ node }) {
      await bounded(200, 3, async () => {
        const address = [10, ...Array.from({ length: 3 }, () => Math.floor(Math.random() * 256))].join('.');
        const response = await fetch(`${node.url}/api/v1/auth/login`, {
          method: 'POST',
          headers: { 'Content-Type': 'application/json', 'X-Forwarded-For': address },
          body: JSON.stringify({ email: `${unique('nobody')}@example.org`, password: 'a wrong password' }),
        });
        assert.ok([401, 429].includes(response.status), `${response.status}`);
        await response.body.cancel();
      });
    },
  },
  {
    alerts: ['MusterDeliverySlow'],
    start: () => alone({ WORKERS: '1' }),
    async happen(site) {
      const rooms = Array.from({ length: 100 }, (_, at) => `room${at}`);
      site.members ??= await bounded(MEMBERS, 10, async () => {
        const socket = await site.node.clients.connect({ namespace: '/relay', claims: newUser() });
        for (const room of rooms) assert.equal((await ask(socket, 'join', { room })).success, true);
        return socket;
      });
      // The node runs less than half of the time, and much is always under way.
      const published = Promise.all(rooms.map((room, at) => ask(site.members[at % MEMBERS], 'publish', { room, event: 'hello', data: 1 })));
      for (let pause = 0; pause < 4; pause += 1) {
        site.node.signal('SIGSTOP');
        await delay(150);
        site.node.signal('SIGCONT');
        await delay(20);
      }
      await published;
    },
  },
  {
    alerts: ['MusterSlowConsumers'],
    start: () => alone({ OUTBOX_BYTES: '100000', MAX_PAYLOAD: '100000' }),
    async happen(site) {
      const room = unique('room');
      site.sender ??= await site.node.clients.connect({ namespace: '/relay', claims: newUser() });
      const members = await bounded(30, 30, async () => {
        const socket = await rawSocketIo(site.node.port, { namespace: '/relay', token: site.node.token(newUser()) });
        socket.send(`42/relay,1["join",${JSON.stringify({ room })}]`);
        await socket.nextText();
        socket.socket.pause();
        return socket;
      });
      const { count } = await ask(site.sender, 'members', { room });
      assert.equal(count, members.length);
      // More than the kernel takes for a client who does not read.
      for (let at = 0; at < 120; at += 1) await ask(site.sender, 'publish', { room, event: 'much', data: 'x'.repeat(60_000) });
      for (const member of members) member.destroy();
    },
  },
  {
    alerts: ['MusterConnectionsLost'],
    start: alone,
    async happen({ node }) {
      await bounded(200, 40, async () => {
        const socket = await rawSocketIo(node.port, { namespace: '/relay', token: node.token(newUser()) });
        socket.socket.resetAndDestroy();
      });
      await delay(1_000);
    },
  },
  {
    alerts: ['MusterHandshakesRefused', 'MusterBadInput'],
    start: alone,
    async happen({ node }) {
      const { status } = await rawHttp(node.port, requestText(node.port, 'GET', '/socket.io/?EIO=4&transport=pigeon', { headers: { Connection: 'close' } }));
      assert.equal(status, 400);
      await delay(20);
    },
  },
  {
    alerts: ['MusterTokensRefused'],
    start: alone,
    async happen({ node }) {
      const socket = await rawEngine(node.port);
      socket.send('40/relay,{"token":"rubbish"}');
      await socket.nextText();
      socket.destroy();
      await delay(100);
    },
  },
  {
    alerts: ['MusterEventsFailing', 'MusterRecordsFailing'],
    start: onPostgres,
    async happen(site) {
      if (!site.member) {
        site.member = await site.node.clients.connect({ claims: newUser() });
        await ask(site.member, 'join_room', 'room');
        await site.postgres.kill();
      }
      await ask(site.member, 'send_message', { roomId: 'room', content: 'lost' });
    },
  },
  {
    alerts: ['MusterRecordsSlow'],
    start: onPostgres,
    async happen(site) {
      if (!site.member) {
        site.member = await site.node.clients.connect({ claims: newUser() });
        await ask(site.member, 'join_room', 'room');
      }
      // Another client of the database holds what the messages need.
      const locked = sql(site.postgres.url, 'BEGIN; LOCK TABLE chat_messages; SELECT pg_sleep(1.5); COMMIT;');
      await delay(200);
      await ask(site.member, 'send_message', { roomId: 'room', content: 'late' });
      await locked;
    },
  },
  {
    alerts: ['MusterJobsLate'],
    start: () => inCluster(1),
    async happen(site) {
      if (!site.isFrozen) {
        site.redis.freeze();
        site.isFrozen = true;
        // It is stored, and its event cannot be delivered.
        const notification = { userId: unique('user'), title: 'late', message: 'late' };
        assert.equal((await internal(site.node, 'POST', '/internal/notifications', notification)).status, 201);
      }
      await delay(200);
    },
  },
  {
    alerts: ['MusterPushFailing'],
    async start() {
      const receiver = createServer((request, response) => { request.resume().on('end', () => response.writeHead(400).end()); }).listen(0, '127.0.0.1');
      await new Promise((resolve) => { receiver.once('listening', resolve); });
      const site = await alone({ PUSH_WEBHOOK_URL: `http://127.0.0.1:${receiver.address().port}/` });
      return { ...site, stop: async () => { await site.stop(); receiver.closeAllConnections(); receiver.close(); } };
    },
    async happen(site) {
      site.app ??= emergencies(site.nodes);
      await site.app.raise(0, citizen());
      await delay(200);
    },
  },
];

test('every alert has a case', () => {
  const covered = ['MusterAbsent', ...CASES.flatMap(({ alerts }) => alerts), ...WITHOUT_CAUSE];
  assert.deepEqual(covered.toSorted(), names().toSorted());
});

test('MusterAbsent fires where no node answers', { timeout: 60_000 }, async () => {
  const prometheus = await startPrometheus({ targets: [`127.0.0.1:${await freePort()}`], job: 'absent', rules: fasterRules(), interval: '500ms' });
  try {
    await eventually(async () => (await prometheus.query('ALERTS{alertname="MusterAbsent",alertstate="firing"}')).length > 0, { timeout: 30_000, what: 'MusterAbsent to fire' });
  } finally {
    await prometheus.stop();
  }
});

for (const { alerts, start, relabel, happen } of CASES.filter(({ alerts }) => !process.env.ALERT || alerts.includes(process.env.ALERT))) {
  describe(alerts.join(' and '), () => {
    let site;
    let prometheus;
    before(async () => {
      site = await start();
      const scrape = { job_name: 'muster', static_configs: [{ targets: site.nodes.map(target) }], metric_relabel_configs: relabel?.(site) ?? [] };
      prometheus = await startPrometheus({ scrapes: [scrape], rules: fasterRules(), interval: '500ms' });
    });
    after(async () => {
      await prometheus?.stop();
      await site?.stop();
    });

    const firing = async () => new Set((await prometheus.query('ALERTS{alertstate="firing"}')).map(({ metric }) => metric.alertname));

    test('nothing fires before it happens', { timeout: 60_000 }, async () => {
      const scraped = async () => (await prometheus.query('count_over_time(muster_workers[10s]) > 6')).length === site.nodes.length;
      await eventually(scraped, { timeout: 30_000, what: 'the nodes to have been scraped a few times' });
      // Two versions are side by side from the beginning; they may be for a minute here.
      assert.deepEqual([...await firing()], []);
    });

    test('fires when it happens', { timeout: 240_000 }, async () => {
      const until = Date.now() + 200_000;
      let seen = new Set();
      while (!alerts.every((alert) => seen.has(alert))) {
        assert.ok(Date.now() < until, `fired: ${[...seen]}`);
        await happen(site);
        seen = new Set([...seen, ...await firing()]);
      }
    });
  });
}
