// HAProxy with as little configuration as people give it, on a free port.

import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { temporaryDirectory } from './gateway.mjs';
import { freePort } from './ports.mjs';
import { eventually, within } from './wait.mjs';

const INSTALL = 'HAProxy is not installed: run `apt-get install haproxy`';

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Starts it before the nodes at `ports`; `lines` stand in its backend. Answers `{port, states(), checks(), stop()}`. */
export async function startHaproxy(lines, ports) {
  const [own, statePort] = [await freePort(), await freePort()];
  const directory = temporaryDirectory();
  const file = join(directory, 'haproxy.cfg');
  writeFileSync(file, [
    'defaults', '    mode http', '    timeout connect 2s', '    timeout client 60s', '    timeout server 60s',
    'frontend public', `    bind 127.0.0.1:${own}`, '    default_backend nodes',
    'backend nodes', ...lines, ...ports.map((port, at) => `    server node${at} 127.0.0.1:${port} check inter 200ms fall 2 rise 1`),
    'frontend states', `    bind 127.0.0.1:${statePort}`, '    stats enable', '    stats uri /', '',
  ].join('\n'));
  const child = spawn('haproxy', ['-f', file, '-db'], { cwd: directory, env: { PATH: `${process.env.PATH}:/usr/sbin` }, stdio: ['ignore', 'pipe', 'pipe'] });
  running.add(child);
  let failure;
  child.on('error', (error) => { failure = error.code === 'ENOENT' ? new Error(INSTALL) : error; });
  const exited = onceEvent(child, 'close').catch(() => {}).finally(() => running.delete(child));
  const table = async (column) => {
    const [head, ...rows] = (await (await fetch(`http://127.0.0.1:${statePort}/;csv`)).text()).trim().split('\n').map((line) => line.split(','));
    const at = head.indexOf(column);
    return ports.map((_, number) => rows.find(([, name]) => name === `node${number}`)[at]);
  };
  await eventually(async () => failure ?? table('status').catch(() => false), { timeout: 20_000, what: 'HAProxy to be up' });
  if (failure) throw failure;
  return {
    port: own,
    /** What the checks say of each: `UP`, `DOWN`, or how far it is on the way. */
    states: () => table('status'),
    /** The last checks' results, as a text. */
    checks: async () => (await table('check_code')).join(','),
    stop: async () => {
      child.kill('SIGKILL');
      await within(exited, 10_000, 'the end of HAProxy');
    },
  };
}
