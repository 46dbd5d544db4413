// kill -9 again and again while events are delivered that report records: none is lost, and how many come twice.

import { describe, test } from 'node:test';

import { BATCH, joinsAcrossCrash, repetitionAfterCrash, repetitionInCluster } from '../support/repetition.mjs';

const ROUNDS = 12;

describe('a crash while events are delivered that report records', () => {
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

  for (const isCluster of [false, true]) {
    const where = isCluster ? 'of one of two nodes, 4 times: every participant is reported, and none twice' : 'of a node alone, 8 times: every participant is reported';
    test(where, { timeout: 600_000 }, async (t) => {
      const figures = [];
      for (let round = 0; round < (isCluster ? 4 : 8); round += 1) {
        const { repeated, records, unanswered } = await joinsAcrossCrash({ lanes: [1, 8, 32][round % 3], killAt: 40 + 23 * round, isCluster });
        figures.push(`${repeated} of ${records} (${unanswered} unanswered)`);
      }
      t.diagnostic(`events that came twice after each crash: ${figures.join(', ')}`);
    });
  }
});
