// A private Prometheus on a free port, and its tool.

import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { temporaryDirectory } from './gateway.mjs';
import { freePort } from './ports.mjs';
import { answers, startProgram } from './program.mjs';
import { within } from './wait.mjs';

const INSTALL = 'Prometheus is not installed: run `apt-get install prometheus`';

const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Starts a server that scrapes `targets` (`host:port`) every `interval`, as the job `job`, and evaluates the rules of
 * the file `rules`, if given: `{query(expression), range(expression, {from, to, step}), get(path), stop()}`. For
 * several jobs pass `scrapes`, as in its configuration.
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
  /** The data of an answer of its API, below `/api/v1/`. */
  const get = async (path) => {
    const response = await fetch(`http://127.0.0.1:${port}/api/v1/${path}`);
    const { status, data, error } = await response.json();
    if (status !== 'success') throw new Error(`${path}: ${error}`);
    return data;
  };
  const stop = await startProgram({
    name: 'Prometheus',
    install: INSTALL,
    command: 'prometheus',
    args: [`--config.file=${config}`, `--storage.tsdb.path=${join(directory, 'data')}`, `--web.listen-address=127.0.0.1:${port}`, '--log.level=warn'],
    options: { cwd: directory },
    isUp: () => answers(`http://127.0.0.1:${port}/-/ready`),
    timeout: 30_000,
  });
  return {
    get,
    stop,
    /** The current value of an expression: `[{metric, value: [time, text]}, …]`. */
    query: async (expression) => (await get(`query?query=${encodeURIComponent(expression)}`)).result,
    /** Its values at every step of a period (in seconds): `[{metric, values: [[time, text], …]}, …]`. */
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
