// The command line and the environment of the runner, read once.

import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

export const ROOT = new URL('../..', import.meta.url).pathname;

export const HELP = `Every scenario against every server, in turns.

  node loadtest/bench/main.mjs [flags]

The servers (all processes of one measurement) run on SERVER_CORE, the tester on TEST_CORE, and each measurement starts
fresh ones. Within a scenario the servers take turns, then comes the next scenario, then the next round, so that slow
drift of the machine hits all alike. Prints medians, and writes bench.json and bench.md.

  --rounds N           rounds, of which medians are taken (3)
  --only PATTERN       only scenarios whose name matches
  --servers LIST       only these, separated by commas: SERVERS
  --duration TIME      the measured window, where a scenario has one (3s; 4s at a fixed rate)
  --idle N             connections of the idle scenario (15000)
  --coalesce HOW       how the floor coalesces with 32 in flight: connection (the default) or room
  --out DIR            where results go (loadtest/results)
  --book               also update the figures in the documentation
  --help

Environment: GATEWAY, LOADTEST and PEERS (binaries of the workspace in target/release, or in CARGO_TARGET_DIR; the
directory of the peers' builds), SERVER_CORE (0), TEST_CORE (1), GATEWAY_ENV (more settings for the gateway, such as
"WORKERS=1 OUTBOX_PACKETS=256").

Exit status: 0 all was measured, 1 the gateway or the floor lost, repeated, reordered, misrouted or altered something,
or could not be measured (a peer's faults are findings), 2 nothing could be run.
`;

/** Throws an error with a message for the user if the flags are wrong. */
export function readOptions(argv, env, servers) {
  const { values } = parseArgs({
    args: argv,
    options: {
      rounds: { type: 'string', default: '3' },
      only: { type: 'string', default: '.' },
      servers: { type: 'string' },
      duration: { type: 'string' },
      idle: { type: 'string', default: '15000' },
      coalesce: { type: 'string', default: 'connection' },
      out: { type: 'string', default: join(ROOT, 'loadtest/results') },
      book: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const wanted = values.servers === undefined ? servers : values.servers.split(',');
  const unknown = wanted.filter((name) => !servers.includes(name));
  if (unknown.length) throw new Error(`--servers ${unknown}: expected some of ${servers.join(',')}`);
  if (!['connection', 'room'].includes(values.coalesce)) throw new Error(`--coalesce ${values.coalesce}: expected connection or room`);
  if (values.duration !== undefined) seconds(values.duration);
  const built = join(env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'release');
  return {
    ...values,
    rounds: count('--rounds', values.rounds),
    idle: count('--idle', values.idle),
    only: new RegExp(values.only),
    servers: wanted,
    // Servers run in their own directory.
    gateway: resolve(env.GATEWAY ?? join(built, 'gateway')),
    loadtest: resolve(env.LOADTEST ?? join(built, 'loadtest')),
    peers: resolve(env.PEERS ?? join(ROOT, 'loadtest/peers/socketioxide/target')),
    gatewayEnv: Object.fromEntries((env.GATEWAY_ENV ?? '').split(/\s+/).filter(Boolean).map(setting)),
    serverCore: env.SERVER_CORE ?? '0',
    testCore: env.TEST_CORE ?? '1',
  };
}

/** `250ms`, `3s` or `2m` in seconds. */
export function seconds(text) {
  const [, number, unit] = /^(\d+)(ms|s|m)$/.exec(text) ?? [];
  if (!unit) throw new Error(`${text}: expected a duration such as 250ms, 3s or 2m`);
  return Number(number) * { ms: 0.001, s: 1, m: 60 }[unit];
}

function count(flag, text) {
  if (!/^[1-9]\d*$/.test(text)) throw new Error(`${flag} ${text}: expected a number from 1`);
  return Number(text);
}

function setting(text) {
  const at = text.indexOf('=');
  if (at < 1) throw new Error(`GATEWAY_ENV, ${text}: expected KEY=value`);
  return [text.slice(0, at), text.slice(at + 1)];
}
