// Pairs of steps in immediate succession, run many times: each run returns what was wrong, if anything. Runs are
// concurrent, in separate rooms and with separate users, with random pauses and a neighbour that keeps the nodes busy.
//
//   PAIRS_RUNS     how often each pair runs at each place (150 in `make chaos`)
//   PAIRS_SEED     the pauses of an earlier run
//   PAIRS_ONLY     a regular expression: the pairs to run
//   PAIRS_CONTROL  1 runs, beside them, those pairs on Node.js servers that these have

import assert from 'node:assert/strict';
import { createHash, randomInt } from 'node:crypto';
import { after, before, describe, test } from 'node:test';

import { bounded, unique } from './clients.mjs';
import { startPlaces } from './pairs_places.mjs';
import { delay, within } from './wait.mjs';

const RUNS = Number(process.env.PAIRS_RUNS ?? 6);
const SEED = Number(process.env.PAIRS_SEED ?? randomInt(2 ** 31));
const ONLY = new RegExp(process.env.PAIRS_ONLY ?? '');
const WITH_CONTROL = process.env.PAIRS_CONTROL === '1';

/** How many runs of a pair are in progress at once. */
const AT_ONCE = 8;

/** Deadline of one run. */
const RUN_DEADLINE = 20_000;

/** The longest pause, in milliseconds. */
const PAUSE = 8;

/** Returns a generator of numbers in [0, 1) seeded by a text. */
export function randomOf(text) {
  let state = createHash('sha256').update(text).digest().readUInt32LE(0);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * The object that a run gets: `{nodes, random(), pick(...choices), pause(), name(prefix), open(at, options), …}` and
 * the properties of its place. Half of the runs make no pause at all.
 */
function runOf(place, seed) {
  const random = randomOf(seed);
  const isInARow = random() < 0.5;
  const opened = [];
  const pauseOf = (longest) => Math.floor(random() * (longest + 1));
  return {
    ...place,
    random,
    pick: (...choices) => choices[Math.floor(random() * choices.length)],
    /** Waits for 0 to 8 milliseconds, or not even for a turn of the event loop. */
    async pause(longest = PAUSE) {
      const ms = isInARow ? 0 : pauseOf(longest);
      if (ms > 0) await delay(ms);
    },
    /** Waits for `ms` and up to `more` milliseconds, for steps that must coincide with a moment. */
    wait: (ms, more = 0) => delay(ms + random() * more),
    name: unique,
    /** A client on node `at` that is closed at the end of the run; it may still be connecting. */
    socket(at, options) {
      const socket = place.nodes[at].clients.socket(options);
      opened.push([place.nodes[at].clients, socket]);
      return socket;
    },
    close() {
      for (const [clients, socket] of opened) {
        socket.disconnect();
        socket.io.engine?.close();
        clients.open.delete(socket);
      }
    },
  };
}

/** Runs a pair at a place: how often it failed, and the reasons. */
async function runAt(place, name, { run, atOnce = AT_ONCE, runs = RUNS }) {
  const reasons = new Map();
  let wrong = 0;
  await bounded(runs, atOnce, async (at) => {
    const world = runOf(place, `${SEED}/${name}/${place.name}/${at}`);
    let reason;
    try {
      reason = await within(run(world), RUN_DEADLINE, 'the end of the run');
    } catch (error) {
      reason = `failed: ${error.message}`;
    } finally {
      world.close();
    }
    if (reason === undefined) return;
    wrong += 1;
    reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
  });
  return { wrong, runs, reasons };
}

function table(rows, places) {
  const lines = [['pair: wrong / runs', ...places], ...rows.map(([name, results]) => [name, ...places.map((place) => results.get(place) ?? '–')])];
  const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  return lines.map((line) => line.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))).join('   ')).join('\n');
}

/**
 * Creates a test for each of `pairs`: `{name: {run(world), atOnce?, runs?, isOnNodejs?}}`. `run` returns nothing, or in
 * a few words what was wrong. It runs at each of the places that `settings` request, and on Node.js servers if the pair
 * exists there. All figures are printed in the end.
 */
export function testPairs(title, settings, pairs) {
  const chosen = Object.entries(pairs).filter(([name]) => ONLY.test(name));
  if (chosen.length === 0) return;
  describe(title, () => {
    const rows = [];
    let site;
    before(async () => { site = await startPlaces({ ...settings, withControl: WITH_CONTROL }); });
    after(async () => {
      await site?.stop();
      console.log(`\n${title} (PAIRS_SEED=${SEED})\n${table(rows, site?.places.map(({ name }) => name) ?? [])}\n`);
    });
    for (const [name, pair] of chosen) {
      test(name, { timeout: 900_000 }, async () => {
        const results = new Map();
        rows.push([name, results]);
        const faults = [];
        for (const place of site.places) {
          if (place.isControl && !pair.isOnNodejs) continue;
          const { wrong, runs, reasons } = await runAt(place, name, pair);
          results.set(place.name, `${wrong}/${runs}`);
          // The control serves only as a comparison.
          if (wrong > 0 && !place.isControl) faults.push(`${place.name}: ${wrong} of ${runs} wrong\n${[...reasons].map(([reason, times]) => `  ${times} × ${reason}`).join('\n')}`);
        }
        if (faults.length > 0) assert.fail(`PAIRS_SEED=${SEED}\n${faults.join('\n')}`);
      });
    }
  });
}
