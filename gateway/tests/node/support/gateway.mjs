// Starts one gateway process per test (or file) on free ports with its own database, and stops it. Two gateways share
// nothing; a test that dies takes its gateways with it.

import { spawn } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import { once as onceEvent } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { load } from './packages.mjs';
import { preview, within } from './wait.mjs';

const REPOSITORY = fileURLToPath(new URL('../../../..', import.meta.url));
const READY_DEADLINE = 20_000;

/** Settings of every gateway in the tests; `env` of the test takes precedence, `null` unsets. */
const DEFAULTS = {
  LISTEN: '127.0.0.1:0',
  INTERNAL_LISTEN: '127.0.0.1:0',
  LOG_FORMAT: 'json',
  LOG: 'info',
  DRAIN: '1s',
  // A real key for tokens is set, so the apps must be named.
  MOUNTS: 'sos=/,emergencies=/emergencies,chat=/,care=/,relay=/relay',
  // Nodes of a test that share a Redis share the file, too, or use no records.
  SQLITE_WITH_REDIS: 'true',
};

const children = new Set();
const directories = new Set();

process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
  for (const directory of directories) {
    try {
      rmSync(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 20 });
    } catch {
      // A process that was just killed may still hold a file; the system cleans it up later.
    }
  }
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => process.exit(1));
}

/** The path of the gateway under test: `GATEWAY_BIN`, else the debug build of this repository. */
export function gatewayBinary() {
  const path = process.env.GATEWAY_BIN ?? join(REPOSITORY, 'target/debug/gateway');
  if (!existsSync(path)) {
    throw new Error(`no gateway at ${path}: run \`cargo build\` in ${REPOSITORY}, or set GATEWAY_BIN to a built binary`);
  }
  return path;
}

/** A private directory of this test process, removed when it ends. */
export function temporaryDirectory() {
  const directory = mkdtempSync(join(tmpdir(), 'gateway-test-'));
  directories.add(directory);
  return directory;
}

/** A token with any header and payload, signed with HS256 by `secret` unless the header says otherwise. */
export function rawToken(payload, secret, header = { alg: 'HS256', typ: 'JWT' }) {
  const part = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
  const signed = `${part(header)}.${part(payload)}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

/** A valid token: `sub` is 'u1' and `exp` one hour away unless `claims` says otherwise (`exp: null` leaves it out). */
export function signToken(claims, secret) {
  const jwt = load('jsonwebtoken');
  const payload = { sub: 'u1', exp: Math.floor(Date.now() / 1000) + 3600, ...claims };
  if (payload.exp === null) delete payload.exp;
  return jwt.sign(payload, secret, { algorithm: 'HS256' });
}

/**
 * Runs `gateway <args>` to completion: `{code, signal, stdout, stderr}`. `input` goes to its standard input, which then
 * ends unless it is left `open`, like a terminal's.
 */
export async function runGateway(args, { env = {}, input = '', open = false, cwd = temporaryDirectory(), timeout = 20_000 } = {}) {
  const child = spawn(gatewayBinary(), args, { cwd, env: environment(env), stdio: ['pipe', 'pipe', 'pipe'] });
  children.add(child);
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text) => { stdout += text; });
  child.stderr.setEncoding('utf8').on('data', (text) => { stderr += text; });
  child.stdin.on('error', () => {});
  child.stdin.write(input);
  if (!open) child.stdin.end();
  const closed = onceEvent(child, 'close');
  try {
    const [code, signal] = await within(closed, timeout, `the end of \`gateway ${args.join(' ')}\``);
    return { code, signal, stdout, stderr };
  } catch (error) {
    child.kill('SIGKILL');
    throw new Error(`${error.message}\n${stdout}\n${stderr}`, { cause: error });
  } finally {
    children.delete(child);
  }
}

/**
 * Starts a gateway and waits until it listens. Its dependencies, such as Redis, need not be available yet.
 *
 * The test must call `stop()` (SIGTERM) or `kill()` (SIGKILL) in the end. `restart()` starts another one on the same
 * ports, database and secret.
 */
export async function startGateway({ env = {}, args = [] } = {}) {
  const directory = temporaryDirectory();
  const secret = env.JWT_SECRET ?? randomBytes(32).toString('hex');
  const settings = {
    ...DEFAULTS,
    JWT_SECRET: secret,
    DATABASE_URL: `sqlite:${join(directory, 'gateway.db')}`,
    ...env,
  };
  return launch({ settings, args, secret, directory });
}

