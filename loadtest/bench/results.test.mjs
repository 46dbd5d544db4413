import assert from 'node:assert/strict';
import { test } from 'node:test';

import { crateVersions } from './machine.mjs';
import { readReport } from './measure.mjs';
import { readOptions, seconds } from './options.mjs';
import { Progress } from './progress.mjs';
import { withPart } from './results.mjs';
import { figureTables } from './table.mjs';
import { scenarios } from './scenarios.mjs';
import { FAMILIES, SERVERS } from './servers.mjs';

test('the part of the page between the markers is replaced, and nothing else', () => {
  const page = 'before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n';
  const replaced = 'before\n<!-- bench:begin -->\nnew $& part\n<!-- bench:end -->\nafter\n';
  assert.equal(withPart(page, 'new $& part'), replaced);
  assert.equal(withPart(replaced, 'new $& part'), replaced);
  assert.throws(() => withPart('no markers', 'new'), /bench:begin/);
});

test('a figure of the book has three columns, and no row for a server that was not measured', () => {
  const servers = new Map([['gateway', { title: 'gateway' }], ['floor', { title: 'floor' }], ['node-ws', { title: 'Node.js, ws' }]]);
  const row = (name, median) => ({ server: { name }, spreads: { cost: { median } } });
  const scenario = { title: '1 room', summary: [{ path: 'cost', title: 'CPU', unit: 'µs' }] };
  const [table] = figureTables([{ scenario, rows: [row('gateway', 2), row('floor', 1)] }], servers, ['floor', 'gateway', 'node-ws'], 'gateway');
  assert.equal(table, [
    '### 1 room: CPU', '', '| server | measured | ÷ gateway |', '| --- | --- | --- |', '| floor | 1.00 µs | 0.500 |', '| gateway | 2.00 µs | 1.00 |',
  ].join('\n'));
});

test('figures are read by their paths; what a report has not is left out', () => {
  const scenario = { figures: [{ path: 'cost' }, { path: 'latency_ms.p99' }, { path: 'crossing_ms.p99' }] };
  const report = { cost: 2, latency_ms: { p99: 5 }, crossing_ms: null, own_core_percent: 40, faults: { lost: 3, corrupt: 0 } };
  const { figures, load, faults } = readReport(scenario, report, true);
  assert.deepEqual(figures, { cost: 2, 'latency_ms.p99': 5 });
  assert.equal(load.own_core_percent, 40);
  assert.deepEqual(faults, { lost: 3 });
  assert.equal(readReport(scenario, report, false).faults, undefined);
});

test('every scenario names servers that there are, and shows figures that it has', () => {
  const all = scenarios({ idle: 15_000 });
  assert.equal(new Set(all.map(({ name }) => name)).size, all.length);
  for (const { name, servers, figures, summary } of all) {
    assert.deepEqual(servers.filter((server) => !SERVERS.has(server)), [], name);
    const paths = figures.map(({ path }) => path);
    assert.deepEqual(summary.filter(({ path }) => !paths.includes(path)), [], name);
  }
});

test('wrong flags are reported', () => {
  const read = (...argv) => readOptions(argv, {}, FAMILIES);
  assert.equal(read().rounds, 3);
  assert.deepEqual(read('--servers', 'gateway,floor').servers, ['gateway', 'floor']);
  assert.deepEqual(readOptions([], { GATEWAY_ENV: ' A=1  B=x=y ' }, FAMILIES).gatewayEnv, { A: '1', B: 'x=y' });
  for (const wrong of [['--rounds', '0'], ['--rounds', 'x'], ['--servers', 'nobody'], ['--duration', '3'], ['--coalesce', 'all'], ['--only', '('], ['more']]) {
    assert.throws(() => read(...wrong), undefined, wrong.join(' '));
  }
  assert.throws(() => readOptions([], { GATEWAY_ENV: 'A' }, FAMILIES), /GATEWAY_ENV/);
  assert.equal(seconds('250ms'), 0.25);
  assert.equal(seconds('2m'), 120);
});

test('the remaining time is estimated from earlier measurements', () => {
  const scenario = { name: 'one', duration: '3s', seconds: 2 };
  const server = { name: 'floor' };
  const progress = new Progress([1, 2].map((round) => ({ round, rounds: 2, scenario, server })));
  assert.equal(progress.next(), 'round 1 of 2, 1 of 2, about 10 s left: one, floor');
  progress.took(60);
  assert.equal(progress.next(), 'round 2 of 2, 2 of 2, about 60 s left: one, floor');
});

test('versions are read from a lock', () => {
  const lock = '[[package]]\nname = "axum"\nversion = "0.8.9"\n\n[[package]]\nname = "axum-core"\nversion = "0.5.6"\n';
  assert.equal(crateVersions(lock).axum, '0.8.9');
  assert.equal(crateVersions(lock).tokio, null);
});
