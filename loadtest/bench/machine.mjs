// The environment of the measurements: the machine and the versions.

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';

import { ROOT } from './options.mjs';

const PEERS = join(ROOT, 'loadtest/peers');
const NPM = ['socket.io', 'engine.io', 'ws', 'uWebSockets.js', '@socket.io/redis-adapter', 'redis'];
const CRATES = ['socketioxide', 'socketioxide-redis', 'axum', 'tokio', 'mimalloc', 'redis'];

export function machine() {
  const [{ model }] = cpus();
  return { cpu: model.trim(), cores: cpus().length, memory_gib: Math.round(totalmem() / 2 ** 30), kernel: `Linux ${/^\d+\.\d+/.exec(release())}` };
}

/** A version that cannot be determined is null; measuring goes on without it. */
export function versions() {
  const commit = said('git', ['-C', ROOT, 'rev-parse', '--short=10', 'HEAD']);
  const changed = said('git', ['-C', ROOT, 'status', '--porcelain', '--untracked-files=no', '--', ':!gateway/docs/develop/benchmarks.md', ':!loadtest/results']);
  return {
    commit: commit && changed ? `${commit}, with changes` : commit,
    node: process.version,
    rustc: said('rustc', ['--version'])?.split(' ')[1],
    redis: /v=(\S+)/.exec(said('redis-server', ['--version']) ?? '')?.[1] ?? null,
    npm: Object.fromEntries(NPM.map((name) => [name, npmVersion(name)])),
    crates: crateVersions(readFileSync(join(PEERS, 'socketioxide/Cargo.lock'), 'utf8')),
  };
}

/** The versions of the crates that matter in a Cargo.lock. */
export function crateVersions(lock) {
  const all = [...lock.matchAll(/^name = "(.+)"\nversion = "(.+)"$/gm)].map(([, name, version]) => [name, version]);
  return Object.fromEntries(CRATES.map((name) => [name, all.find(([found]) => found === name)?.[1] ?? null]));
}

function npmVersion(name) {
  try {
    return JSON.parse(readFileSync(join(PEERS, 'node/node_modules', name, 'package.json'), 'utf8')).version;
  } catch {
    return null;
  }
}

function said(command, args) {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return null;
  }
}
