import assert from 'node:assert/strict';
import { test } from 'node:test';

import { summarise } from './statistics.mjs';
import { asMarkdown, asText, number, quantity, scenarioTable, summaryTable, withEnds } from './table.mjs';

test('numbers keep three digits', () => {
  const expected = [
    [0.1564, '0.156'], [2.304, '2.30'], [17.83, '17.8'], [265.4, '265'], [999.7, '1000'], [2441, '2441'], [9996, '10.0 k'],
    [405_432, '405 k'], [999_700, '1.00 M'], [6_214_000, '6.21 M'], [undefined, '–'],
  ];
  for (const [value, text] of expected) assert.equal(number(value), text);
  assert.equal(number(15516.4, 'bytes'), '15,516');
  assert.equal(quantity(2.3, 'µs'), '2.30 µs');
  assert.equal(quantity(undefined, 'µs'), '–');
});

test('one round has no ends', () => {
  assert.equal(withEnds({ median: 2, min: 1, max: 3, n: 3 }), '2.00 (1.00–3.00)');
  assert.equal(withEnds({ median: 2, min: 2, max: 2, n: 1 }), '2.00');
  assert.equal(withEnds(undefined), '–');
});

const server = (name, title, family = name) => [name, { name, title, family }];
const servers = new Map([
  server('floor', 'floor'), server('gateway', 'gateway'), server('node-ws', 'Node.js, ws'),
  server('gateway-pair', 'gateway: two nodes', 'gateway'), server('node-ws-pair', 'Node.js, ws: two nodes', 'node-ws'),
]);
const COST = { path: 'cost', title: 'CPU', unit: 'µs' };
const P99 = { path: 'latency_ms.p99', title: 'p99', unit: 'ms' };
const single = { name: 'one', title: '1 room', servers: ['floor', 'gateway', 'node-ws'], figures: [COST, P99], summary: [COST] };
const cross = { name: 'cross', title: 'two nodes', alone: 'fanout', servers: ['gateway-pair', 'gateway', 'node-ws-pair'], figures: [COST], summary: [COST] };
const measured = (scenario, name, cost, p99) => ({ round: 1, scenario: scenario.name, server: name, figures: { cost, 'latency_ms.p99': p99 } });
const singles = [measured(single, 'floor', 2, 5), measured(single, 'gateway', 2.2, 6), { ...measured(single, 'node-ws', 8, 12), faults: { lost: 1 } }];
const pairs = [measured(cross, 'gateway-pair', 2.5), measured(cross, 'gateway', 2), measured(cross, 'node-ws-pair', 10)];

test('a scenario is a table of servers beside the floor and Node.js', () => {
  assert.equal(asText(scenarioTable(summarise([single], servers, singles)[0])), `
server         CPU, µs  ÷ floor  ÷ Node.js, ws  p99, ms
floor             2.00     1.00          0.250     5.00
gateway           2.20     1.10          0.275     6.00
Node.js, ws †     8.00     4.00           1.00     12.0`.slice(1));
});

test('two nodes stand beside their own single one and Node.js', () => {
  assert.equal(asMarkdown(scenarioTable(summarise([cross], servers, pairs)[0])), `
| server | CPU, µs | ÷ own single node | ÷ Node.js, ws |
| --- | --- | --- | --- |
| gateway: two nodes | 2.50 | 1.25 | 0.250 |
| gateway | 2.00 | 1.00 | 0.200 |
| Node.js, ws: two nodes | 10.0 | – | 1.00 |`.slice(1));
});

const RATIOS = [['÷ floor', 'gateway', 'floor'], ['÷ Node.js', 'gateway', 'node-ws']];

test('the summary has a row for each figure that counts', () => {
  const summary = summarise([single], servers, singles);
  assert.equal(asMarkdown(summaryTable(summary, servers, ['floor', 'gateway', 'node-ws'], RATIOS)), `
| scenario | floor | gateway | Node.js, ws | ÷ floor | ÷ Node.js |
| --- | --- | --- | --- | --- | --- |
| 1 room: CPU | 2.00 µs | 2.20 µs | 8.00 µs | 1.10 | 0.275 |`.slice(1));
});

test('a server that was not measured has no column, and where the floor says nothing it is not compared', () => {
  const memory = { ...single, beside: 'node-ws' };
  const [, gateway, node] = singles;
  assert.deepEqual(summaryTable(summarise([memory], servers, singles), servers, ['floor', 'gateway', 'node-ws'], RATIOS).rows[0].slice(-2), ['–', '0.275']);
  assert.deepEqual(scenarioTable(summarise([memory], servers, singles)[0]).head, ['server', 'CPU, µs', '÷ Node.js, ws', 'p99, ms']);
  assert.deepEqual(summaryTable(summarise([single], servers, [gateway, node]), servers, ['floor', 'gateway', 'node-ws'], RATIOS).head,
    ['scenario', 'gateway', 'Node.js, ws', '÷ Node.js']);
});

test('a bar in a cell does not end it', () => {
  assert.equal(asMarkdown({ head: ['a'], rows: [['x|y']] }), '| a |\n| --- |\n| x\\|y |');
});
