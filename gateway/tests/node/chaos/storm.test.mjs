// An hour (CHAOS_STORM_MINUTES) of people who come, join, leave and vanish on nodes that are killed and replaced: at every
// pause no ghost is left and nobody is missing. `make chaos`.

import { test } from 'node:test';

import { EVERYTHING, ask, bounded, unique } from '../support/clients.mjs';
import { count, startCluster } from '../support/cluster.mjs';
import { resident } from '../support/hostile.mjs';
import { stopwatch } from '../support/measure.mjs';
import { delay, eventually } from '../support/wait.mjs';

const MINUTES = Number(process.env.CHAOS_STORM_MINUTES ?? 60);
const SEED = Number(process.env.CHAOS_SEED ?? Date.now() % 1_000_000);
/** A lease and a hold-back, and what a loaded machine adds. */
const SETTLED_MS = 25_000;

/** The same numbers for the same seed (mulberry32). */
function numbers(seed) {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

test(`no ghost after ${MINUTES} minutes of joins, leaves and kills (seed ${SEED})`, { timeout: (MINUTES + 10) * 60_000 }, async (t) => {
  const pick = numbers(SEED);
  const cluster = await startCluster(3, { env: { SOCKETS_PER_USER: '0', EVENTS_PER_SECOND: '0', LEASE: '6s', LEAVE_HOLDBACK: '3s' } });
  const rooms = Array.from({ length: 12 }, () => unique('storm'));
  /** socket → {user, rooms}: what is true. */
  const truth = new Map();
  const seen = { joins: 0, leaves: 0, lost: 0, unknown: 0, kills: 0, pauses: 0, stale: 0 };
  const alive = () => cluster.nodes.filter((node) => node.child.exitCode === null && node.child.signalCode === null);
  try {
    const storm = stopwatch();
    while (storm() < MINUTES * 60_000) {
      const round = stopwatch();
      while (round() < 20_000) {
        const nodes = alive();
        const sockets = [...truth.keys()];
        await bounded(8, 8, async () => {
          const dice = pick(100);
          if (sockets.length < 60 || dice < 10) {
            const user = `s${pick(40)}`;
            const node = nodes[pick(nodes.length)];
            const socket = await node.clients.connect({ namespace: '/relay', claims: { ...EVERYTHING, sub: user } }).catch(() => undefined);
            if (socket) truth.set(socket, { user, rooms: new Set(), node });
            return;
          }
          const socket = sockets[pick(sockets.length)];
          const one = truth.get(socket);
          // What two say of one socket at once has no order that this could know.
          if (!one || one.busy) return;
          one.busy = true;
          const room = rooms[pick(rooms.length)];
          if (dice < 90) {
            const event = dice < 55 ? 'join' : 'leave';
            seen[`${event}s`] += 1;
            const { success } = await ask(socket, event, { room }).catch(() => ({}));
            if (success && event === 'join') one.rooms.add(room);
            else if (success) one.rooms.delete(room);
            else {
              // It is unknown what became of it.
              truth.delete(socket);
              socket.disconnect();
              seen.unknown += 1;
            }
            one.busy = false;
            return;
          }
          truth.delete(socket);
          // Some say goodbye, some do not.
          if (dice < 95) socket.disconnect();
          else socket.io.engine.transport.ws?.terminate?.();
          seen.lost += 1;
        });
        // An hour of it is enough; the machine is for others, too.
        await delay(50);
      }
      if (pick(2) === 0) {
        const nodes = alive();
        const victim = nodes[pick(nodes.length)];
        for (const [socket, one] of truth) if (one.node === victim) truth.delete(socket);
        await victim.kill();
        victim.clients.closeAll();
        cluster.nodes.splice(cluster.nodes.indexOf(victim), 1);
        await cluster.start();
        seen.kills += 1;
      }
      for (const [socket] of truth) if (!socket.connected) truth.delete(socket);
      const isRight = async () => {
        for (const room of rooms) {
          const inside = [...truth.values()].filter((one) => one.rooms.has(room));
          const users = new Set(inside.map(({ user }) => user)).size;
          for (const node of alive()) {
            const counted = await count(node, room, '/relay');
            if (counted.stale) seen.stale += 1;
            if (counted.count !== inside.length || counted.users !== users) return false;
          }
        }
        return true;
      };
      await eventually(isRight, { timeout: SETTLED_MS, interval: 250, what: `the counts to be true (seed ${SEED}, ${JSON.stringify(seen)})` }).catch(async (error) => {
        const wrong = [];
        for (const room of rooms) {
          const inside = [...truth.values()].filter((one) => one.rooms.has(room));
          for (const node of alive()) wrong.push([room, node.node, inside.length, (await count(node, room, '/relay')).count]);
        }
        throw new Error(`${error.message}: ${JSON.stringify(wrong.filter(([, , expected, found]) => expected !== found))}`);
      });
      seen.pauses += 1;
    }
    // Everybody goes: nothing is left in Redis but leases.
    for (const [socket] of truth) socket.disconnect();
    truth.clear();
    const client = await cluster.redis.connect();
    const leftovers = async () => (await client.keys('muster:*:m:*')).length;
    await eventually(async () => (await leftovers()) === 0, { timeout: SETTLED_MS, interval: 250, what: 'no member in Redis' });
    t.diagnostic(`seed ${SEED}: ${JSON.stringify(seen)}; ${alive().map(({ pid }) => (resident(pid) / 2 ** 20).toFixed(0)).join(', ')} MiB resident; no ghost at any of ${seen.pauses} pauses`);
  } finally {
    await cluster.stop();
  }
});
