// A database that a node of the previous version has used: this version does the work which that node left pending.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { describe, test } from 'node:test';

import { connected, keeper, unique } from './support/clients.mjs';
import { startGateway, temporaryDirectory } from './support/gateway.mjs';
import { sql } from './support/incidents.mjs';
import { startPostgres } from './support/postgres.mjs';
import { eventually, once } from './support/wait.mjs';

const SITES = [
  { name: 'SQLite', start: async () => ({ databaseUrl: `sqlite:${join(temporaryDirectory(), 'older.db')}`, stop: async () => {} }) },
  {
    name: 'PostgreSQL',
    async start() {
      const postgres = await startPostgres();
      return { databaseUrl: postgres.url, stop: () => postgres.kill() };
    },
  },
];

describe('pending work of the previous version', { concurrency: 2 }, () => {
  for (const site of SITES) {
    test(`on ${site.name}: an event, an alert and a call`, { timeout: 120_000 }, async () => {
      const { databaseUrl, stop } = await site.start();
      // A first start creates the tables.
      let node = await startGateway({ env: { DATABASE_URL: databaseUrl, CALL_RING: '5s' } });
      const clients = keeper(node);
      try {
        await node.stop();
        const [user, caller, at] = [unique('user'), unique('caller'), Date.now() - 60_000];
        const [eventId, emergencyId, callId] = Array.from({ length: 3 }, randomUUID);
        await sql(databaseUrl, `
          INSERT INTO announcements (id, namespace, audience, recipient, event, body, created_at)
            VALUES ('${eventId}', '/', 'user', '${user}', 'notification:new', '{"title":"left behind","eventId":"${eventId}"}', ${at});
          INSERT INTO emergencies (id, user_id, user_name, kind, latitude, longitude, priority, anonymous, status, created_at, updated_at, alerted)
            VALUES ('${emergencyId}', 'owner', 'O', 'medical', 10, 10, 'high', 0, 'active', ${at}, ${at}, 0);
          INSERT INTO care_calls (id, caller_id, caller_name, recipient_id, call_type, state, created_at, check_at, settled)
            VALUES ('${callId}', '${caller}', 'C', '${user}', 'audio', 'ringing', ${at}, ${at + 5_000}, 0);
          INSERT INTO care_call_parties (user_id, call_id) VALUES ('${caller}', '${callId}'), ('${user}', '${callId}');`);
        node = await node.restart();
        const own = clients.socket({ claims: { sub: user } });
        const helper = clients.socket({ namespace: '/emergencies', claims: { sub: unique('helper'), role: 'helper' } });
        const received = ['notification:new', 'call:missed'].map((event) => once(own, event, { timeout: 60_000 }));
        const created = once(helper, 'emergency:created', { timeout: 60_000 });
        await Promise.all([own, helper].map(connected));
        const [[event], [missed]] = await Promise.all(received);
        assert.deepEqual(event, { title: 'left behind', eventId });
        assert.equal(missed.callId, callId);
        const [alert] = await created;
        assert.equal(alert.emergency.id, emergencyId);
        const left = "SELECT (SELECT COUNT(*) FROM announcements) + (SELECT COUNT(*) FROM emergencies WHERE alerted = 0) + (SELECT COUNT(*) FROM care_calls WHERE settled = 0) + (SELECT COUNT(*) FROM jobs)";
        await eventually(async () => (await sql(databaseUrl, `${left};`)) === '0', { timeout: 20_000, interval: 500, what: 'nothing to be left' });
      } finally {
        clients.closeAll();
        await node.kill();
        await stop();
      }
    });
  }
});
