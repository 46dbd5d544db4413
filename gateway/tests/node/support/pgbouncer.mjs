// PgBouncer in transaction mode in front of a PostgreSQL, on a free port.

import { execFileSync, spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { temporaryDirectory } from './gateway.mjs';
import { freePort } from './ports.mjs';
import { within } from './wait.mjs';

const PGBOUNCER = ['/usr/sbin/pgbouncer', '/usr/bin/pgbouncer', '/usr/local/bin/pgbouncer'].find(existsSync) ?? 'pgbouncer';
const INSTALL = 'PgBouncer is not installed: run `apt-get install pgbouncer`';

/** A startup parameter that clients send, and that PgBouncer accepts only if it is configured to. */
export const IGNORED = 'extra_float_digits';

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Starts it in front of the server at `port`: `{url, port, stop()}`. It has fewer connections than a node, so that the
 * statements of one client go to several of them.
 */
export async function startPgBouncer(port, { ignored = IGNORED, size = 3 } = {}) {
  const own = await freePort();
  const directory = temporaryDirectory();
  const file = (name) => join(directory, name);
  writeFileSync(file('users.txt'), '"postgres" ""\n');
  writeFileSync(file('pgbouncer.ini'), [
    '[databases]', `* = host=127.0.0.1 port=${port}`,
    '[pgbouncer]', 'listen_addr = 127.0.0.1', `listen_port = ${own}`, 'unix_socket_dir =', 'auth_type = trust', `auth_file = ${file('users.txt')}`,
    'pool_mode = transaction', `default_pool_size = ${size}`, ...(ignored ? [`ignore_startup_parameters = ${ignored}`] : []), '',
  ].join('\n'));
  const account = process.getuid() === 0 ? { uid: id('-u'), gid: id('-g') } : {};
  chmodSync(directory, 0o755);
  const child = spawn(PGBOUNCER, [file('pgbouncer.ini')], { ...account, cwd: directory, stdio: ['ignore', 'ignore', 'pipe'] });
  running.add(child);
  let log = '';
  const exited = onceEvent(child, 'close').catch(() => {}).finally(() => running.delete(child));
  const ready = new Promise((resolve, reject) => {
    child.on('error', (error) => reject(error.code === 'ENOENT' ? new Error(INSTALL) : error));
    child.stderr.setEncoding('utf8').on('data', (text) => {
      log += text;
      if (/process up/.test(log)) resolve();
    });
    exited.then(() => reject(new Error(`PgBouncer ended: ${log}`)));
  });
  ready.catch(() => {});
  await within(ready, 10_000, 'PgBouncer to be up');
  return {
    port: own,
    url: `postgres://postgres@127.0.0.1:${own}/postgres`,
    stop: async () => {
      child.kill('SIGKILL');
      await within(exited, 10_000, 'the end of PgBouncer');
    },
  };
}

// It refuses to run as root.
function id(flag) {
  return Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }));
}
