// What a look around costs with a hundred thousand open incidents: spread over a country, within a kilometre, in one
// spot, and all of one user. CPU time of the gateway and, on PostgreSQL, of the server, printed for each.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';

import { unique } from '../support/clients.mjs';
import { startGateway } from '../support/gateway.mjs';
import { computeSquares, uuidOf, writeIncidents } from '../support/incidents.mjs';
import { startPostgres } from '../support/postgres.mjs';

const COUNT = Number(process.env.NEARBY_COUNT ?? 100_000);
const LOOKS = Number(process.env.NEARBY_LOOKS ?? 200);
/** Milliseconds of CPU: the goal is 1 with a release build; loosely, since debug builds and loaded machines run this too. */
const MOST_MS = Number(process.env.NEARBY_MOST_MS ?? 15);
const CENTRE = { latitude: 48.85, longitude: 2.35 };

/** Pseudo-random numbers, the same each time. */
function numbers(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

const random = numbers(7);
const around = (metres) => ({
  latitude: CENTRE.latitude + (random() - 0.5) * 2 * (metres / 111_195),
  longitude: CENTRE.longitude + (random() - 0.5) * 2 * (metres / 73_000),
});
const SHAPES = [
  ['spread over 600 km', (at) => ({ userId: `u${at}`, ...around(300_000) })],
  ['within a kilometre', (at) => ({ userId: `u${at}`, ...around(500) })],
  ['in one spot', (at) => ({ userId: `u${at}`, ...CENTRE })],
  ['all of one user, within a kilometre', () => ({ userId: 'one', ...around(500) })],
];

/** Seconds of CPU that the gateway has used. */
async function cpuOf(node) {
  const text = await (await fetch(`${node.internalUrl}/metrics`)).text();
  return Number(/^process_cpu_seconds_total ([\d.e+-]+)$/m.exec(text)[1]);
}

/** Seconds of CPU that a PostgreSQL server's processes have used; those of a process that has ended are its parent's. */
function cpuOfServer(pids) {
  return pids.reduce((sum, pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ').map(Number);
    return sum + (fields[11] + fields[12]) / 100;
  }, 0);
}

for (const database of ['SQLite', 'PostgreSQL']) {
  describe(`the cost of looking nearby on ${database}`, () => {
    for (const [shape, make] of SHAPES) {
      test(`${COUNT} incidents ${shape}`, { timeout: 600_000 }, async () => {
        const postgres = database === 'PostgreSQL' ? await startPostgres() : null;
        let node = await startGateway({ env: { SOS_AGE: '0', ...(postgres ? { DATABASE_URL: postgres.url } : {}) } });
        try {
          const servers = () => (postgres ? cpuOfServer(postgres.pids()) : 0);
          const now = Date.now();
          const incidents = Array.from({ length: COUNT }, (_, at) => ({ id: uuidOf(now), createdAt: now, ...make(at) }));
          await node.kill();
          await writeIncidents(node.databaseUrl, incidents);
          // A gateway of before there were squares may be measured, too.
          await computeSquares(node.databaseUrl, incidents).catch((error) => assert.match(error.message, /no such column|does not exist/));
          node = await node.restart();
          const look = async (token, query = {}) => {
            const search = new URLSearchParams({ ...CENTRE, ...query });
            const response = await fetch(`${node.url}/api/sos/nearby?${search}`, { headers: { Authorization: `Bearer ${token}` } });
            assert.equal(response.status, 200);
            return response.json();
          };
          const someone = () => node.token({ sub: unique('rescuer'), role: 'rescuer' });
          const measure = async (what, one) => {
            for (let at = 0; at < 20; at += 1) await one(someone());
            const [from, serverFrom] = [await cpuOf(node), servers()];
            for (let at = 0; at < LOOKS; at += 1) await one(someone());
            const ms = ((await cpuOf(node)) - from) * 1_000 / LOOKS;
            const serverMs = (servers() - serverFrom) * 1_000 / LOOKS;
            console.log(`${database}, ${shape}, ${what}: ${ms.toFixed(2)} ms of CPU${postgres ? ` and ${serverMs.toFixed(2)} ms of PostgreSQL's` : ''}`);
            assert.ok(ms < MOST_MS, `${ms} ms`);
          };
          await measure('a page of 100', (token) => look(token));
          await measure('a page of 20', (token) => look(token, { limit: 20 }));
          await measure('nothing near', (token) => look(token, { latitude: -40 }));
          let cursor;
          let pages = 0;
          const seen = new Set();
          const started = [await cpuOf(node), servers()];
          do {
            const { data, nextCursor } = await look(someone(), cursor ? { cursor } : {});
            for (const { id } of data) seen.add(id);
            cursor = nextCursor;
            pages += 1;
          } while (cursor && pages < 100);
          const ms = ((await cpuOf(node)) - started[0]) * 1_000 / pages;
          console.log(`${database}, ${shape}, ${pages} pages one after the other: ${ms.toFixed(2)} ms of CPU each${postgres ? ` and ${((servers() - started[1]) * 1_000 / pages).toFixed(2)} ms of PostgreSQL's` : ''}, ${seen.size} incidents`);
          assert.ok(ms < 4 * MOST_MS, `${ms} ms`);
        } finally {
          await node.kill();
          await postgres?.kill();
        }
      });
    }
  });
}