async function launch({ settings, args, secret, directory }) {
  const child = spawn(gatewayBinary(), args, {
    cwd: directory,
    env: environment(settings),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.add(child);

  const logs = [];
  const watchers = new Set();
  const output = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text) => { output.stdout += text; });
  lines(child.stderr, (line) => {
    output.stderr += `${line}\n`;
    const entry = parseLog(line);
    logs.push(entry);
    for (const watcher of [...watchers]) watcher(entry);
  });

  const exited = new Promise((resolve) => {
    child.on('error', (error) => resolve({ code: null, signal: null, error }));
    child.on('close', (code, signal) => {
      children.delete(child);
      resolve({ code, signal });
    });
  });

  /** The first log object that matches `filter`, logged already or still to come. */
  const waitLog = (filter, { timeout = 5_000, what = String(filter) } = {}) => {
    const written = logs.find(filter);
    if (written) return Promise.resolve(written);
    let watcher;
    const found = new Promise((resolve) => {
      watcher = (entry) => { if (filter(entry)) resolve(entry); };
      watchers.add(watcher);
    });
    return within(found, timeout, `the log line ${what}\n${tail(output.stderr)}`).finally(() => watchers.delete(watcher));
  };

  const early = exited.then(({ code, signal, error }) => {
    const how = error ? String(error) : `code ${code}, signal ${signal}`;
    throw new Error(`the gateway ended before it was ready (${how})\n${output.stdout}\n${tail(output.stderr)}`);
  });
  early.catch(() => {});
  let ready;
  try {
    ready = await Promise.race([
      waitLog((entry) => entry.message === 'started', { timeout: READY_DEADLINE, what: '"started"' }),
      early,
    ]);
  } catch (error) {
    child.kill('SIGKILL');
    throw new Error(`${error.message}\n${tail(output.stderr)}`, { cause: error });
  }

  const port = portOf(ready.public);
  const internalPort = portOf(ready.internal);
  const url = `http://127.0.0.1:${port}`;
  const internalUrl = `http://127.0.0.1:${internalPort}`;

  return {
    url,
    internalUrl,
    port,
    internalPort,
    pid: child.pid,
    child,
    secret,
    directory,
    databaseUrl: settings.DATABASE_URL,
    node: ready.node,
    /** All stderr lines so far: the parsed object, or `{unparsed}` for a line that is not JSON. */
    logs,
    output,
    waitLog,
    /** Resolves with `{code, signal}` when the process has ended. */
    exited,
    token: (claims = {}) => signToken(claims, secret),
    signal: (name) => child.kill(name),
    /** SIGTERM; resolves with `{code, signal}`. Takes up to the drain window while clients are connected. */
    async stop({ timeout = 40_000 } = {}) {
      child.kill('SIGTERM');
      try {
        return await within(exited, timeout, 'the end of the gateway after SIGTERM');
      } catch (error) {
        child.kill('SIGKILL');
        throw new Error(`${error.message}\n${tail(output.stderr)}`, { cause: error });
      }
    },
    /** SIGKILL; resolves with `{code, signal}`. */
    async kill() {
      child.kill('SIGKILL');
      return exited;
    },
    /**
     * Starts the same gateway again (after `stop` or `kill`): same ports, secret and database, with additional `env`.
     */
    restart({ env = {} } = {}) {
      const again = { ...settings, LISTEN: `127.0.0.1:${port}`, INTERNAL_LISTEN: `127.0.0.1:${internalPort}`, ...env };
      return launch({ settings: again, args, secret, directory });
    },
    /** `/metrics` as a Map from `name` or `name{label="…"}` to the number. */
    async metrics() {
      const response = await fetch(`${internalUrl}/metrics`);
      if (!response.ok) throw new Error(`/metrics answered ${response.status}`);
      return parseMetrics(await response.text());
    },
    /** Fails with the offending line if the gateway logged a panic or an ERROR. */
    assertQuiet() {
      const bad = logs.find((entry) => entry.level === 'ERROR' || /panicked at/.test(entry.unparsed ?? entry.message ?? ''));
      if (bad) throw new Error(`the gateway logged ${preview(bad)}`);
    },
  };
}

/** Prometheus text as a Map; `sumMetric` sums over label sets. */
export function parseMetrics(text) {
  const values = new Map();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const at = line.lastIndexOf(' ');
    values.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  return values;
}

/** The sum of a metric over all label sets whose text contains every one of `labels` (`transport="polling"`). */
export function sumMetric(metrics, name, ...labels) {
  let sum = 0;
  for (const [key, value] of metrics) {
    if (key !== name && !key.startsWith(`${name}{`)) continue;
    if (labels.every((label) => key.includes(label))) sum += value;
  }
  return sum;
}

/** The parent's settings must not leak into a gateway under test. */
function environment(settings) {
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, TMPDIR: process.env.TMPDIR, RUST_BACKTRACE: '1' };
  if (process.env.GATEWAY_BIN) env.GATEWAY_BIN = process.env.GATEWAY_BIN;
  for (const [key, value] of Object.entries(settings)) {
    if (value !== null && value !== undefined) env[key] = String(value);
  }
  return env;
}

function lines(stream, handle) {
  let rest = '';
  stream.setEncoding('utf8').on('data', (text) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop();
    for (const line of parts) if (line !== '') handle(line);
  });
  stream.on('end', () => { if (rest !== '') handle(rest); });
}

function parseLog(line) {
  try {
    const value = JSON.parse(line);
    if (value && typeof value === 'object') return value;
  } catch {
    // A panic's text, or a library that writes to stderr itself.
  }
  return { unparsed: line };
}

function portOf(address) {
  const port = Number(String(address).split(':').pop());
  if (!Number.isInteger(port) || port < 1) throw new Error(`the "started" line has no port in ${preview(address)}`);
  return port;
}

function tail(text) {
  return text.length > 8_000 ? `…${text.slice(-8_000)}` : text;
}
