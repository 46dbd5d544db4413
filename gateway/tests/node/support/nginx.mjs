// nginx as people configure it in front of a node, on a free port.

import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { temporaryDirectory } from './gateway.mjs';
import { freePort } from './ports.mjs';
import { answers, startProgram } from './program.mjs';

const NGINX = ['/usr/sbin/nginx', '/usr/local/sbin/nginx', '/opt/homebrew/bin/nginx'].find(existsSync) ?? 'nginx';
const INSTALL = 'nginx is not installed: run `apt-get install nginx-light`';

/** The usual lines that enable WebSockets. */
export const UPGRADE = ['proxy_http_version 1.1;', 'proxy_set_header Upgrade $http_upgrade;', 'proxy_set_header Connection "upgrade";'];

/** Starts nginx in front of the node at `port`; `lines` are part of its `location /`. Returns `{port, url, stop()}`. */
export async function startNginx(port, lines = []) {
  const own = await freePort();
  return start(own, [
    '  server {', `    listen 127.0.0.1:${own};`, '    location / {', `      proxy_pass http://127.0.0.1:${port};`, ...lines.map((line) => `      ${line}`), '    }', '  }',
  ]);
}

/** Starts nginx with a complete `http` configuration for port 80, on a free port instead. */
export async function startConfiguredNginx(http) {
  const own = await freePort();
  return start(own, [http.replace('listen 80;', `listen 127.0.0.1:${own};`)]);
}

async function start(own, http) {
  const directory = temporaryDirectory();
  const file = join(directory, 'nginx.conf');
  const at = (name) => join(directory, name);
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `  ${name}_temp_path ${at(name)};`);
  writeFileSync(file, [
    'daemon off;', 'master_process off;', `pid ${at('nginx.pid')};`, `error_log ${at('error.log')};`,
    'events { worker_connections 64; }',
    'http {', '  access_log off;', ...paths, ...http, '}', '',
  ].join('\n'));
  const stop = await startProgram({
    name: 'nginx', install: INSTALL, command: NGINX, args: ['-p', directory, '-c', file, '-e', at('error.log')], isUp: () => answers(`http://127.0.0.1:${own}/live`),
  });
  return { port: own, url: `http://localhost:${own}`, stop };
}
