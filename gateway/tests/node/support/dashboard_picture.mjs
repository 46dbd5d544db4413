// The dashboard in Grafana's layout, drawn from a real Prometheus: one page of SVG, and a picture of it. It shows what
// an on-call engineer sees without a Grafana: grid, rows, legends, units, thresholds and annotations come from the
// file.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { launchBrowser } from './browser.mjs';
import { DASHBOARD, filled } from './dashboard.mjs';
import { panelMarkup } from './dashboard_panel.mjs';

const WIDTH = 1_720;
const COLUMNS = 24;
const CELL = 30;
const GAP = 8;
const HEAD = 44;
/** Points of a graph: about as many as it has pixels. */
const POINTS = 320;

/**
 * Runs every query of the dashboard over `from`–`to` (milliseconds) and draws the panels into `directory`, as
 * `dashboard.html` and `dashboard.png`: `{html, png, empty, crowded}`, the titles of the panels without data, and of
 * those whose legend exceeds its share of the panel. `scrape` is the number of seconds between two scrapes.
 */
export async function drawDashboard({ prometheus, job, from, to, directory, scrape = 1 }) {
  const step = Math.max(scrape, Math.ceil((to - from) / 1_000 / POINTS));
  const span = { from: Math.floor(from / 1_000 / step) * step, to: Math.ceil(to / 1_000 / step) * step, step };
  const rateInterval = `${Math.max(step + scrape, 4 * scrape)}s`;
  const ask = (expr) => prometheus.range(filled(expr, { job, rateInterval }), span);
  const annotations = (await Promise.all(DASHBOARD.annotations.list.map(async (each) => marks(each, await ask(each.expr), span)))).flat();

  const [empty, crowded] = [[], []];
  const panels = await Promise.all(DASHBOARD.panels.map(async (panel) => {
    const box = place(panel.gridPos);
    const answers = await Promise.all((panel.targets ?? []).map(async (target) => ({ target, series: await ask(target.expr) })));
    const { markup, isEmpty, isCrowded } = panelMarkup({ panel, answers, box, span, annotations });
    if (isEmpty) empty.push(panel.title);
    if (isCrowded) crowded.push(panel.title);
    return `<section class="${panel.type}" style="left:${box.x}px;top:${box.y}px;width:${box.width}px;height:${box.height}px">${markup}</section>`;
  }));
  const height = Math.max(...DASHBOARD.panels.map(({ gridPos }) => place(gridPos)).map(({ y, height: tall }) => y + tall)) + GAP;
  const html = join(directory, 'dashboard.html');
  const png = join(directory, 'dashboard.png');
  const when = (time) => new Date(time * 1_000).toISOString().slice(0, 19).replace('T', ' ');
  writeFileSync(html, `<!doctype html><meta charset="utf-8"><title>${DASHBOARD.title}</title><style>${STYLE}</style>
<body style="width:${WIDTH}px;height:${height}px"><h1>${DASHBOARD.title}<small>${when(span.from)} to ${when(span.to)} UTC, a point every ${step} s, rates over ${rateInterval}</small></h1>
${panels.join('\n')}\n`);
  const browser = await launchBrowser();
  try {
    const page = await browser.newPage({ viewport: { width: WIDTH, height } });
    await page.goto(pathToFileURL(html).href);
    await page.screenshot({ path: png });
  } finally {
    await browser.close();
  }
  return { html, png, empty, crowded };
}

/** The position of a panel in pixels. */
function place({ x, y, w, h }) {
  const column = (WIDTH - 2 * GAP - (COLUMNS - 1) * GAP) / COLUMNS;
  return {
    x: GAP + x * (column + GAP),
    y: HEAD + y * (CELL + GAP),
    width: w * column + (w - 1) * GAP,
    height: h * CELL + (h - 1) * GAP,
  };
}

/** The marks of an annotation: moments, or runs of adjacent points. */
function marks({ useValueForTime, iconColor }, series, { step }) {
  const found = [];
  for (const { values } of series) {
    if (useValueForTime) {
      for (const text of new Set(values.map(([, value]) => value))) found.push({ color: iconColor, from: Number(text) / 1_000, to: Number(text) / 1_000 });
      continue;
    }
    for (const [time] of values) {
      const last = found.at(-1);
      if (last && last.series === values && time - last.to <= step) last.to = time;
      else found.push({ color: iconColor, from: time, to: time, series: values });
    }
  }
  return found;
}

const STYLE = `
*{box-sizing:border-box;margin:0}
body{position:relative;background:#111217;color:#ccccdc;font:12px "DejaVu Sans",sans-serif}
h1{position:absolute;left:10px;top:9px;font-size:19px;font-weight:600}
h1 small{font-size:12px;font-weight:400;color:#9a9ba8;margin-left:16px}
section{position:absolute;background:#181b1f;border:1px solid #2a2d33;border-radius:2px;overflow:hidden}
section.row{background:none;border:0;font-size:14px;font-weight:600;padding:7px 4px}
h2{position:absolute;left:8px;top:6px;font-size:12.5px;font-weight:600;white-space:nowrap}
svg{position:absolute;left:0;top:0}
svg text{fill:#9a9ba8;font-size:10.5px}
.stat b{position:absolute;left:0;right:0;top:28px;text-align:center;line-height:40px;font-weight:600;white-space:nowrap}
.legend{position:absolute;left:8px;right:4px;bottom:4px;overflow:hidden;font-size:11px;line-height:16px;color:#b6b7c4}
.legend span{white-space:nowrap;margin-right:11px}
.legend i{display:inline-block;width:12px;height:4px;border-radius:2px;margin-right:4px;vertical-align:middle}
.none{position:absolute;left:0;right:0;top:45%;text-align:center;color:#9a9ba8}
`;
