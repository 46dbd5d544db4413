// Runs the code a document shows to its readers. The files beside this one hold it letter for letter; all
// that is put in its place is what a reader would put in, too: host and port, and the token.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { temporaryDirectory } from '../support/gateway.mjs';

const PACKAGE = fileURLToPath(new URL('../package.json', import.meta.url));

/**
 * The snippets of document `name` (a folder here) against a gateway. Their `socket.io-client` is the real one, limited
 * to `transport`, which is the one thing the documents leave to the client's default.
 */
export function snippets(name, { url, transport }) {
  const directory = temporaryDirectory();
  const fake = join(directory, 'node_modules/socket.io-client');
  mkdirSync(fake, { recursive: true });
  writeFileSync(join(fake, 'package.json'), JSON.stringify({ name: 'socket.io-client', type: 'module', exports: './index.mjs' }));
  writeFileSync(join(fake, 'index.mjs'), `
    import { createRequire } from 'node:module';
    const real = createRequire(${JSON.stringify(PACKAGE)})('socket.io-client');
    const options = ${JSON.stringify({ ...transport.options, forceNew: true })};
    export const io = (url, given) => real.io(url, { ...given, ...options });
  `);
  const text = (snippet) => readFileSync(new URL(`./${name}/${snippet}.mjs`, import.meta.url), 'utf8');

  let written = 0;
  const load = (source) => {
    written += 1;
    const path = join(directory, `snippet-${written}.mjs`);
    writeFileSync(path, source);
    return import(pathToFileURL(path));
  };

  return {
    /** Evaluates a snippet that makes a socket. */
    async connect(snippet, token) {
      const source = text(snippet).replaceAll(/http:\/\/localhost:\d+/g, url).replaceAll('<JWT_ACCESS_TOKEN>', token);
      const module = await load(`${source}\nexport { socket };\n`);
      return module.socket;
    },
    /** Evaluates a snippet that uses a socket; what it prints goes to `console`. */
    async run(snippet, { socket, console }) {
      const module = await load(`export default (socket, console) => {\n${text(snippet)}\n};\n`);
      module.default(socket, console);
    },
  };
}

/** A console that keeps its lines and lets a test wait for one. */
export function keepingConsole() {
  const lines = [];
  const waiting = new Set();
  const keep = (...parts) => {
    lines.push(parts.join(' '));
    for (const look of [...waiting]) look();
  };
  return {
    lines,
    log: keep,
    error: keep,
    /** Resolves when `line` was printed `times` times. */
    printed(line, times = 1, timeout = 5_000) {
      return new Promise((resolve, reject) => {
        const look = () => {
          if (lines.filter((kept) => kept === line).length < times) return;
          clearTimeout(timer);
          waiting.delete(look);
          resolve();
        };
        const timer = setTimeout(() => {
          waiting.delete(look);
          reject(new Error(`'${line}' was not printed ${times} times in ${timeout} ms; printed: ${JSON.stringify(lines)}`));
        }, timeout);
        waiting.add(look);
        look();
      });
    },
  };
}
