// kill -9 again and again while events are sent that the records owe: none is lost, and how many come twice.

import { describe, test } from 'node:test';

import { BATCH, repetitionAfterCrash, repetitionInCluster } from '../support/repetition.mjs';

const ROUNDS = 12;

describe('a crash while events are sent that the records owe', () => {
  test(`of a node alone, ${ROUNDS} times: no more than ${BATCH} events come twice`, { timeout: 600_000 }, async (t) => {
    const repeated = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const senders = [1, 4, 16][round % 3];
      // One user may send a hundred messages at once.
      const outcome = await repetitionAfterCrash({ senders, killAt: Math.min(50 + 37 * round, 80 * senders) });
      repeated.push(outcome.repeated);
    }
    t.diagnostic(`events that came twice after each crash: ${repeated.join(', ')}`);
  });

  test('of one of two nodes, 4 times: none comes twice', { timeout: 300_000 }, async (t) => {
    for (let round = 0; round < 4; round += 1) {
      const { events, acked } = await repetitionInCluster({ senders: [2, 8][round % 2], killAt: Math.min(100 + 50 * round, 150 * (1 + round % 2)) });
      t.diagnostic(`${acked} messages acknowledged, ${events} events heard`);
    }
  });
});
