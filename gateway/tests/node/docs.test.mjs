// The documentation at `/docs`: every page and every link works, in a browser, on a phone, in dark mode, without the
// internet. Screenshots go to the directory `SCREENSHOTS`.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { launchBrowser } from './support/browser.mjs';
import { bounded } from './support/clients.mjs';
import { startGateway, temporaryDirectory } from './support/gateway.mjs';
import { packageFile } from './support/packages.mjs';

const SCREENSHOTS = process.env.SCREENSHOTS ?? tmpdir();
const DESKTOP = { viewport: { width: 1280, height: 900 } };
const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };

let gateway;
before(async () => { gateway = await startGateway(); });
after(() => gateway?.stop());

const get = (path, headers = {}) => fetch(`${gateway.url}${path}`, { headers });

describe('the documentation', () => {
  test('has no broken link to a page, picture or heading of its own', { timeout: 120_000 }, async () => {
    const pages = new Map();
    const [waiting, other] = [['/docs'], new Set()];
    while (waiting.length > 0) {
      const path = waiting.pop();
      if (pages.has(path)) continue;
      const answer = await get(path);
      assert.equal(answer.status, 200, path);
      const html = await answer.text();
      pages.set(path, html);
      for (const [, target] of html.matchAll(/(?:href|src)="([^"]+)"/g)) {
        const [to] = target.split('#');
        if (/^https?:|^mailto:/.test(target) || to === '') continue;
        assert.ok(to.startsWith('/'), `${path}: ${target}`);
        if (/^\/docs(?!.*\.\w+$)/.test(to)) waiting.push(to);
        else other.add(to);
      }
    }
    assert.ok(pages.size > 80, `${pages.size} pages`);
    for (const [path, html] of pages) {
      for (const [, target] of html.matchAll(/href="([^"]*#[^"]+)"/g)) {
        const [to, anchor] = target.split('#');
        if (/^https?:/.test(to)) continue;
        const page = pages.get(to === '' ? path : to);
        if (page !== undefined) assert.ok(page.includes(`id="${decodeURIComponent(anchor)}"`), `${path}: ${target}`);
      }
    }
    await bounded(other.size, 4, async (at) => {
      const path = [...other][at];
      assert.equal((await get(path)).status, 200, path);
    });
  });

  test('finds headings by the search index', async () => {
    const index = await (await get('/docs/search.json')).json();
    for (const [heading, url] of [['PING_INTERVAL', '/docs/reference/settings#ping_interval'], ['MusterRedisDown', '/docs/operate/alerts/MusterRedisDown']]) {
      assert.equal(index.find((entry) => entry.heading === heading)?.url, url);
    }
  });

  test('is cached by its ETag, and loads nothing from other hosts', async () => {
    for (const path of ['/docs', '/docs/start/install', '/docs/search.json', '/docs/book.css', '/docs/operate/dashboard.png']) {
      const first = await get(path);
      const again = await get(path, { 'If-None-Match': first.headers.get('etag') });
      assert.deepEqual([first.status, again.status], [200, 304], path);
      assert.equal(first.headers.get('x-content-type-options'), 'nosniff');
    }
    const answer = await get('/docs');
    assert.equal(answer.headers.get('content-security-policy'), (await get('/')).headers.get('content-security-policy'));
    assert.equal(answer.headers.get('referrer-policy'), 'no-referrer');
    assert.doesNotMatch(await answer.text(), /<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)/i);
  });

  test('answers 404 for unknown pages, and cannot be left by a path', async () => {
    for (const path of ['/docs/none', '/docs/', '/docs/start', '/docs/start/install.md', '/docs/..%2f..%2fCargo.toml', '/docs/%2e%2e/src/main.rs', '/docs/page.html']) {
      assert.equal((await get(path)).status, 404, path);
    }
  });
});

