// Summarises the measurements of several rounds.

/** From this share of a core on, other processes disturb a measurement. */
export const DISTURBED_PERCENT = 12;
/** From this share of its core on, the tester may limit the results. */
export const TOO_BUSY_PERCENT = 90;

/** The median, minimum and maximum; undefined without values. */
export function spread(values) {
  if (!values.length) return undefined;
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length / 2;
  const median = sorted.length % 2 ? sorted[Math.floor(half)] : (sorted[half - 1] + sorted[half]) / 2;
  return { median, min: sorted[0], max: sorted.at(-1), n: sorted.length };
}

/** `value / other`; undefined if one of them is missing or `other` is 0. */
export const ratio = (value, other) => (value === undefined || !other ? undefined : value / other);

/** CPU time of other processes and stolen time, in percent of a core; 0 if not measured. */
export const disturbance = ({ load }) => (load?.others_core_percent ?? 0) + (load?.steal_percent ?? 0);

/**
 * The spreads of every figure of every server in every scenario that was measured, in their order:
 * `{scenario, rows: [{server, spreads, faulty, own_core_percent}]}`.
 */
export function summarise(scenarios, servers, measurements) {
  return scenarios.map((scenario) => {
    const rows = scenario.servers.filter((name) => servers.has(name)).map((name) => {
      const its = measurements.filter((one) => one.scenario === scenario.name && one.server === name);
      const good = its.filter(({ failure }) => !failure);
      const spreads = Object.fromEntries(scenario.figures.map(({ path }) => [
        path, spread(good.map(({ figures }) => figures[path]).filter((value) => value !== undefined)),
      ]));
      const own = spread(good.map(({ load }) => load?.own_core_percent).filter((value) => value !== undefined));
      const faulty = its.some(({ faults, failure }) => faults || failure);
      return { server: servers.get(name), measured: its.length, spreads, faulty, own_core_percent: own?.median };
    });
    return { scenario, rows: rows.filter(({ measured }) => measured) };
  }).filter(({ rows }) => rows.length);
}

/** From round to round, half of max − min in percent of the median: the typical one of the first figures, and the widest. */
export function noise(summary) {
  const all = summary.flatMap(({ scenario, rows }) => rows.map(({ spreads }) => spreads[scenario.figures[0].path]))
    .filter((one) => one && one.n > 1 && one.median)
    .map(({ median, min, max }) => (50 * (max - min)) / Math.abs(median));
  const over = spread(all);
  return over && { typical_percent: over.median, widest_percent: over.max };
}

/** Remarks on single measurements, as sentences; `isOurs` selects those that fail the run. */
export function findings(measurements, isOurs) {
  return measurements.flatMap(({ round, scenario, server, faults, failure, load, repeated }) => {
    const where = `${scenario}, ${server}, round ${round}`;
    const ours = isOurs(server);
    const found = [];
    if (failure) found.push({ ours, text: `${where}: not measured: ${failure}` });
    if (faults) {
      const counts = Object.entries(faults).map(([kind, count]) => `${kind} ${count}`).join(', ') || 'as the tester says';
      found.push({ ours, text: `${where}: faults: ${counts}` });
    }
    if (repeated && disturbance({ load }) > DISTURBED_PERCENT) {
      found.push({ ours: false, disturbed: true, text: `${where}: disturbed twice; others used ${Math.round(disturbance({ load }))} % of a core in the better` });
    }
    return found;
  });
}
