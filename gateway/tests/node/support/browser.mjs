// The browser of the tests: Debian's Chromium, headless.

import { existsSync } from 'node:fs';

import { load } from './packages.mjs';

const { chromium } = load('playwright-core');

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** Starts a browser; `flags` are Chromium's. */
export function launchBrowser({ flags = [] } = {}) {
  if (!existsSync(CHROMIUM)) throw new Error(`no Chromium at ${CHROMIUM}: install it, or set CHROMIUM`);
  return chromium.launch({ executablePath: CHROMIUM, args: [...FLAGS, ...flags] });
}
