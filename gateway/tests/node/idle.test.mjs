// An idle node sends the database no queries: it keeps its jobs and their times in memory. About once a minute it
// checks for abandoned work of other nodes.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { keeper, unique } from './support/clients.mjs';
import { startCluster } from './support/cluster.mjs';
import { startGateway } from './support/gateway.mjs';
import { startPostgres } from './support/postgres.mjs';
import { delay } from './support/wait.mjs';

/** A node checks at its start, and once more this long afterwards. */
const STARTED_MS = 13_000;

const WINDOW_MS = 10_000;
const WINDOWS = 4;

/**
 * The statements of one check: owners of jobs, abandoned events, alerts and calls of an older version, and the connection for
 * notifications, which is replaced because a server that vanished looks like one that sends none.
 */
const LOOK = [/FROM jobs GROUP BY/, /FROM announcements/, /FROM emergencies WHERE alerted/, /FROM care_calls WHERE settled/, /FROM sharers/, /^UNLISTEN \*$/, /^LISTEN "muster_sharers"$/];

/** Observes nodes with idle clients over several windows. */
async function measure(postgres, nodes, t) {
  const clients = await Promise.all(nodes.flatMap((node) => [node, node].map((each) => each.clients.connect({ claims: { sub: unique('idle'), role: 'helper' } }))));
  await delay(STARTED_MS);
  const counts = [];
  const seen = [];
  for (let at = 0; at < WINDOWS; at += 1) {
    const before = postgres.statements.length;
    await delay(WINDOW_MS);
    const asked = postgres.statements.slice(before);
    counts.push(asked.length);
    seen.push(...asked);
  }
  t.diagnostic(`statements of ${nodes.length} nodes in ${WINDOWS} times ${WINDOW_MS / 1_000} s: ${counts.join(', ')}`);
  assert.ok(clients.every(({ connected }) => connected));
  assert.deepEqual(seen.filter((statement) => !LOOK.some((known) => known.test(statement))), [], 'nothing but the check of each minute');
  assert.ok(counts.some((count) => count === 0), 'ten seconds without a statement');
  assert.ok(seen.length <= nodes.length * LOOK.length, `${seen.length} statements in ${WINDOWS * WINDOW_MS} ms`);
}

describe('idle nodes on PostgreSQL', { concurrency: 2 }, () => {
  test('a single node', { timeout: 120_000 }, async (t) => {
    const postgres = await startPostgres({ logStatements: true });
    const node = await startGateway({ env: { DATABASE_URL: postgres.url } });
    node.clients = keeper(node);
    try {
      await measure(postgres, [node], t);
    } finally {
      node.clients.closeAll();
      await node.kill();
      await postgres.kill();
    }
  });

  test('two nodes of a cluster', { timeout: 120_000 }, async (t) => {
    const postgres = await startPostgres({ logStatements: true });
    const cluster = await startCluster(2, { env: { DATABASE_URL: postgres.url } });
    try {
      await measure(postgres, cluster.nodes, t);
    } finally {
      await cluster.stop();
      await postgres.kill();
    }
  });
});
