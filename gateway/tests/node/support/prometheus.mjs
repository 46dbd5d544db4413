// A private Prometheus on a free port, and its tool.

import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { temporaryDirectory } from './gateway.mjs';
import { freePort } from './ports.mjs';
import { eventually, within } from './wait.mjs';

const INSTALL = 'Prometheus is not installed: run `apt-get install prometheus`';

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Starts a server that asks `targets` (`host:port`) for their metrics every `interval`, as the job `job`, and evaluates the
 * rules of the file `rules`, if any: `{query(expression), range(expression, {from, to, step}), get(path), stop()}`. For several
 * jobs there are `scrapes`, as in its configuration.
 */
export async function startPrometheus({ targets, job, rules = undefined, interval = '1s', scrapes = [{ job_name: job, static_configs: [{ targets }] }] }) {
  const directory = temporaryDirectory();
  const config = join(directory, 'prometheus.yml');
  // JSON is YAML.
  writeFileSync(config, JSON.stringify({
    global: { scrape_interval: interval, evaluation_interval: interval },
    rule_files: rules ? [rules] : [],
    scrape_configs: scrapes,
  }));
  const port = await freePort();
  const child = spawn('prometheus', [
    `--config.file=${config}`, `--storage.tsdb.path=${join(directory, 'data')}`, `--web.listen-address=127.0.0.1:${port}`, '--log.level=warn',
  ], { cwd: directory, stdio: ['ignore', 'ignore', 'pipe'] });
  running.add(child);
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text) => { log += text; });
  let failure;
  child.on('error', (error) => { failure = error.code === 'ENOENT' ? new Error(INSTALL) : error; });
  const exited = onceEvent(child, 'close').catch(() => {}).finally(() => running.delete(child));

  /** The data of an answer of its API, below `/api/v1/`. */
  const get = async (path) => {
    const response = await fetch(`http://127.0.0.1:${port}/api/v1/${path}`);
    const { status, data, error } = await response.json();
    if (status !== 'success') throw new Error(`${path}: ${error}`);
    return data;
  };
  const stop = async () => {
    child.kill('SIGKILL');
    await within(exited, 10_000, 'the end of Prometheus');
  };
  const isUp = async () => failure ?? (child.exitCode !== null || (await fetch(`http://127.0.0.1:${port}/-/ready`)).ok);
  await eventually(isUp, { timeout: 30_000, what: 'Prometheus to be ready' });
  if (failure) throw failure;
  if (child.exitCode !== null) throw new Error(`Prometheus ended: ${log}`);
  return {
    get,
    stop,
    /** What an expression answers now: `[{metric, value: [time, text]}, …]`. */
    query: async (expression) => (await get(`query?query=${encodeURIComponent(expression)}`)).result,
    /** What it answered at every step of a time (in seconds): `[{metric, values: [[time, text], …]}, …]`. */
    range: async (expression, { from, to, step }) => (await get(`query_range?${new URLSearchParams({ query: expression, start: from, end: to, step })}`)).result,
  };
}

/** Runs `promtool <args>` with `input`: `{code, output}`. */
export async function promtool(args, input = '') {
  const child = spawn('promtool', args, { stdio: ['pipe', 'pipe', 'pipe'] });
  running.add(child);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => { output += text; });
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const ended = onceEvent(child, 'close').catch((error) => { throw error.code === 'ENOENT' ? new Error(INSTALL) : error; });
  const [code] = await within(ended, 30_000, `the end of \`promtool ${args.join(' ')}\``).finally(() => running.delete(child));
  return { code, output };
}
