// Socket.IO clients in other languages, built from `gateway/tests/clients` into `target/clients` and run as separate
// processes. Each keeps four connections (or sends bytes) and prints a line of JSON for every occurrence.

import { execFile, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { eventually, preview } from './wait.mjs';

const SOURCES = fileURLToPath(new URL('../../clients', import.meta.url));
const BUILT = fileURLToPath(new URL('../../../../target/clients', import.meta.url));

/** The connections of a client: a process keeps one of each. */
export const CONNECTIONS = ['websocket idle', 'websocket sending', 'polling idle', 'polling sending'];

/** Lengths of the bytes that a client sends: Java's base64 wraps its lines after 57 bytes. */
export const LENGTHS = [0, 1, 2, 3, 56, 57, 58, 1000];

/** Maximum lines that a client may print: a correct one prints some twenty per second and connection. */
const LINES_MAX = 20_000;

/** Runs a build tool to completion; an error for a missing one says how to install it. */
function run(command, args, { cwd, packages }) {
  return new Promise((resolve, reject) => {
    execFile(command, args, { cwd, timeout: 580_000, maxBuffer: 64 << 20 }, (error, stdout, stderr) => {
      if (!error) resolve(stdout);
      else if (error.code === 'ENOENT') reject(new Error(`no ${command}: run \`make clients\` in the repository's root, or apt-get install ${packages}`));
      else reject(new Error(`${command} ${args.join(' ')}: ${error.message}\n${stdout}\n${stderr}`));
    });
  });
}

function folder(name) {
  const path = join(BUILT, name);
  mkdirSync(path, { recursive: true });
  return path;
}

async function java(okhttp) {
  const [cwd, packages] = [join(SOURCES, 'java'), 'default-jdk-headless maven'];
  const built = folder(`java-okhttp-${okhttp}`);
  const list = join(built, 'classpath.txt');
  await run('mvn', ['--quiet', '--batch-mode', 'dependency:build-classpath', `-Dokhttp.version=${okhttp}`, `-Dmdep.outputFile=${list}`], { cwd, packages });
  const path = `${built}:${readFileSync(list, 'utf8').trim()}`;
  await run('javac', ['-d', built, '-cp', path, 'src/main/java/Client.java'], { cwd, packages });
  return ['java', '-cp', path, 'Client'];
}

/** The path of a Python with the libraries of the examples: python-socketio and requests. */
export async function pythonWithLibraries() {
  const [pins, built] = [join(SOURCES, 'python/requirements.txt'), folder('python')];
  const [venv, kept] = [join(built, 'venv'), join(built, 'installed.txt')];
  if (!existsSync(kept) || readFileSync(kept, 'utf8') !== readFileSync(pins, 'utf8')) {
    await run('python3', ['-m', 'venv', '--clear', venv], { packages: 'python3-venv' });
    await run(join(venv, 'bin/pip'), ['install', '--quiet', '--disable-pip-version-check', '--only-binary', ':all:', '-r', pins], { packages: 'python3-venv' });
    cpSync(pins, kept);
  }
  return join(venv, 'bin/python');
}

async function python() {
  return [await pythonWithLibraries(), join(SOURCES, 'python/client.py')];
}

async function go() {
  const client = join(folder('go'), 'client');
  await run('go', ['build', '-o', client, '.'], { cwd: join(SOURCES, 'go'), packages: 'golang-go (1.26 or newer, or one that fetches it by itself)' });
  return [client];
}

async function rust() {
  const target = folder('rust');
  await run('cargo', ['build', '--locked', '--target-dir', target], { cwd: join(SOURCES, 'rust'), packages: 'libssl-dev pkg-config, and Rust by rustup' });
  return [join(target, 'debug/client')];
}

/** The clients, and the command that builds each, once. `CLIENT=Java` selects those whose name contains that. */
export const CLIENTS = [
  { name: 'JavaScript (socket.io-client 4.8.4)', build: async () => [process.execPath, fileURLToPath(new URL('stock_client.mjs', import.meta.url))] },
  { name: 'Python (python-socketio 5.18.1)', build: python },
  { name: 'Java (socket.io-client 2.1.2, OkHttp 3.12.12)', build: () => java('3.12.12') },
  { name: 'Java (socket.io-client 2.1.2, OkHttp 4.12.0)', build: () => java('4.12.0') },
  // Over polling its bytes do not reach a Node.js server, either.
  { name: 'Go (zishang520/socket.io 3.0.6)', build: go, binary: ['websocket'] },
  { name: 'Rust (rust_socketio 0.6.0)', build: rust, binary: [] },
].filter(({ name }) => name.includes(process.env.CLIENT ?? '')).map((client) => {
  let built;
  return { binary: ['websocket', 'polling'], ...client, command: () => { built ??= client.build(); return built; } };
});

if (CLIENTS.length === 0) throw new Error(`no client's name has ${process.env.CLIENT} in it`);

/** Starts a client process for `task` (`keep` or `binary`); it ends with the test. */
export async function startClient(t, client, gateway, task) {
  const [command, ...args] = await client.command();
  const token = gateway.token({ rooms: ['*'], publish: ['*'] });
  const child = spawn(command, [...args, gateway.url, token, task], { stdio: ['pipe', 'pipe', 'pipe'] });
  t.after(() => child.kill('SIGKILL'));
  const events = [];
  let [errors, lines] = ['', 0];
  child.stderr.setEncoding('utf8').on('data', (text) => { errors = (errors + text).slice(-8_000); });
  createInterface({ input: child.stdout }).on('line', (line) => {
    // A client that only prints must not keep the test from ending.
    lines += 1;
    if (lines > LINES_MAX) child.kill('SIGKILL');
    if (lines > LINES_MAX) return;
    try {
      events.push(JSON.parse(line));
    } catch {
      errors += `${line}\n`;
    }
  });
  const of = (name, since = 0) => events.slice(since).filter((entry) => entry.name === name);
  return {
    child,
    events,
    of,
    /** Waits until every one of `names` has connected and received an answer after the first `since` events. */
    async alive(names, { since = 0, timeout }) {
      const isAlive = (name) => {
        const seen = of(name, since).map(({ event }) => event);
        const connected = seen.indexOf('connect');
        return connected >= 0 && seen.includes('echo', connected);
      };
      await eventually(() => names.every(isAlive), { timeout, what: 'all connections to be there' }).catch((error) => {
        const missing = names.filter((name) => !isAlive(name));
        const last = missing.map((name) => [name, of(name).slice(-6).map(({ event, value }) => [event, value])]);
        throw new Error(`${error.message}; not there: ${preview(last)}\n${errors}`);
      });
    },
    errors: () => errors,
  };
}
