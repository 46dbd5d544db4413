// The runner behind `make bench`; see --help.

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { machine, versions } from './machine.mjs';
import { measure } from './measure.mjs';
import { HELP, readOptions } from './options.mjs';
import { stopRunning, whenInterrupted } from './processes.mjs';
import { Progress } from './progress.mjs';
import { text, write, writeBook } from './results.mjs';
import { scenarios as allScenarios } from './scenarios.mjs';
import { FAMILIES, OURS, SERVERS } from './servers.mjs';
import { findings, noise, summarise } from './statistics.mjs';

const isOurs = (name) => OURS.includes(SERVERS.get(name).family);
const say = (line) => process.stderr.write(`${line}\n`);

/** All measurements in order: by round, then by scenario, then by server. */
function planned({ rounds, servers }, scenarios) {
  return Array.from({ length: rounds }, (_, at) => scenarios.flatMap((scenario) => scenario.servers
    .map((name) => SERVERS.get(name))
    .filter(({ family }) => servers.includes(family))
    .map((server) => ({ round: at + 1, rounds, scenario, server })))).flat();
}

async function main() {
  const options = readOptions(process.argv.slice(2), process.env, FAMILIES);
  if (options.help) {
    process.stdout.write(HELP.replace('SERVERS', FAMILIES.join(', ')));
    return 0;
  }
  const scenarios = allScenarios(options).filter(({ name }) => options.only.test(name));
  const plan = planned(options, scenarios);
  if (!plan.length) throw new Error('no scenario and server are both wanted');
  for (const binary of [options.gateway, options.loadtest]) {
    if (!existsSync(binary)) throw new Error(`no ${binary}: cargo build --release --workspace`);
  }

  const work = mkdtempSync(join(tmpdir(), 'muster-bench-'));
  let servers;
  let brokenOff = false;
  const interrupted = async () => {
    brokenOff = true;
    stopRunning();
    await servers?.stop();
    rmSync(work, { recursive: true, force: true });
    process.exit(130);
  };
  whenInterrupted(interrupted);
  const track = (started) => {
    if (brokenOff) throw new Error('broken off');
    servers = started;
  };

  const about = { date: new Date().toISOString(), machine: machine(), versions: versions() };
  const measurements = [];
  const amount = (rounds) => {
    const summary = summarise(scenarios, SERVERS, measurements);
    return { ...about, rounds, measurements, servers: SERVERS, summary, noise: noise(summary), findings: findings(measurements, isOurs) };
  };
  const progress = new Progress(plan, options.duration);
  for (const [at, { round, scenario, server }] of plan.entries()) {
    say(progress.next());
    const began = Date.now();
    const found = await measure(scenario, server, { options, work, track });
    if (brokenOff) return 130;
    progress.took((Date.now() - began) / 1000);
    measurements.push({ round, scenario: scenario.name, server: server.name, ...found });
    for (const { text: finding } of findings(measurements.slice(-1), () => false)) say(finding);
    // Written after each round, so that an aborted round loses little.
    if (plan[at + 1]?.round !== round) write(options.out, amount(round));
  }
  rmSync(work, { recursive: true, force: true });

  const run = amount(options.rounds);
  process.stdout.write(`${text(run)}\n`);
  if (options.book) writeBook(run);
  say(`written: ${join(options.out, 'bench.json')} and bench.md${options.book ? ', and the figures of the book' : ''}`);
  return run.findings.some(({ ours }) => ours) ? 1 : 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  say(error.message);
  process.exitCode = 2;
}
