// HAProxy as `make cluster` runs it (gateway/deploy/haproxy.cfg), on a free port, in front of any nodes.

import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { temporaryDirectory } from './gateway.mjs';
import { freePort } from './ports.mjs';
import { eventually, within } from './wait.mjs';

const INSTALL = 'HAProxy is not installed: run `apt-get install haproxy`';
const CONFIG = fileURLToPath(new URL('../../../deploy/haproxy.cfg', import.meta.url));

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Starts a balancer in front of `ports`: `{url, port, states(), stop()}`. `states` returns the results of its health
 * checks in the order of `ports`: `UP`, `DOWN`, or a transition between them.
 */
export async function startBalancer(ports) {
  const [port, statePort] = [await freePort(), await freePort()];
  const directory = temporaryDirectory();
  const file = join(directory, 'haproxy.cfg');
  const servers = ports.map((each, at) => `    server node${at} 127.0.0.1:${each}`);
  const deployed = readFileSync(CONFIG, 'utf8').split('\n').filter((line) => !/^ +server /.test(line)).join('\n');
  writeFileSync(file, [
    deployed.trimEnd(), ...servers,
    'frontend states', `    bind 127.0.0.1:${statePort}`, '    stats enable', '    stats uri /', '',
  ].join('\n'));
  const child = spawn('haproxy', ['-f', file, '-db'], { cwd: directory, env: { PATH: `${process.env.PATH}:/usr/sbin`, FRONT: `127.0.0.1:${port}` }, stdio: ['ignore', 'pipe', 'pipe'] });
  running.add(child);
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => { log += text; });
  let failure;
  child.on('error', (error) => { failure = error.code === 'ENOENT' ? new Error(INSTALL) : error; });
  const exited = onceEvent(child, 'close').catch(() => {}).finally(() => running.delete(child));

  const states = async () => {
    const [head, ...lines] = (await (await fetch(`http://127.0.0.1:${statePort}/;csv`)).text()).trim().split('\n').map((line) => line.split(','));
    const column = head.indexOf('status');
    return ports.map((_, at) => lines.find(([, name]) => name === `node${at}`)[column]);
  };
  const stop = async () => {
    child.kill('SIGKILL');
    await within(exited, 10_000, 'the end of the balancer');
  };
  await eventually(async () => failure ?? (child.exitCode !== null || (await states()).every((state) => state === 'UP')), { timeout: 20_000, what: 'the balancer to be up' });
  if (failure) throw failure;
  if (child.exitCode !== null) throw new Error(`HAProxy ended: ${log}`);
  return { url: `http://127.0.0.1:${port}`, port, states, stop };
}
