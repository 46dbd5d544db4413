// Tables of summarised measurements, for the terminal and for Markdown.

import { ratio } from './statistics.mjs';

export const NONE = '–';

/** Three significant digits, thousands as k and M; bytes in full. */
export function number(value, unit = '') {
  if (value === undefined || value === null) return NONE;
  if (unit === 'bytes') return Math.round(value).toLocaleString('en');
  const size = Math.abs(value);
  const [scaled, suffix] = size >= 999_500 ? [value / 1e6, ' M'] : size >= 9_995 ? [value / 1e3, ' k'] : [value, ''];
  const scale = Math.abs(scaled);
  const decimals = scale >= 99.95 ? 0 : scale >= 9.995 ? 1 : scale >= 0.9995 ? 2 : 3;
  return `${scaled.toFixed(decimals)}${suffix}`;
}

/** A number with its unit. */
export const quantity = (value, unit) => [number(value, unit), value === undefined ? '' : unit].filter(Boolean).join(' ');

/** The median, and the ends where there were several rounds. */
export function withEnds(spread, unit) {
  if (!spread) return NONE;
  const { median, min, max, n } = spread;
  return n > 1 ? `${number(median, unit)} (${number(min, unit)}–${number(max, unit)})` : number(median, unit);
}

const times = (value) => (value === undefined ? NONE : number(value));

/** The median of one figure of one server in a summarised scenario. */
export const medianOf = ({ rows }, name, path) => rows.find(({ server }) => server.name === name)?.spreads[path]?.median;

/** The servers that a scenario's first figure is compared with: [title, server], if measured. */
export function references({ scenario, rows }) {
  const wanted = scenario.alone
    ? [['own single node', 'gateway'], ['Node.js, ws', 'node-ws-pair']]
    : [['floor', 'floor'], ['Node.js, ws', 'node-ws']];
  return wanted.filter(([, name]) => name !== 'floor' || scenario.beside === undefined)
    .filter(([, name]) => rows.some(({ server }) => server.name === name));
}

/** All figures of a scenario: a head and a row for each server, as texts; † marks servers with findings. */
export function scenarioTable(summarised) {
  const { scenario, rows } = summarised;
  const [first, ...others] = scenario.figures;
  const compared = references(summarised);
  const named = ({ title, unit }) => (unit && unit !== 'bytes' ? `${title}, ${unit}` : title);
  return {
    head: ['server', named(first), ...compared.map(([title]) => `÷ ${title}`), ...others.map(named)],
    rows: rows.map(({ server, spreads, faulty }) => [
      faulty ? `${server.title} †` : server.title,
      withEnds(spreads[first.path], first.unit),
      ...compared.map(([title]) => times(ratiosOf(summarised, server)[title])),
      ...others.map(({ path, unit }) => withEnds(spreads[path], unit)),
    ]),
  };
}

/** Ratios of a server's first figure to those of the references, by their titles. */
export function ratiosOf(summarised, server) {
  const { path } = summarised.scenario.figures[0];
  // A pair of another family has no single node of its own in a scenario across nodes.
  const comparable = (name) => name !== 'gateway' || server.family === 'gateway';
  return Object.fromEntries(references(summarised).map(([title, name]) => [
    title, comparable(name) ? ratio(medianOf(summarised, server.name, path), medianOf(summarised, name, path)) : undefined,
  ]));
}

/** A heading and a small table for each scenario and figure of the book: the medians of `columns` (server names). */
export function figureTables(summary, servers, columns, own) {
  return summary.flatMap((summarised) => summarised.scenario.summary.map(({ path, title, unit }) => {
    const measured = columns.filter((name) => medianOf(summarised, name, path) !== undefined);
    const rows = measured.map((name) => {
      const median = medianOf(summarised, name, path);
      return [servers.get(name).title, quantity(median, unit), times(ratio(median, medianOf(summarised, own, path)))];
    });
    const head = ['server', 'measured', `÷ ${servers.get(own).title}`];
    return `### ${summarised.scenario.title}: ${title}\n\n${asMarkdown({ head, rows })}`;
  }));
}

/**
 * One row for each scenario and figure that `bench.md` sums up: the medians of `columns` (server names), and the ratios
 * of one server to others (`[title, server, to]`).
 */
export function summaryTable(summary, servers, columns, ratios) {
  const measured = columns.filter((name) => summary.some(({ rows }) => rows.some(({ server }) => server.name === name)));
  const compared = ratios.filter(([, ...names]) => names.every((name) => measured.includes(name)));
  return {
    head: ['scenario', ...measured.map((name) => servers.get(name).title), ...compared.map(([title]) => title)],
    rows: summary.flatMap((summarised) => summarised.scenario.summary.map(({ path, title, unit }) => [
      `${summarised.scenario.title}: ${title}`,
      ...measured.map((name) => quantity(medianOf(summarised, name, path), unit)),
      ...compared.map(([, name, to]) => (summarised.scenario.beside && to !== summarised.scenario.beside
        ? NONE
        : times(ratio(medianOf(summarised, name, path), medianOf(summarised, to, path))))),
    ])),
  };
}

/** A table in columns for the terminal. */
export function asText({ head, rows }) {
  const lines = [head, ...rows];
  const widths = head.map((_, at) => Math.max(...lines.map((line) => [...line[at]].length)));
  const padded = (text, at) => (at ? text.padStart(widths[at] + text.length - [...text].length) : text.padEnd(widths[at]));
  return lines.map((line) => line.map(padded).join('  ').trimEnd()).join('\n');
}

/** A table in Markdown. */
export function asMarkdown({ head, rows }) {
  const line = (cells) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}
