// A private PostgreSQL server on a free port, for tests that need one or make it unavailable.

import { execFile, execFileSync, spawn } from 'node:child_process';
import { chmodSync, chownSync, copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { temporaryDirectory } from './gateway.mjs';
import { freePort } from './ports.mjs';
import { once, within } from './wait.mjs';

const INSTALL = 'PostgreSQL is not installed: run `apt-get install postgresql` (or put initdb and postgres on the PATH)';

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGQUIT');
});

/**
 * Starts a server: `{url, port, kill(), restart(), freeze(), thaw()}`. `kill` ends it at once and keeps the data;
 * `restart` starts it again with them. A frozen server keeps its connections and answers nothing. With `tls` (`{cert,
 * key}`, PEM files) it refuses connections without TLS. With `logStatements`, `statements` contains every received
 * statement in order.
 */
export async function startPostgres({ port: wanted, tls, logStatements = false } = {}) {
  const { initdb, postgres } = binaries();
  const port = wanted ?? (await freePort());
  const parent = temporaryDirectory();
  const data = join(parent, 'postgres');
  mkdirSync(data, { mode: 0o700 });
  // The server refuses to run as root; then it runs as the account that its package created.
  const account = process.getuid() === 0 ? packageAccount() : {};
  if (account.uid !== undefined) {
    chmodSync(parent, 0o755);
    chownSync(data, account.uid, account.gid);
  }
  // Texts are sorted as in most installations, with punctuation before letters and digits. It takes a second or more,
  // during which this process must serve the clients of other tests.
  await promisify(execFile)(initdb, ['-D', data, '-A', 'trust', '-U', 'postgres', '--no-sync', '-E', 'UTF8', '--locale', 'C', '--locale-provider', 'icu', '--icu-locale', 'en-US'], { ...account, cwd: data });

  const settings = [];
  if (tls) {
    for (const [name, file] of Object.entries(tls)) {
      const own = join(data, `server.${name}`);
      copyFileSync(file, own);
      chmodSync(own, 0o600);
      if (account.uid !== undefined) chownSync(own, account.uid, account.gid);
      settings.push('-c', `ssl_${name}_file=${own}`);
    }
    settings.push('-c', 'ssl=on');
    writeFileSync(join(data, 'pg_hba.conf'), 'hostssl all all 127.0.0.1/32 trust\n');
  }

  if (logStatements) settings.push('-c', 'log_statement=all', '-c', 'log_line_prefix=');

  const server = { statements: [], url: `postgres://postgres@127.0.0.1:${port}/postgres`, port };
  let child;
  let exited;
  const run = async () => {
    child = spawn(postgres, ['-D', data, '-p', String(port), '-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories=', '-c', 'fsync=off', ...settings], { ...account, cwd: data, stdio: ['ignore', 'ignore', 'pipe'] });
    running.add(child);
    let log = '';
    const started = child;
    exited = new Promise((resolve) => { started.on('close', () => { running.delete(started); resolve(); }); });
    const ready = new Promise((resolve, reject) => {
      started.on('error', reject);
      started.stderr.setEncoding('utf8').on('data', (text) => {
        log += text;
        if (logStatements) {
          const lines = log.split('\n');
          log = lines.pop();
          for (const line of lines) {
            const statement = /^LOG: {2}(?:statement|execute [^:]*): (.*)/.exec(line);
            if (statement) server.statements.push(statement[1]);
          }
          log = `${lines.join('\n').slice(-1_000)}\n${log}`.replace(/^LOG: {2}(statement|execute).*$/gm, '');
        }
        if (/ready to accept connections/.test(log)) resolve();
      });
      exited.then(() => reject(new Error(`PostgreSQL ended: ${log}`)));
    });
    ready.catch(() => {});
    await within(ready, 20_000, 'PostgreSQL to be ready');
  };
  /** The server and its processes, one for each connection. */
  const processes = () => [child.pid, ...readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)];
  const signalAll = (signal) => {
    for (const pid of processes()) {
      try {
        process.kill(pid, signal);
      } catch (error) {
        // A connection's process may have ended meanwhile.
        if (error.code !== 'ESRCH') throw error;
      }
    }
  };
  /** The ids of its processes, its own first. */
  server.pids = processes;
  server.freeze = () => signalAll('SIGSTOP');
  server.thaw = () => signalAll('SIGCONT');
  /** Ends the server at once (no checkpoint, connections cut). */
  server.kill = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    server.thaw();
    child.kill('SIGQUIT');
    await within(exited, 10_000, 'the end of PostgreSQL');
  };
  server.restart = run;
  await run();
  return server;
}

/** `psql` on a server with a transaction that stays open, and thus holds its locks, until `end()`. */
export function holdLock(url, statement) {
  const child = spawn('psql', ['-X', '-q', '-d', url], { stdio: ['pipe', 'pipe', 'inherit'] });
  const held = once(child.stdout, 'data', { timeout: 10_000 });
  child.stdin.write(`BEGIN; ${statement};\n\\echo held\n`);
  held.catch(() => child.kill());
  return held.then(() => ({ end: () => { child.stdin.end('ROLLBACK;\n'); return once(child, 'exit'); } }));
}

/** The result of a statement as text: one line per row. */
export function query(url, statement) {
  return execFileSync('psql', ['-X', '-q', '-A', '-t', '-d', url, '-c', statement], { encoding: 'utf8' }).trim();
}

function binaries() {
  const folders = (process.env.PATH ?? '').split(':');
  const packaged = '/usr/lib/postgresql';
  if (existsSync(packaged)) {
    const versions = readdirSync(packaged).sort((a, b) => Number(b) - Number(a));
    folders.push(...versions.map((version) => join(packaged, version, 'bin')));
  }
  const folder = folders.find((candidate) => existsSync(join(candidate, 'initdb')) && existsSync(join(candidate, 'postgres')));
  if (!folder) throw new Error(INSTALL);
  return { initdb: join(folder, 'initdb'), postgres: join(folder, 'postgres') };
}

function packageAccount() {
  const id = (flag) => {
    try {
      return Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
    } catch (cause) {
      throw new Error(`there is no account 'postgres' to run the server as. ${INSTALL}`, { cause });
    }
  };
  return { uid: id('-u'), gid: id('-g') };
}
