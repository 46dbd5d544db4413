// HAProxy with a minimal configuration, on a free port.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { temporaryDirectory } from './gateway.mjs';
import { freePort } from './ports.mjs';
import { answers, startProgram } from './program.mjs';

const INSTALL = 'HAProxy is not installed: run `apt-get install haproxy`';

/** Runs HAProxy with a file until `stop()`, which this returns. */
function launch(directory, file, isUp) {
  const options = { cwd: directory, env: { PATH: `${process.env.PATH}:/usr/sbin` } };
  return startProgram({ name: 'HAProxy', install: INSTALL, command: 'haproxy', args: ['-f', file, '-db'], options, isUp });
}

/** Starts HAProxy with a complete configuration for port 80, on a free port instead. */
export async function startConfiguredHaproxy(configuration) {
  const own = await freePort();
  const directory = temporaryDirectory();
  const file = join(directory, 'haproxy.cfg');
  writeFileSync(file, `${configuration.replace('bind :80', `bind 127.0.0.1:${own}`)}\n`);
  const url = `http://127.0.0.1:${own}`;
  const stop = await launch(directory, file, () => answers(`${url}/live`));
  return { port: own, url, stop };
}

/**
 * Starts it in front of the nodes at `ports`; `lines` are part of its backend. Returns `{port, states(), checks(),
 * stop()}`.
 */
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
  const table = async (column) => {
    const [head, ...rows] = (await (await fetch(`http://127.0.0.1:${statePort}/;csv`)).text()).trim().split('\n').map((line) => line.split(','));
    const at = head.indexOf(column);
    return ports.map((_, number) => rows.find(([, name]) => name === `node${number}`)[at]);
  };
  const stop = await launch(directory, file, () => table('status').catch(() => false));
  return {
    port: own,
    /** The results of the health checks: `UP`, `DOWN`, or a transition between them. */
    states: () => table('status'),
    /** The results of the latest checks as text. */
    checks: async () => (await table('check_code')).join(','),
    stop,
  };
}
