// Runs the code a document shows to its readers. The files beside this one hold it letter for letter; all
// that is put in its place is what a reader would put in, too: host and port, and the token. What a snippet takes from
// the reader's own code (`data`, `callId`) is given to it as variables around it.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { temporaryDirectory } from '../support/gateway.mjs';

const PACKAGE = fileURLToPath(new URL('../package.json', import.meta.url));

/** Hosts, ports and tokens as the documents show them; one token is a variable of the reader's, `userToken`. */
const HOST = /http:\/\/(localhost|your-api-url):\d+/g;
const TOKENS = ['<JWT_ACCESS_TOKEN>', 'your-jwt-access-token', 'your-jwt-token'];

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
      // Documents show the import once, for all their snippets.
      const imported = source.includes("from 'socket.io-client'") ? '' : "import { io } from 'socket.io-client';\n";
      const at = consoles.push(console) - 1;
      const module = await load(`
        const console = globalThis[Symbol.for('${CONSOLES}')][${at}];
        const userToken = ${JSON.stringify(token)};
        ${imported}${source}
        export { socket };
      `);
      return module.socket;
    },
    /** Evaluates a snippet that uses a socket, and `given`, the reader's variables; what it prints goes to `console`. */
    async run(snippet, { socket, console, ...given }) {
      const names = ['socket', 'console', ...Object.keys(given)].join(', ');
      const module = await load(`export default (${names}) => {\n${text(snippet)}\n};\n`);
      module.default(socket, console, ...Object.values(given));
    },
    /** Evaluates a backend's snippet, whose three functions are posts to `internalUrl`; answers when all have been answered. */
    async serve(snippet, { internalUrl }) {
      mkdirSync(join(directory, 'lib'), { recursive: true });
      writeFileSync(join(directory, 'package.json'), JSON.stringify({ type: 'module' }));
      writeFileSync(join(directory, 'lib/websocket.js'), `
        export const posts = [];
        const post = (to, event, data) => posts.push(fetch(${JSON.stringify(`${internalUrl}/internal/emit`)}, {
          method: 'POST',
          headers: { 'X-Internal-Request': 'true', 'Content-Type': 'application/json' },
          body: JSON.stringify({ to, event, data }),
        }));
        export const emitToUser = (user, event, data) => post({ user }, event, data);
        export const emitToRoom = (room, event, data) => post({ room }, event, data);
        export const broadcast = (event, data) => post('all', event, data);
      `);
      await load(text(snippet));
      const { posts } = await import(pathToFileURL(join(directory, 'lib/websocket.js')));
      return Promise.all(posts.map(async (post) => (await post).status));
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
