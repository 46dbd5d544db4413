// One panel of the dashboard as markup: a figure, a graph of lines, or states over time.

const PALETTE = ['#7EB26D', '#EAB839', '#6ED0E0', '#EF843C', '#E24D42', '#1F78C1', '#BA43A9', '#705DA0', '#508642', '#CCA300', '#447EBC', '#C15C17'];
const NAMED = { green: '#73BF69', red: '#F2495C', orange: '#FF9830', blue: '#5794F2', yellow: '#FADE2A' };
const LEGEND_LINE = 16;
/** The maximum share of a panel for its legend before the legend scrolls. */
const LEGEND_SHARE = 0.35;
const TITLE = 30;
const AXIS = 16;

const escaped = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const colorOf = (name) => NAMED[name] ?? name;
/** Estimates widths: every character is assumed to be this wide. */
const widthOf = (text, size) => text.length * size * 0.6;

/** `{markup, isEmpty, isCrowded}` of a panel whose queries returned `answers`, in a box of pixels. */
export function panelMarkup({ panel, answers, box, span, annotations }) {
  if (panel.type === 'row') return { markup: `▾ ${escaped(panel.title)}` };
  const series = answers.flatMap(({ target, series: found }) => found.map(({ metric, values }) => ({
    name: legendOf(target.legendFormat, metric),
    points: onTheGrid(values, span),
  }))).map((each, at) => ({ ...each, color: PALETTE[at % PALETTE.length] }));
  const isEmpty = !series.some(({ points }) => points.some(Number.isFinite));
  const draw = { stat, timeseries, 'state-timeline': states }[panel.type];
  if (!draw) throw new Error(`${panel.title}: no drawing for a panel of type ${panel.type}`);
  const heading = `<h2>${escaped(panel.title)}</h2>`;
  if (isEmpty) return { markup: `${heading}<div class="none">No data</div>`, isEmpty };
  const { markup, isCrowded = false } = draw({ panel, series, box, span, annotations });
  return { markup: heading + markup, isEmpty, isCrowded };
}

function legendOf(format, metric) {
  if (format) return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? '').trim();
  return Object.entries(metric).map(([label, value]) => `${label}="${value}"`).join(', ');
}

/** A value for every step, NaN where there is none. */
function onTheGrid(values, { from, to, step }) {
  const points = new Array(Math.round((to - from) / step) + 1).fill(NaN);
  for (const [time, text] of values) points[Math.round((time - from) / step)] = Number(text);
  return points;
}

function stat({ panel, series, box }) {
  const { defaults } = panel.fieldConfig;
  const [{ points }] = series;
  const value = points.findLast(Number.isFinite);
  const mapped = (defaults.mappings ?? []).flatMap(({ options }) => options[String(value)] ?? [])[0];
  const color = colorOf(mapped?.color ?? thresholdColor(defaults.thresholds, value));
  const known = points.filter(Number.isFinite);
  const [low, high] = [Math.min(...known, 0), Math.max(...known)];
  const [top, tall] = [box.height * 0.62, box.height * 0.38];
  const spot = (each, at) => `${((at / (points.length - 1)) * box.width).toFixed(1)},${(top + tall - ((each - low) / (high - low || 1)) * (tall - 4)).toFixed(1)}`;
  const line = points.map((each, at) => (Number.isFinite(each) ? spot(each, at) : undefined)).filter(Boolean);
  const area = line.length > 1 ? `<polygon points="${line[0].split(',')[0]},${box.height} ${line.join(' ')} ${line.at(-1).split(',')[0]},${box.height}" fill="${color}" opacity=".16"/><polyline points="${line.join(' ')}" fill="none" stroke="${color}" opacity=".7"/>` : '';
  const text = mapped?.text ?? inUnit(defaults.unit)(value);
  const size = Math.min(32, (box.width - 16) / widthOf(text, 1.1));
  return { markup: `${canvas(box, area)}<b style="color:${color};font-size:${size.toFixed(1)}px">${escaped(text)}</b>` };
}

