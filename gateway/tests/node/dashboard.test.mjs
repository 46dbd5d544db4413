// The chart's dashboard and alerts, queried from a real Prometheus that scrapes two nodes under load; and what
// unauthenticated clients cannot do to the metrics.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { EVERYTHING, TRANSPORTS, ask, bounded, refused, unique } from './support/clients.mjs';
import { startCluster } from './support/cluster.mjs';
import { DASHBOARD, PANELS, filled } from './support/dashboard.mjs';
import { drawDashboard } from './support/dashboard_picture.mjs';
import { sumMetric, temporaryDirectory } from './support/gateway.mjs';
import { promtool, startPrometheus } from './support/prometheus.mjs';
import { request } from './support/raw.mjs';
import { delay, eventually, preview } from './support/wait.mjs';

const repository = (path) => fileURLToPath(new URL(`../../../${path}`, import.meta.url));
const RULES = repository('charts/muster/files/rules.yaml');
const JOB = 'muster';

/** The series that an expression reads. */
function selectors(expression) {
  return [...expression.matchAll(/\b(?:muster_\w+|process_\w+|up)\b(?:\{[^}]*\})?/g)].map(([selector]) => selector);
}

/**
 * Keeps sending until `stop()`: in a room of chat and one of relay, with members on all nodes and on every transport.
 * A short pause after each answer, so that the load is small.
 */
async function startLoad(nodes) {
  const [chat, relay] = [unique('busy'), unique('busy')];
  const members = await Promise.all(nodes.flatMap((node) => TRANSPORTS.map(async (transport) => {
    const talker = await node.clients.connect({ transport, claims: { sub: unique('talker') } });
    const publisher = await node.clients.connect({ transport, namespace: '/relay', claims: { sub: unique('publisher'), ...EVERYTHING } });
    assert.equal((await ask(talker, 'join_room', chat)).success, true);
    assert.equal((await ask(publisher, 'join', { room: relay })).success, true);
    return { talker, publisher };
  })));
  let isOn = true;
  const work = members.map(async ({ talker, publisher }, at) => {
    while (isOn) {
      assert.equal((await ask(talker, 'send_message', { roomId: chat, content: `from ${at}` })).success, true);
      assert.equal((await ask(publisher, 'publish', { room: relay, event: 'tick', data: at })).success, true);
      // Joining and leaving is load, too.
      assert.equal((await ask(publisher, 'join', { room: `${relay}-other` })).success, true);
      assert.equal((await ask(publisher, 'leave', { room: `${relay}-other` })).success, true);
      await delay(50);
    }
  });
  const ended = Promise.all(work);
  ended.catch(() => {});
  return {
    connections: members.length * 2,
    stop: () => {
      isOn = false;
      return ended;
    },
  };
}

describe('the files by themselves', () => {
  test('the rules are valid, and do what their own tests say', async () => {
    for (const args of [['check', 'rules', RULES], ['test', 'rules', repository('charts/tests/rules_test.yaml')]]) {
      const { code, output } = await promtool(args);
      assert.equal(code, 0, output);
      assert.match(output, /SUCCESS/);
    }
  });

  test('every panel of the dashboard has a unit, a description and queries of the chosen source, and its place', () => {
    const ids = new Set();
    const taken = new Set();
    for (const { id, title, type, description, datasource, targets, fieldConfig, gridPos: { x, y, w, h } } of DASHBOARD.panels) {
      assert.ok(!ids.has(id), `${title} has the id of another panel`);
      ids.add(id);
      for (let column = x; column < x + w; column += 1) {
        for (let line = y; line < y + h; line += 1) {
          assert.ok(column < 24 && !taken.has(`${column}:${line}`), `${title} lies on another panel`);
          taken.add(`${column}:${line}`);
        }
      }
      if (type === 'row') continue;
      assert.ok(fieldConfig.defaults.unit, `${title} has no unit`);
      assert.ok(description?.endsWith('.'), `${title} has no description`);
      assert.ok(targets.length > 0);
      for (const each of [{ datasource }, ...targets]) assert.deepEqual(each.datasource, { type: 'prometheus', uid: '${datasource}' }, title);
      for (const { expr } of targets) {
        for (const name of ['$job', '$instance']) assert.ok(expr.includes(`=~"${name}"`), `${title} does not heed ${name}`);
      }
    }
    for (const { name, datasource, expr } of DASHBOARD.annotations.list) {
      assert.deepEqual(datasource, { type: 'prometheus', uid: '${datasource}' }, name);
      for (const variable of ['$job', '$instance']) assert.ok(expr.includes(`=~"${variable}"`), `${name} does not heed ${variable}`);
    }
    assert.deepEqual(DASHBOARD.templating.list.map(({ name }) => name), ['datasource', 'job', 'instance']);
  });
});

