// The console page in a real browser, as a person sees it at the node's address. Each visitor has a separate browser
// context; a console error, a failed script or a foreign host fails the test that opened the visitor. Screenshots go to
// the directory `SCREENSHOTS`.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before } from 'node:test';

import { launchBrowser } from './browser.mjs';
import { keeper, unique } from './clients.mjs';
import { startGateway } from './gateway.mjs';

const SCREENSHOTS = process.env.SCREENSHOTS ?? tmpdir();
const DEADLINE = 30_000;
export const DESKTOP = { viewport: { width: 1280, height: 800 } };
export const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
// A client that disconnects while it polls sends its last POST beside a GET; if the POST is faster, the GET asks for a
// session that has ended. The refusal is correct, and the browser prints it.
export const HANGS_UP = [/status of 400/];
// What the browser prints while the page tries to reach a killed node.
export const NODE_GONE = [/ERR_|WebSocket connection/];

/**
 * One gateway (with `env`) and one browser for the tests of a file: returns an object with `gateway`, `clients` and
 * `browser`, which start and stop with the file. `flags` are Chromium's.
 */
export function consoleSite({ env = {}, flags = [] } = {}) {
  const site = { gateway: null, clients: null, browser: null, person, visit, enter, enterView };
  let visitors = [];

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    site.gateway = await startGateway({ env: { EVENTS_PER_SECOND: '0', ...env } });
    site.clients = keeper(site.gateway);
    site.browser = await launchBrowser({ flags });
  });

  afterEach(async () => {
    const ended = visitors;
    visitors = [];
    site.clients.closeAll();
    await Promise.all(ended.map((visitor) => visitor.page.context().close()));
    for (const visitor of ended) visitor.assertClean();
  });

  after(async () => {
    await site.browser?.close();
    await site.gateway?.stop();
  });

  /** A person with a name and a token. */
  function person(name, claims = {}) {
    const userId = unique('user');
    const email = `${userId}@example.org`;
    return { userId, name, email, token: site.gateway.token({ userId, name, email, ...claims }) };
  }

  /**
   * Opens the console in a new context. `expected` are console errors that the test provokes itself; `context` are
   * further options of the browser context, such as permissions.
   */
  async function visit({ screen = DESKTOP, colorScheme = 'light', hash = '', url = site.gateway.url, expected = [], context: more = {} } = {}) {
    const context = await site.browser.newContext({ ...screen, ...more, colorScheme, locale: 'en-GB' });
    const page = await context.newPage();
    page.setDefaultTimeout(DEADLINE);
    const problems = [];
    const asked = [];
    page.on('console', (message) => { if (message.type() === 'error') problems.push(message.text()); });
    page.on('pageerror', (error) => problems.push(String(error)));
    page.on('request', (request) => asked.push(request.url()));
    page.on('websocket', (socket) => asked.push(socket.url()));
    const visitor = {
      page,
      asked,
      assertClean() {
        assert.deepEqual(problems.filter((text) => !expected.some((pattern) => pattern.test(text))), []);
        assert.deepEqual(asked.filter((address) => new URL(address).host !== new URL(url).host), []);
      },
    };
    visitors.push(visitor);
    await page.goto(`${url}/${hash}`);
    return visitor;
  }

  /** A visitor who is signed in as `who` and connected. */
  async function enter(who, options = {}) {
    const visitor = await visit({ ...options, hash: `#token=${who.token}` });
    await connected(visitor.page);
    return visitor;
  }

  /** A visitor who is signed in as `who` and opens the view `name`. */
  async function enterView(who, name, options) {
    const visitor = await enter(who, options);
    await openView(visitor.page, name);
    return visitor;
  }

  return site;
}

/** Waits until `condition(element of selector, argument)` holds; otherwise reports the element's content. */
export async function holds(page, selector, condition, argument, timeout = DEADLINE) {
  const source = `(${condition})`;
  try {
    await page.locator(selector).first().waitFor({ state: 'attached' });
    await page.waitForFunction(condition, argument, { timeout });
  } catch (cause) {
    const text = await page.locator(selector).allTextContents();
    throw new Error(`${selector}: never ${source} with ${JSON.stringify(argument)}; it reads ${JSON.stringify(text)}`, { cause });
  }
}

export function reads(page, selector, text) {
  return holds(page, selector, ([where, wanted]) => document.querySelector(where)?.textContent === wanted, [selector, text]);
}

export function includes(page, selector, text, timeout) {
  return holds(page, selector, ([where, wanted]) => document.querySelector(where)?.textContent.includes(wanted), [selector, text], timeout);
}

export function connected(page) {
  return holds(page, '#link-state', () => document.body.dataset.link === 'connected');
}

export async function countOf(page, selector, count) {
  try {
    await page.waitForFunction(([where, wanted]) => document.querySelectorAll(where).length === wanted, [selector, count], { timeout: DEADLINE });
  } catch (cause) {
    throw new Error(`${selector}: never ${count}; it is ${await page.locator(selector).count()}`, { cause });
  }
}

export async function openView(page, name) {
  await page.click(`#views [data-view=${name}]`);
  await page.locator(`#view-${name}`).waitFor();
}

export function screenshot(page, name) {
  return page.screenshot({ path: join(SCREENSHOTS, `console-${name}.png`) });
}

/** Asserts that nothing is wider than its container, except lists that scroll sideways by design. */
export async function fits(page, what) {
  const wide = await page.evaluate(() => {
    const inScroller = (node) => node.closest('#views, .room-list, .table, .sr-only, .who, svg') !== null;
    const limit = document.documentElement.clientWidth;
    return [...document.querySelectorAll('body, body *')]
      .filter((node) => node.getClientRects().length > 0 && !inScroller(node))
      .filter((node) => node.getBoundingClientRect().right > limit + 0.5 || node.getBoundingClientRect().left < -0.5)
      .map((node) => `${node.tagName}#${node.id}.${node.className}`);
  });
  const [scroll, client] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.deepEqual(wide, [], what);
  assert.equal(await page.evaluate(() => document.querySelector('.top').getBoundingClientRect().top), 0, `${what}: the top bar is out of the window`);
  assert.ok(scroll <= client, `${what}: ${scroll} > ${client}`);
}

/** Waits until an element is visible, or hidden. */
export function visible(page, selector) {
  return page.locator(selector).first().waitFor({ state: 'visible' });
}

export function gone(page, selector) {
  return page.locator(selector).first().waitFor({ state: 'hidden' });
}

/** Opens the care view's conversation with `who`. */
export async function talkTo(page, who, name = who.userId) {
  await page.selectOption('#care-kind', 'user');
  if (await page.locator('#care-open-toggle').isVisible() && !await page.locator('#care-open-id').isVisible()) await page.click('#care-open-toggle');
  await page.fill('#care-open-id', who.userId);
  await page.press('#care-open-id', 'Enter');
  await reads(page, '#care-name', name);
}