function timeseries({ panel, series, box, span, annotations }) {
  const { defaults } = panel.fieldConfig;
  const isStacked = defaults.custom.stacking.mode === 'normal';
  const { lines, isCrowded, markup: legend } = legendMarkup(series, box);
  const curves = isStacked ? stacked(series) : series.map((each) => ({ ...each, floor: undefined }));
  const known = curves.flatMap(({ points }) => points.filter(Number.isFinite));
  const scale = ticks(Math.min(defaults.min ?? Infinity, ...known), Math.max(...known), defaults);
  const format = inUnit(defaults.unit);
  const left = 12 + Math.max(...scale.map((each) => widthOf(format(each), 10.5)));
  const plot = { left, top: TITLE, right: box.width - 10, bottom: box.height - lines * LEGEND_LINE - AXIS - 8 };
  const [low, high] = [scale[0], scale.at(-1)];
  const x = (at) => plot.left + (at / (curves[0].points.length - 1)) * (plot.right - plot.left);
  const y = (value) => plot.bottom - ((value - low) / (high - low)) * (plot.bottom - plot.top);
  const grid = scale.map((value) => `<line x1="${plot.left}" x2="${plot.right}" y1="${y(value)}" y2="${y(value)}" stroke="#2a2d33"/><text x="${plot.left - 6}" y="${y(value) + 4}" text-anchor="end">${escaped(format(value))}</text>`).join('');
  const limits = defaults.custom.thresholdsStyle.mode === 'off' ? '' : defaults.thresholds.steps.filter(({ value }) => value !== null && value >= low && value <= high)
    .map(({ value, color }) => `<line x1="${plot.left}" x2="${plot.right}" y1="${y(value)}" y2="${y(value)}" stroke="${colorOf(color)}" stroke-dasharray="8 6"/>`).join('');
  const opacity = defaults.custom.fillOpacity / 100;
  const bar = Math.max(1, (plot.right - plot.left) / curves[0].points.length);
  const drawn = curves.map(({ points, floor, color }) => (defaults.custom.drawStyle === 'bars' ? points.map((value, at) => {
    const base = y(floor ? floor[at] : Math.max(low, 0));
    return value > (floor?.[at] ?? 0) ? `<rect x="${(x(at) - bar / 2).toFixed(1)}" y="${y(value).toFixed(1)}" width="${bar.toFixed(1)}" height="${(base - y(value)).toFixed(1)}" fill="${color}" opacity="${opacity}"/>` : '';
  }).join('') : runs(points).map((run) => {
    const upper = run.map((at) => `${x(at).toFixed(1)},${y(points[at]).toFixed(1)}`);
    const lower = run.map((at) => `${x(at).toFixed(1)},${y(floor ? floor[at] : Math.max(low, 0)).toFixed(1)}`).reverse();
    return `<polygon points="${[...upper, ...lower].join(' ')}" fill="${color}" opacity="${opacity}"/><polyline points="${upper.join(' ')}" fill="none" stroke="${color}" stroke-width="${defaults.custom.lineWidth + 0.3}"/>`;
  }).join(''))).join('');
  return { markup: canvas(box, marked(annotations, plot, span) + grid + timeAxis(plot, span) + drawn + limits) + legend, isCrowded };
}

/** A bar for each series, in the colour of its value. */
function states({ panel, series, box, span, annotations }) {
  const { defaults } = panel.fieldConfig;
  const left = 14 + Math.max(...series.map(({ name }) => widthOf(name, 10.5)));
  const plot = { left, top: TITLE + 4, right: box.width - 10, bottom: box.height - AXIS - 10 };
  const tall = (plot.bottom - plot.top) / series.length;
  const x = (at) => plot.left + (at / (series[0].points.length - 1)) * (plot.right - plot.left);
  const bars = series.map(({ name, points }, row) => {
    const top = plot.top + row * tall + tall * 0.12;
    const cells = runs(points, (a, b) => points[a] === points[b]).map((run) => {
      const mapped = (defaults.mappings ?? []).flatMap(({ options }) => options[String(points[run[0]])] ?? [])[0];
      const [from, to] = [x(run[0]), x(Math.min(run.at(-1) + 1, points.length - 1))];
      const label = to - from > 30 ? `<text x="${from + 6}" y="${top + tall * 0.38 + 4}" style="fill:#111217">${escaped(mapped?.text ?? points[run[0]])}</text>` : '';
      return `<rect x="${from}" y="${top}" width="${Math.max(1, to - from)}" height="${tall * 0.76}" fill="${colorOf(mapped?.color ?? thresholdColor(defaults.thresholds, points[run[0]]))}" opacity=".8"/>${label}`;
    });
    return `<text x="${left - 6}" y="${top + tall * 0.38 + 4}" text-anchor="end">${escaped(name)}</text>${cells.join('')}`;
  }).join('');
  return { markup: canvas(box, marked(annotations, plot, span) + timeAxis(plot, span) + bars) };
}

const canvas = ({ width, height }, inside) => `<svg width="${width.toFixed(0)}" height="${height.toFixed(0)}">${inside}</svg>`;

function thresholdColor({ steps }, value) {
  return steps.findLast((step) => step.value === null || value >= step.value).color;
}

/** Runs of adjacent points that are numbers and alike. */
function runs(points, alike = () => true) {
  const found = [];
  points.forEach((value, at) => {
    if (!Number.isFinite(value)) return;
    const run = found.at(-1);
    if (run && run.at(-1) === at - 1 && alike(at - 1, at)) run.push(at);
    else found.push([at]);
  });
  return found;
}

function stacked(series) {
  const sum = series[0].points.map(() => 0);
  return series.map((each) => {
    const floor = [...sum];
    const points = each.points.map((value, at) => {
      if (!Number.isFinite(value)) return NaN;
      sum[at] += value;
      return sum[at];
    });
    return { ...each, points, floor };
  });
}