describe('a Prometheus that watches two nodes under load', () => {
  let cluster;
  let prometheus;
  let load;
  before(async () => {
    cluster = await startCluster(2);
    const targets = cluster.nodes.map((node) => `127.0.0.1:${node.internalPort}`);
    prometheus = await startPrometheus({ targets, job: JOB, rules: RULES });
    load = await startLoad(cluster.nodes);
  });
  after(async () => {
    await load?.stop().catch(() => {});
    await prometheus?.stop();
    await cluster?.stop();
  });

  /** Waits until an expression returns a number (a division by zero does not). */
  const answers = (expression, what) => eventually(async () => {
    const result = await prometheus.query(expression);
    return result.some(({ value }) => Number.isFinite(Number(value[1]))) && result;
  }, { timeout: 30_000, interval: 250, what: `an answer for ${what}: ${expression}` });

  test('every query of the dashboard answers', async () => {
    for (const { title, targets } of PANELS) {
      for (const { expr } of targets) await answers(filled(expr, { job: JOB }), title);
    }
  });

  test('its picture shows data in every panel, and no legend hides the graph', { timeout: 60_000 }, async () => {
    const directory = temporaryDirectory();
    const draw = () => drawDashboard({ prometheus, job: JOB, from: Date.now() - 30_000, to: Date.now(), directory });
    const isWhole = async () => {
      const { png, empty, crowded } = await draw();
      if (empty.length > 0) throw new Error(`no data: ${empty}`);
      assert.equal(readFileSync(png).subarray(1, 4).toString(), 'PNG');
      return { crowded };
    };
    assert.deepEqual(await eventually(isWhole, { timeout: 30_000, interval: 500, what: 'every panel to have data' }), { crowded: [] });
  });

  test('its first line shows the load', async () => {
    const value = async (title) => {
      const panel = PANELS.find((each) => each.title === title && each.type === 'stat');
      return Number((await prometheus.query(filled(panel.targets[0].expr, { job: JOB })))[0].value[1]);
    };
    assert.equal(await value('Nodes'), 2);
    await eventually(async () => (await value('Connections')) === load.connections, { timeout: 20_000, what: 'all connections to be counted' });
    for (const title of ['Joins', 'Deliveries', 'Delivery lag p99', 'Canary lag']) {
      await eventually(async () => (await value(title)) > 0, { timeout: 20_000, what: `${title} to be more than nothing` });
    }
    assert.equal(await value('Redis'), 1);
    assert.equal(await value('Draining'), 0);
  });

  test('its variables list the job and the nodes', async () => {
    const listed = (label) => prometheus.get(`label/${label}/values?match[]=muster_build_info`);
    assert.deepEqual(await listed('job'), [JOB]);
    assert.deepEqual(await listed('instance'), cluster.nodes.map((node) => `127.0.0.1:${node.internalPort}`).sort());
    const queries = DASHBOARD.templating.list.slice(1).map(({ query }) => query.query);
    assert.deepEqual(queries, ['label_values(muster_build_info, job)', 'label_values(muster_build_info{job=~"$job"}, instance)']);
  });

  test('every rule is evaluated without an error, and every series that it reads is there', async () => {
    const rules = await eventually(async () => {
      const { groups } = await prometheus.get('rules');
      const all = groups.flatMap((group) => group.rules);
      return all.length > 0 && all.every(({ health }) => health !== 'unknown') && all;
    }, { timeout: 20_000, what: 'all rules to be evaluated' });
    for (const { name, query, health, lastError, labels, annotations } of rules) {
      assert.equal(health, 'ok', `${name}: ${lastError}`);
      await prometheus.query(query);
      const read = selectors(query);
      assert.ok(read.length > 0, `${name} reads nothing`);
      for (const selector of read) await answers(selector, name);
      assert.match(labels.severity, /^(?:critical|warning)$/, name);
      assert.ok(annotations.summary && annotations.description, name);
      assert.equal(annotations.runbook_url, `/docs/operate/alerts/${name}`);
      assert.ok(existsSync(repository(`gateway/docs/operate/alerts/${name}.md`)), `${name} has no page`);
    }
    const names = rules.map(({ name }) => name);
    const pages = readdirSync(repository('gateway/docs/operate/alerts')).filter((file) => file !== 'README.md');
    assert.deepEqual(pages.sort(), names.map((name) => `${name}.md`).sort(), 'there is a page for each alert, and no other');
    for (const { title, description } of PANELS) {
      for (const [name] of description.matchAll(/\bMuster[A-Z]\w+/g)) assert.ok(names.includes(name), `${title}: ${name}`);
    }
  });

  test('promtool accepts the metrics of a busy node', async () => {
    for (const node of cluster.nodes) {
      const text = await (await fetch(`${node.internalUrl}/metrics`)).text();
      assert.deepEqual(await promtool(['check', 'metrics'], text), { code: 0, output: '' });
    }
  });

  test('unknown users, rooms and events add no series', async () => {
    const series = async () => Promise.all(cluster.nodes.map(async (node) => [...(await node.metrics()).keys()].sort()));
    const total = async (name, ...labels) => {
      const all = await Promise.all(cluster.nodes.map((node) => node.metrics()));
      return all.reduce((sum, metrics) => sum + sumMetric(metrics, name, ...labels), 0);
    };
    const counts = async () => ({
      joins: await total('muster_joins_total'),
      unknown: await total('muster_events_total', 'outcome="bad_input"'),
      tokens: await total('muster_tokens_refused_total'),
      handshakes: await total('muster_handshakes_refused_total'),
    });
    const [seriesBefore, countsBefore] = [await series(), await counts()];
    const strangers = 300;
    await bounded(strangers, 10, async (at) => {
      const node = cluster.nodes[at % 2];
      const name = unique('stranger');
      const socket = await node.clients.connect({ namespace: at % 4 < 2 ? '/' : '/relay', claims: { sub: name, name, role: name, ...EVERYTHING } });
      const joined = at % 4 < 2 ? await ask(socket, 'join_room', name) : await ask(socket, 'join', { room: name });
      assert.equal(joined.success, true, preview(joined));
      assert.equal((await ask(socket, name, { [name]: name })).success, false);
      socket.disconnect();
      await refused(node.clients.socket({ token: name }));
      assert.equal((await request(node.port, 'GET', `/socket.io/?EIO=4&transport=${name}`)).status, 400);
      assert.equal((await request(node.port, 'GET', `/${name}`)).status, 404);
    });
    const countsAfter = await counts();
    for (const [what, value] of Object.entries(countsAfter)) assert.ok(value >= countsBefore[what] + strangers, `${what}: ${countsBefore[what]}, then ${value}`);
    assert.deepEqual(await series(), seriesBefore);
  });

  test('an alert fires when its condition holds', async () => {
    const raised = async () => (await prometheus.get('alerts')).alerts.filter(({ labels }) => labels.alertname === 'MusterRedisDown');
    assert.deepEqual(await raised(), []);
    await load.stop();
    await cluster.redis.kill();
    const alerts = await eventually(async () => {
      const found = await raised();
      return found.length === cluster.nodes.length && found;
    }, { timeout: 30_000, interval: 250, what: 'the alert for every node' });
    for (const { annotations, labels } of alerts) assert.ok(annotations.description.startsWith(labels.instance), preview(annotations));
  });
});