describe('the documentation in a browser', () => {
  let browser;
  before(async () => { browser = await launchBrowser(); });
  after(() => browser?.close());

  async function visit(path, work, { screen = DESKTOP, colorScheme = 'light' } = {}) {
    const context = await browser.newContext({ ...screen, colorScheme });
    const page = await context.newPage();
    const [problems, asked] = [[], []];
    page.on('console', (message) => { if (message.type() === 'error') problems.push(message.text()); });
    page.on('pageerror', (error) => problems.push(String(error)));
    page.on('request', (request) => asked.push(request.url()));
    try {
      await page.goto(`${gateway.url}${path}`);
      await work(page);
      assert.deepEqual(problems, []);
      assert.deepEqual(asked.filter((address) => new URL(address).host !== new URL(gateway.url).host), []);
    } finally {
      await context.close();
    }
  }

  test('has a search whose results lead to their headings', { timeout: 60_000 }, async () => {
    await visit('/docs', async (page) => {
      await page.fill('#search', 'ping_timeout');
      await page.locator('#found a[href="/docs/reference/settings#ping_timeout"]').click();
      await page.waitForURL(/\/docs\/reference\/settings#ping_timeout$/);
      await page.fill('#search', 'nothing-like-this');
      await page.locator('#found .none').waitFor();
    });
  });

  for (const [name, options] of [['desktop', {}], ['desktop-dark', { colorScheme: 'dark' }], ['phone', { screen: PHONE }], ['phone-dark', { screen: PHONE, colorScheme: 'dark' }]]) {
    test(`fits ${name}`, { timeout: 60_000 }, async () => {
      for (const path of ['/docs', '/docs/start/proxies', '/docs/reference/api-chat', '/docs/operate/redis', '/docs/develop/libraries']) {
        await visit(path, async (page) => {
          const [wide, narrow] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
          assert.ok(wide <= narrow, `${path} is ${wide} wide on a screen of ${narrow}`);
          await page.screenshot({ path: join(SCREENSHOTS, `docs-${name}${path.replaceAll('/', '-')}.png`) });
        }, options);
      }
    });
  }
});

describe('the types at /api/types.d.ts', () => {
  test('fit the stock client, and the example of the documentation compiles with them', { timeout: 120_000 }, async () => {
    const directory = temporaryDirectory();
    writeFileSync(join(directory, 'muster.d.ts'), await (await get('/api/types.d.ts')).text());
    const page = readFileSync(fileURLToPath(new URL('../../docs/start/first-client.md', import.meta.url)), 'utf8');
    const [, example] = /<!-- types -->\n```ts\n([^]*?)```/.exec(page);
    writeFileSync(join(directory, 'example.ts'), example);
    writeFileSync(join(directory, 'uses.ts'), `
import type { Socket } from 'socket.io-client';
import type { care, chat, ChatMessage, emergencies, ErrorResponse, relay, sos } from './muster';
declare const socket: Socket<chat.ServerToClientEvents, chat.ClientToServerEvents>;
socket.emit('join_room', 'general');
const ack = await socket.emitWithAck('send_message', { roomId: 'general', content: 'Hello' });
export const message: ChatMessage | undefined = ack.success ? ack.message : undefined;
export const failure: ErrorResponse | undefined = ack.success ? undefined : ack;
export const text: string = ack.success ? ack.message.content : ack.error;
socket.on('user_typing', ({ userId }) => userId.length);
// @ts-expect-error: no such event
socket.emit('no_such_event');
// @ts-expect-error: the content is missing
socket.emit('send_message', { roomId: 'general' });
export type All = [care.ServerToClientEvents, emergencies.ServerToClientEvents, relay.ClientToServerEvents, sos.ServerToClientEvents];
`);
    // The stock client and its types, as the tests use them.
    symlinkSync(fileURLToPath(new URL('node_modules', import.meta.url)), join(directory, 'node_modules'));
    const tsc = packageFile('typescript', 'bin/tsc');
    const args = [tsc, '--noEmit', '--strict', '--target', 'es2022', '--module', 'esnext', '--moduleResolution', 'bundler', 'example.ts', 'uses.ts'];
    const { status, stdout } = spawnSync(process.execPath, args, { cwd: directory, encoding: 'utf8' });
    assert.equal(status, 0, stdout);
  });
});
