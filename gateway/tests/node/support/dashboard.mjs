// The chart's dashboard, and its queries as Grafana would send them.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const FILE = fileURLToPath(new URL('../../../../charts/muster/files/dashboard.json', import.meta.url));

export const DASHBOARD = JSON.parse(readFileSync(FILE, 'utf8'));

/** The panels with queries; the others are headings. */
export const PANELS = DASHBOARD.panels.filter(({ type }) => type !== 'row');

/**
 * An expression of the dashboard with every node of `job` selected, and `rateInterval` as Grafana derives it from a
 * point's width.
 */
export function filled(expression, { job, rateInterval = '15s' }) {
  const values = { $__rate_interval: rateInterval, $job: job, $instance: '.*' };
  const text = expression.replace(/\$(?:__rate_interval|job|instance)\b/g, (name) => values[name]);
  assert.ok(!text.includes('$'), `an unknown variable in ${expression}`);
  return text;
}
