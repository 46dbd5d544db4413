// Caddy as people configure it in front of a node, on a free port.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { temporaryDirectory } from './gateway.mjs';
import { freePort } from './ports.mjs';
import { answers, startProgram } from './program.mjs';

/** Starts Caddy with a Caddyfile for the site `realtime.example.org`, on a free port instead. Returns `{port, url, stop()}`. */
export async function startConfiguredCaddy(caddyfile) {
  const port = await freePort();
  const directory = temporaryDirectory();
  const file = join(directory, 'Caddyfile');
  const url = `http://localhost:${port}`;
  // Without a certificate, which needs the name's owner, and without the port of its control interface.
  writeFileSync(file, `{\n    admin off\n    auto_https off\n}\n${caddyfile.replace('realtime.example.org', url)}\n`);
  const stop = await startProgram({
    name: 'Caddy',
    install: 'Caddy is not installed: run `apt-get install caddy`',
    command: 'caddy',
    args: ['run', '--adapter', 'caddyfile', '--config', file],
    options: { env: { ...process.env, HOME: directory, XDG_DATA_HOME: directory, XDG_CONFIG_HOME: directory } },
    isUp: () => answers(`${url}/live`),
  });
  return { port, url, stop };
}