/** A legend with wrapping lines, at most its share of the panel. */
function legendMarkup(series, box) {
  let lines = 1;
  let used = 0;
  for (const { name } of series) {
    const width = widthOf(name, 11) + 28;
    if (used > 0 && used + width > box.width - 12) {
      lines += 1;
      used = 0;
    }
    used += width;
  }
  const most = Math.floor((box.height * LEGEND_SHARE) / LEGEND_LINE);
  const shown = Math.min(lines, most);
  const names = series.map(({ name, color }) => `<span><i style="background:${color}"></i>${escaped(name)}</span> `).join('');
  return { lines: shown, isCrowded: lines > most, markup: `<div class="legend" style="height:${shown * LEGEND_LINE}px">${names}</div>` };
}

/** Round numbers from at most `low` to at least `high`, within the bounds that the panel sets. */
function ticks(low, high, { unit, max, decimals }) {
  const top = max ?? (high > low ? high : low + 1);
  const base = unit === 'bytes' ? 2 ** (10 * Math.floor(Math.log2(Math.max(top, 1)) / 10)) : 1;
  const rough = (top - low) / base / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999) * base;
  if (decimals === 0) step = Math.max(1, Math.round(step));
  const found = [];
  for (let value = Math.floor(low / step) * step, at = 0; at < 12; at += 1) {
    found.push(Number(value.toPrecision(12)));
    if (value >= top - step * 1e-6) break;
    value += step;
  }
  return found;
}

function marked(annotations, plot, { from, to }) {
  const x = (time) => plot.left + ((time - from) / (to - from)) * (plot.right - plot.left);
  return annotations.filter((each) => each.to >= from && each.from <= to).map((each) => {
    const [first, last] = [Math.max(x(each.from), plot.left), Math.min(x(each.to), plot.right)];
    const region = last > first ? `<rect x="${first}" y="${plot.top}" width="${last - first}" height="${plot.bottom - plot.top}" fill="${colorOf(each.color)}" opacity=".1"/>` : '';
    return `${region}<line x1="${first}" x2="${first}" y1="${plot.top}" y2="${plot.bottom}" stroke="${colorOf(each.color)}" stroke-dasharray="3 3" opacity=".75"/>`;
  }).join('');
}

function timeAxis(plot, { from, to }) {
  const step = [5, 10, 15, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 21_600].find((each) => (to - from) / each <= (plot.right - plot.left) / 62) ?? 86_400;
  const marksOf = [];
  for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
    const x = plot.left + ((time - from) / (to - from)) * (plot.right - plot.left);
    const text = new Date(time * 1_000).toISOString().slice(11, step < 60 ? 19 : 16);
    marksOf.push(`<line x1="${x}" x2="${x}" y1="${plot.top}" y2="${plot.bottom}" stroke="#22252b"/>`);
    if (x > plot.left + 16 && x < plot.right - 16) marksOf.push(`<text x="${x}" y="${plot.bottom + 13}" text-anchor="middle">${text}</text>`);
  }
  return marksOf.join('');
}

const number = (value, digits = 3) => String(Number(value.toPrecision(digits)));

/** Formats a value in one of Grafana's units. */
function inUnit(unit) {
  const scaled = (value, sizes) => {
    const size = sizes.findLast(([at]) => Math.abs(value) >= at) ?? sizes[0];
    return `${number(value / size[0])}${size[1]}`;
  };
  const thousands = [[1, ''], [1e3, ' K'], [1e6, ' Mil'], [1e9, ' Bil']];
  switch (unit) {
    case 'locale': return (value) => value.toLocaleString('en-US');
    case 'short': return (value) => scaled(value, thousands);
    case 'ops': return (value) => `${scaled(value, [[1, ''], [1e3, 'K'], [1e6, 'M']])} ops/s`;
    case 'pps': return (value) => scaled(value, [[1, ' p/s'], [1e3, ' kp/s'], [1e6, ' Mp/s']]);
    case 's': return (value) => (value === 0 ? '0 s' : scaled(value, [[1e-9, ' ns'], [1e-6, ' µs'], [1e-3, ' ms'], [1, ' s'], [60, ' min'], [3_600, ' hour'], [86_400, ' day']]));
    case 'dtdhms': return (value) => `${value >= 86_400 ? `${Math.floor(value / 86_400)} d ` : ''}${new Date(value * 1_000).toISOString().slice(11, 19)}`;
    case 'bytes': return (value) => scaled(value, [[1, ' B'], [2 ** 10, ' KiB'], [2 ** 20, ' MiB'], [2 ** 30, ' GiB']]);
    case 'Bps': return (value) => scaled(value, [[1, ' B/s'], [1e3, ' kB/s'], [1e6, ' MB/s'], [1e9, ' GB/s']]);
    case 'percentunit': return (value) => `${number(value * 100)}%`;
    case 'bool_on_off': return (value) => (value === 0 ? 'Off' : 'On');
    default: throw new Error(`no drawing for the unit ${unit}`);
  }
}
