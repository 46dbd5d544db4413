// nginx as people configure it in front of a node, on a free port.

import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { temporaryDirectory } from './gateway.mjs';
import { freePort } from './ports.mjs';
import { eventually, within } from './wait.mjs';

const NGINX = ['/usr/sbin/nginx', '/usr/local/sbin/nginx', '/opt/homebrew/bin/nginx'].find(existsSync) ?? 'nginx';
const INSTALL = 'nginx is not installed: run `apt-get install nginx-light`';

/** What everybody copies to let WebSockets through. */
export const UPGRADE = ['proxy_http_version 1.1;', 'proxy_set_header Upgrade $http_upgrade;', 'proxy_set_header Connection "upgrade";'];

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Starts nginx before the node at `port`; `lines` stand in its `location /`. Answers `{port, url, stop()}`. */
export async function startNginx(port, lines = []) {
  const own = await freePort();
  const directory = temporaryDirectory();
  const file = join(directory, 'nginx.conf');
  const at = (name) => join(directory, name);
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `  ${name}_temp_path ${at(name)};`);
  writeFileSync(file, [
    'daemon off;', 'master_process off;', `pid ${at('nginx.pid')};`, `error_log ${at('error.log')};`,
    'events { worker_connections 64; }',
    'http {', '  access_log off;', ...paths,
    `  server {`, `    listen 127.0.0.1:${own};`, '    location / {', `      proxy_pass http://127.0.0.1:${port};`, ...lines.map((line) => `      ${line}`), '    }', '  }',
    '}', '',
  ].join('\n'));
  const child = spawn(NGINX, ['-p', directory, '-c', file, '-e', at('error.log')], { stdio: ['ignore', 'ignore', 'pipe'] });
  running.add(child);
  let failure;
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text) => { log += text; });
  child.on('error', (error) => { failure = error.code === 'ENOENT' ? new Error(INSTALL) : error; });
  const exited = onceEvent(child, 'close').catch(() => {}).finally(() => running.delete(child));
  const answers = async () => failure ?? (child.exitCode !== null || (await fetch(`http://127.0.0.1:${own}/live`).then((answer) => answer.ok, () => false)));
  await eventually(answers, { timeout: 20_000, what: 'nginx to answer' });
  if (failure) throw failure;
  if (child.exitCode !== null) throw new Error(`nginx ended: ${log}`);
  return {
    port: own,
    url: `http://localhost:${own}`,
    stop: async () => {
      child.kill('SIGKILL');
      await within(exited, 10_000, 'the end of nginx');
    },
  };
}
