import assert from 'node:assert/strict';
import { test } from 'node:test';

import { disturbance, findings, noise, ratio, spread, summarise } from './statistics.mjs';

test('the median of an even number is between the middle two', () => {
  assert.deepEqual(spread([3, 1, 2]), { median: 2, min: 1, max: 3, n: 3 });
  assert.deepEqual(spread([4, 1, 2, 10]), { median: 3, min: 1, max: 10, n: 4 });
  assert.deepEqual(spread([10, 9]), { median: 9.5, min: 9, max: 10, n: 2 });
  assert.equal(spread([]), undefined);
});

test('there is no ratio to nothing', () => {
  assert.equal(ratio(3, 2), 1.5);
  assert.equal(ratio(3, 0), undefined);
  assert.equal(ratio(3, undefined), undefined);
  assert.equal(ratio(undefined, 3), undefined);
});

const servers = new Map(['floor', 'gateway'].map((name) => [name, { name, title: name, family: name }]));
const scenario = { name: 'one', servers: ['floor', 'gateway'], figures: [{ path: 'cost' }, { path: 'latency_ms.p99' }] };
const one = (round, server, cost, more = {}) => ({ round, scenario: 'one', server, figures: { cost }, load: { own_core_percent: 50 }, ...more });

test('a summary has the servers in the order of the scenario, and leaves out what was not measured', () => {
  const failed = one(3, 'floor', undefined, { figures: {}, load: undefined, failure: 'gone' });
  const other = { name: 'other', servers: ['floor'], figures: [{ path: 'cost' }] };
  const [summarised, ...rest] = summarise([scenario, other], servers, [one(1, 'gateway', 3), one(1, 'floor', 2), one(2, 'floor', 4), failed]);
  assert.deepEqual(rest, []);
  assert.deepEqual(summarised.rows.map(({ server, faulty, measured }) => [server.name, faulty, measured]), [['floor', true, 3], ['gateway', false, 1]]);
  assert.deepEqual(summarised.rows[0].spreads.cost, { median: 3, min: 2, max: 4, n: 2 });
  assert.equal(summarised.rows[0].spreads['latency_ms.p99'], undefined);
});

test('noise is half of what lies between the rounds, of the first figures', () => {
  const rounds = [one(1, 'floor', 9), one(2, 'floor', 11), one(1, 'gateway', 10), one(2, 'gateway', 10)];
  assert.deepEqual(noise(summarise([scenario], servers, rounds)), { typical_percent: 5, widest_percent: 10 });
  assert.equal(noise(summarise([scenario], servers, rounds.slice(0, 1))), undefined);
});

test('only the faults of ours are ours', () => {
  const isOurs = (name) => name === 'gateway';
  const found = findings([
    one(1, 'gateway', 1, { faults: { lost: 2 } }),
    one(1, 'floor', 1, { faults: { lost: 1, reordered: 3 } }),
    one(2, 'gateway', undefined, { failure: 'does not listen' }),
    one(2, 'floor', 1),
    one(3, 'gateway', 1, { repeated: true, load: { others_core_percent: 30, steal_percent: 1 } }),
  ], isOurs);
  assert.deepEqual(found.map(({ ours, text }) => [ours, text]), [
    [true, 'one, gateway, round 1: faults: lost 2'],
    [false, 'one, floor, round 1: faults: lost 1, reordered 3'],
    [true, 'one, gateway, round 2: not measured: does not listen'],
    [false, 'one, gateway, round 3: disturbed twice; others used 31 % of a core in the better'],
  ]);
});

test('what was not measured did not disturb', () => {
  assert.equal(disturbance({}), 0);
  assert.equal(disturbance({ load: { others_core_percent: 10, steal_percent: 1.5 } }), 11.5);
});
