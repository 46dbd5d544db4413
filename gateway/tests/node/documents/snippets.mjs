// Runs the code a document shows to its readers. The files beside this one hold it letter for letter; all
// that is put in its place is what a reader would put in, too: host and port, and the token.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { temporaryDirectory } from '../support/gateway.mjs';

const PACKAGE = fileURLToPath(new URL('../package.json', import.meta.url));

/** Hosts, ports and tokens as the documents show them; one token is a variable of the reader's, `userToken`. */
const HOST = /http:\/\/(localhost|your-api-url):\d+/g;
const TOKENS = ['<JWT_ACCESS_TOKEN>', 'your-jwt-access-token'];

/** The consoles of snippets that are modules: what they close over is found by a name that no snippet has. */
const CONSOLES = 'documents.consoles';
const consoles = [];
globalThis[Symbol.for(CONSOLES)] = consoles;

/**
 * The snippets of document `name` (a folder here) against a gateway. Their `socket.io-client` is the real one, limited
 * to `transport` where the document leaves that to the client's default; without one it is what the snippet says.
 */
export function snippets(name, { url, transport }) {
  const directory = temporaryDirectory();
  const fake = join(directory, 'node_modules/socket.io-client');
  mkdirSync(fake, { recursive: true });
  writeFileSync(join(fake, 'package.json'), JSON.stringify({ name: 'socket.io-client', type: 'module', exports: './index.mjs' }));
  writeFileSync(join(fake, 'index.mjs'), `
    import { createRequire } from 'node:module';
    const real = createRequire(${JSON.stringify(PACKAGE)})('socket.io-client');
    const options = ${JSON.stringify({ ...transport?.options, forceNew: true })};
    export const io = (url, given) => real.io(url, { ...given, ...options });
    export default io;
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
    /** Evaluates a snippet that makes a socket; what it prints goes to `console`. `ids` are put in for those of the document. */
    async connect(snippet, token, { console = globalThis.console, ids = {} } = {}) {
      let source = text(snippet).replaceAll(HOST, url);
      for (const shown of TOKENS) source = source.replaceAll(shown, token);
      for (const [shown, id] of Object.entries(ids)) source = source.replaceAll(shown, id);
      const at = consoles.push(console) - 1;
      const module = await load(`
        const console = globalThis[Symbol.for('${CONSOLES}')][${at}];
        const userToken = ${JSON.stringify(token)};
        ${source}
        export { socket };
      `);
      return module.socket;
    },
    /** Evaluates a snippet that uses a socket; what it prints goes to `console`. */
    async run(snippet, { socket, console }) {
      const module = await load(`export default (socket, console) => {\n${text(snippet)}\n};\n`);
      module.default(socket, console);
    },
  };
}

/** A console that keeps its lines, objects in them as JSON, and lets a test wait for one: its text, or a pattern. */
export function keepingConsole() {
  const lines = [];
  const waiting = new Set();
  const keep = (...parts) => {
    lines.push(parts.map((part) => (typeof part === 'string' ? part : JSON.stringify(part))).join(' '));
    for (const look of [...waiting]) look();
  };
  return {
    lines,
    log: keep,
    error: keep,
    /** Resolves when `line` was printed `times` times. */
    printed(line, times = 1, timeout = 5_000) {
      const matches = (kept) => (line instanceof RegExp ? line.test(kept) : kept === line);
      return new Promise((resolve, reject) => {
        const look = () => {
          if (lines.filter(matches).length < times) return;
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
