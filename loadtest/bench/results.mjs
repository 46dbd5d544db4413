// The stored results of a run: bench.json, bench.md, and the figures in the documentation.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { ROOT } from './options.mjs';
import { DISTURBED_PERCENT, TOO_BUSY_PERCENT } from './statistics.mjs';
import { asMarkdown, asText, figureTables, number, ratiosOf, scenarioTable, summaryTable } from './table.mjs';

const BEGIN = '<!-- bench:begin -->';
const END = '<!-- bench:end -->';
const PAGE = 'gateway/docs/develop/benchmarks.md';

const SINGLE = {
  columns: ['floor', 'gateway', 'socketioxide-mimalloc', 'socketioxide', 'node-uws', 'node-ws'],
  ratios: [['gateway ÷ floor', 'gateway', 'floor'], ['gateway ÷ Node.js, ws', 'gateway', 'node-ws']],
};
const CROSS = {
  columns: ['gateway-pair', 'gateway', 'socketioxide-mimalloc-pair', 'node-ws-pair'],
  ratios: [['two gateways ÷ one', 'gateway-pair', 'gateway'], ['two gateways ÷ Node.js, ws', 'gateway-pair', 'node-ws-pair']],
};

/** Writes bench.json and bench.md; `run` is what main.mjs knows at the end of a round. */
export function write(directory, run) {
  mkdirSync(directory, { recursive: true });
  const { servers, summary, ...kept } = run;
  const json = {
    ...kept,
    scenarios: summary.map(({ scenario, rows }, at) => ({
      name: scenario.name,
      title: scenario.title,
      flags: scenario.flags,
      figures: scenario.figures,
      medians: Object.fromEntries(rows.map(({ server, spreads }) => [server.name, spreads])),
      ratios: Object.fromEntries(rows.map(({ server }) => [server.name, ratiosOf(summary[at], server)])),
    })),
  };
  writeFileSync(join(directory, 'bench.json'), `${JSON.stringify(json, null, 1)}\n`);
  writeFileSync(join(directory, 'bench.md'), markdown(run));
}

/** All tables for the terminal. */
export function text({ summary, findings }) {
  const blocks = summary.map((one) => `${one.scenario.name}: ${one.scenario.title}\n${asText(scenarioTable(one))}`);
  return [...blocks, ...(findings.length ? [findings.map(({ text: finding }) => finding).join('\n')] : [])].join('\n\n');
}

const across = ({ scenario }) => scenario.alone !== undefined;

/** The speed of Redis itself, if measured, and the circumstances of the measurements. */
function remarks(run) {
  const redis = run.summary.flatMap(({ rows }) => rows).find(({ server }) => server.name === 'redis-benchmark');
  return [
    ...(redis?.spreads.broadcasts_per_s
      ? [`\`redis-benchmark\` alone publishes ${number(redis.spreads.broadcasts_per_s.median)} messages of that size a second, to nobody.`]
      : []),
    circumstances(run),
  ];
}

/** All figures side by side, for bench.md. */
function overview(run) {
  const { summary, servers } = run;
  const part = (chosen, { columns, ratios }) => (chosen.length ? [asMarkdown(summaryTable(chosen, servers, columns, ratios))] : []);
  return [...part(summary.filter((one) => !across(one)), SINGLE), ...part(summary.filter(across), CROSS), ...remarks(run)].join('\n\n');
}

/** The part between the markers of the documentation page: narrow tables. */
export function bookPart(run) {
  const { summary, servers } = run;
  return [
    ...figureTables(summary.filter((one) => !across(one)), servers, SINGLE.columns, 'gateway'),
    ...figureTables(summary.filter(across), servers, CROSS.columns, 'gateway-pair'),
    '### How it was measured',
    // One sentence per line.
    ...remarks(run).map((paragraph) => paragraph.replaceAll('. ', '.\n')),
  ].join('\n\n');
}

/** The page with its marked part replaced. */
export function withPart(page, part) {
  const [from, to] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (from < 0 || to < from) throw new Error(`${PAGE} has no ${BEGIN} … ${END}`);
  return `${page.slice(0, from + BEGIN.length)}\n${part}\n${page.slice(to)}`;
}

export function writeBook(run) {
  const file = join(ROOT, PAGE);
  writeFileSync(file, withPart(readFileSync(file, 'utf8'), bookPart(run)));
}

function markdown(run) {
  const { summary, versions, measurements, findings } = run;
  const { npm, crates } = versions;
  const listed = (all) => Object.entries(all).map(([name, version]) => `${name} ${version ?? '?'}`).join(', ');
  const busy = summary.flatMap(({ scenario, rows }) => rows.filter(({ own_core_percent: own }) => own > TOO_BUSY_PERCENT)
    .map(({ server, own_core_percent: own }) => `${scenario.name} against ${server.title} (${Math.round(own)} %)`));
  return [
    '# Measured',
    'Made by `node loadtest/bench/main.mjs`. All processes of a server on one core, the load on another; medians, and from–to of the rounds.',
    overview(run),
    ...summary.map((one) => `## ${one.scenario.name}\n\n${one.scenario.title}: \`loadtest ${one.scenario.flags.join(' ')}\`\n\n${asMarkdown(scenarioTable(one))}`),
    '## Circumstances',
    [
      `- Gateway at commit ${versions.commit ?? '?'}, rustc ${versions.rustc ?? '?'}; Node.js ${versions.node} with ${listed(npm)}; Redis ${versions.redis ?? '?'}; peer in Rust: ${listed(crates)}.`,
      `- ${measurements.filter(({ repeated }) => repeated).length} of ${measurements.length} measurements were repeated because others used more than ${DISTURBED_PERCENT} % of a core; the less disturbed of both counts.`,
      ...(busy.length ? [`- The tester used more than ${TOO_BUSY_PERCENT} % of its core, so that rates are partly its own: ${busy.join('; ')}.`] : []),
    ].join('\n'),
    ...(findings.length ? ['## Findings (†)', findings.map(({ text: finding }) => `- ${finding.replaceAll('\n', ' ')}`).join('\n')] : []),
  ].join('\n\n').concat('\n');
}

/** One paragraph: machine, date, noise, faults. */
function circumstances({ machine, date, rounds, noise, findings, measurements }) {
  const { cpu, cores, memory_gib: memory, kernel } = machine;
  const faults = findings.filter(({ disturbed }) => !disturbed);
  const disturbed = findings.length - faults.length;
  return [
    `${cores} cores (${cpu}), ${memory} GiB, ${kernel}, loopback; ${rounds === 1 ? 'one round' : `medians of ${rounds} interleaved rounds`}, ${date.slice(0, 10)}.`,
    ...(noise ? [`From round to round ±${number(noise.typical_percent)} % (the widest ±${number(noise.widest_percent)} %).`] : []),
    ...(disturbed ? [`${disturbed} of ${measurements.length} measurements were disturbed by other processes.`] : []),
    faults.length
      ? `Not all went well: ${faults.map(({ text: finding }) => finding.split('\n')[0]).join('; ')}.`
      : 'No delivery was lost, repeated, reordered or misrouted by anyone.',
  ].join(' ');
}
