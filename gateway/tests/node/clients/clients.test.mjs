// Clients of many languages through a drain, a restart and a sleep of their own, on both transports, idle and sending: all come
// back by themselves. `make clients` installs what they need and runs this.

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';

import { CLIENTS, CONNECTIONS, LENGTHS, startClient } from '../support/foreign.mjs';
import { startGateway, sumMetric } from '../support/gateway.mjs';
import { eventually } from '../support/wait.mjs';

/** In time for each client that notices the end of its connection. One that does not notices the end of the heartbeat, after 63 s. */
const BACK = 30_000;
const HEARTBEAT = { PING_INTERVAL: '3s', PING_TIMEOUT: '60s' };

describe('a client comes back', { concurrency: 3 }, () => {
  // One after the other: each build takes all cores.
  before(async () => {
    for (const client of CLIENTS) await client.command();
  }, { timeout: 900_000 });

  for (const client of CLIENTS) {
    test(`${client.name} after a drain, and after a restart without one`, { timeout: 180_000 }, async (t) => {
      const gateways = [await startGateway({ env: { DRAIN: '1s', ...HEARTBEAT } })];
      t.after(() => Promise.all(gateways.map((gateway) => gateway.kill())));
      const process = await startClient(t, client, gateways[0], 'keep');
      await process.alive(CONNECTIONS, { timeout: BACK });

      let since = process.events.length;
      assert.deepEqual(await gateways[0].stop(), { code: 0, signal: null });
      gateways.push(await gateways[0].restart());
      await process.alive(CONNECTIONS, { since, timeout: BACK });
      if (client.name.startsWith('JavaScript')) {
        const reasons = process.events.filter(({ event }) => event === 'disconnect').map(({ value }) => value);
        assert.deepEqual(reasons, CONNECTIONS.map(() => 'transport close'));
      }

      since = process.events.length;
      await gateways[1].kill();
      gateways.push(await gateways[1].restart());
      await process.alive(CONNECTIONS, { since, timeout: BACK });
    });

    test(`${client.name} after it has slept for longer than the heartbeat allows`, { timeout: 120_000 }, async (t) => {
      const gateway = await startGateway({ env: { PING_INTERVAL: '2s', PING_TIMEOUT: '2s' } });
      t.after(() => gateway.kill());
      const process = await startClient(t, client, gateway, 'keep');
      await process.alive(CONNECTIONS, { timeout: BACK });
      const since = process.events.length;
      const silent = async () => sumMetric(await gateway.metrics(), 'muster_sessions_closed_total', 'reason="ping_timeout"');
      process.child.kill('SIGSTOP');
      // On a busy machine some may have been silent before.
      const before = await silent();
      await eventually(
        async () => (await silent()) >= before + CONNECTIONS.length,
        { timeout: 30_000, interval: 200, what: 'the sessions to end' },
      );
      process.child.kill('SIGCONT');
      await process.alive(CONNECTIONS, { since, timeout: BACK });
    });
  }
});

describe('bytes come back as they were sent', { concurrency: 3 }, () => {
  for (const client of CLIENTS.filter(({ binary }) => binary.length > 0)) {
    test(`${client.name}, over one connection`, { timeout: 120_000 }, async (t) => {
      const gateway = await startGateway();
      t.after(() => gateway.kill());
      const process = await startClient(t, client, gateway, 'binary');
      const answers = (name) => process.of(name).filter(({ event }) => event === 'same' || event === 'changed');
      await eventually(() => client.binary.every((name) => answers(name).length >= LENGTHS.length), { timeout: BACK, what: 'all answers' })
        .catch((error) => { throw new Error(`${error.message}: ${JSON.stringify(process.events)}\n${process.errors()}`); });
      for (const name of client.binary) {
        assert.deepEqual(answers(name).map(({ event, value }) => [event, value]).sort((a, b) => a[1] - b[1]), LENGTHS.map((length) => ['same', length]));
        assert.deepEqual(process.of(name).filter(({ event }) => event === 'connect').length, 1, 'one connection');
      }
    });
  }
});
