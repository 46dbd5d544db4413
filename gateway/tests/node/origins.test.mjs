// Which pages are the node's own: origins as clients and proxies send them, and pages in a real browser behind
// minimally configured proxies.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';

import { launchBrowser } from './support/browser.mjs';
import { startGateway } from './support/gateway.mjs';
import { startHaproxy } from './support/haproxy.mjs';
import { UPGRADE, startNginx } from './support/nginx.mjs';
import { rawConnection, rawWebSocket, request } from './support/raw.mjs';
import { eventually, within } from './support/wait.mjs';

const HANDSHAKE = '/socket.io/?EIO=4&transport=polling';

/** The statuses of a handshake by polling and by WebSocket. */
async function knock(node, headers) {
  const polled = await request(node.port, 'GET', HANDSHAKE, { headers });
  const upgraded = await rawWebSocket(node.port, undefined, { headers }).then((ws) => { ws.destroy(); return 101; }, (error) => error.status ?? Promise.reject(error));
  return [polled.status, upgraded];
}

describe('origins as clients and proxies send them', () => {
  let node;
  before(async () => {
    node = await startGateway({ env: { CORS_ORIGINS: 'capacitor://localhost,ionic://localhost,tauri://localhost,null,https://*.example.org,http://localhost:*,wss://sockets.example.net', TRUSTED_PROXIES: '127.0.0.1' } });
  });
  after(() => node?.kill());

  for (const [who, headers] of [
    ['Starscream (Swift)', { Host: 'rt.example.com:443', Origin: 'wss://rt.example.com' }],
    ['Elephant.io (PHP)', { Host: 'rt.example.com:443', Origin: 'https://rt.example.com' }],
    ['a client on port 80', { Host: 'rt.example.com:80', Origin: 'ws://RT.example.com' }],
    ['a Capacitor app on iOS', { Origin: 'capacitor://localhost' }],
    ['an Ionic app', { Origin: 'ionic://localhost' }],
    ['a Tauri app', { Origin: 'tauri://localhost' }],
    ['a file or a sandboxed frame', { Origin: 'null' }],
    ['a name under a listed one', { Origin: 'https://app.example.org' }],
    ['any port of a listed host', { Origin: 'http://localhost:5173' }],
    ['a listed site by another scheme of the same', { Origin: 'https://sockets.example.net:443' }],
    ['a page behind a proxy, by its browser', { Host: '127.0.0.1:1', Origin: 'https://site.example', 'Sec-Fetch-Site': 'same-origin' }],
    ['a page behind a trusted proxy', { Host: '127.0.0.1:1', Origin: 'https://site.example:8443', 'X-Forwarded-Host': 'site.example:8443' }],
  ]) {
    test(`${who} may connect`, async () => {
      assert.deepEqual(await knock(node, headers), [200, 101]);
    });
  }

  for (const headers of [
    { Origin: 'https://example.org' },
    { Origin: 'https://example.org.evil.tld' },
    { Origin: 'https://localhost:5173' },
    { Origin: 'tauri://localhost.evil.tld' },
    { Host: 'rt.example.com:8443', Origin: 'https://rt.example.com' },
    { Host: '127.0.0.1:1', Origin: 'https://site.example', 'Sec-Fetch-Site': 'cross-site' },
    { Host: '127.0.0.1:1', Origin: 'https://site.example', 'X-Forwarded-Host': 'other.example' },
  ]) {
    test(`${JSON.stringify(headers)} may not`, async () => {
      assert.deepEqual(await knock(node, headers), [403, 403]);
    });
  }
});

describe('a refused origin', () => {
  test('is logged once a minute, with the Host and the setting', async () => {
    const node = await startGateway();
    try {
      const refuse = (headers = {}) => request(node.port, 'GET', HANDSHAKE, { headers: { Origin: 'https://site.example', ...headers } });
      for (let round = 0; round < 5; round += 1) assert.equal((await refuse()).status, 403);
      const line = await node.waitLog(({ message }) => /an origin is refused/.test(message ?? ''));
      assert.deepEqual([line.level, line.origin, line.host], ['INFO', 'https://site.example', `127.0.0.1:${node.port}`]);
      assert.match(line.message, /CORS_ORIGINS/);
      // It came through a proxy whose headers would have named the site.
      assert.equal((await refuse({ 'X-Forwarded-Host': 'site.example' })).status, 403);
      const other = await node.waitLog(({ message }) => /TRUSTED_PROXIES/.test(message ?? ''));
      assert.equal(other.forwarded_host, 'site.example');
      assert.equal(node.logs.filter(({ message }) => /an origin is refused/.test(message ?? '')).length, 2);
    } finally {
      await node.kill();
    }
  });

  test('on this machine is refused only if a key for tokens is set', async () => {
    const origins = ['http://localhost:5173', 'http://127.0.0.1:3000', 'https://[::1]:4200', 'http://app.localhost:8000'];
    for (const [env, expected] of [[{ JWT_SECRET: null }, 200], [{}, 403]]) {
      const node = await startGateway({ env });
      try {
        for (const origin of origins) {
          const answer = await request(node.port, 'GET', HANDSHAKE, { headers: { Origin: origin } });
          assert.equal(answer.status, expected, origin);
          assert.equal(answer.headers['access-control-allow-origin'], expected === 200 ? origin : undefined);
        }
        assert.equal((await request(node.port, 'GET', HANDSHAKE, { headers: { Origin: 'https://evil.example' } })).status, 403);
      } finally {
        await node.kill();
      }
    }
  });
});

describe('pages in a browser', () => {
  let browser;
  before(async () => { browser = await launchBrowser(); });
  after(() => browser?.close());

  /** Connects from the page at `url`: the transport that the client ends up on. */
  async function connectFrom(url, { target, token, transports = ['polling', 'websocket'], upgrades = true }) {
    const page = await browser.newPage();
    try {
      await page.goto(url);
      await page.addScriptTag({ url: `${target ?? ''}/socket.io/socket.io.js` });
      return await page.evaluate(({ target: to, auth, transports: ways, waits }) => new Promise((resolve, reject) => {
        const socket = globalThis.io(to ?? '', { auth: { token: auth }, transports: ways, reconnection: false });
        socket.on('connect_error', (error) => reject(new Error(`${error.message}: ${error.description ?? ''}`)));
        socket.on('connect', () => {
          const { engine } = socket.io;
          if (!waits || engine.transport.name === 'websocket') resolve(engine.transport.name);
          else engine.on('upgrade', () => resolve(engine.transport.name)).on('upgradeError', (error) => reject(error));
        });
      }), { target, auth: token, transports, waits: upgrades });
    } finally {
      await page.close();
    }
  }

  test('the snippet of the README connects from a dev server to a node without settings', { timeout: 60_000 }, async () => {
    const node = await startGateway({ env: { JWT_SECRET: null, FIRST_TOKEN: 'stdout' } });
    const site = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end('<!doctype html><title>dev</title>'));
    await new Promise((resolve) => { site.listen(0, '127.0.0.1', resolve); });
    try {
      const token = await eventually(() => /#token=([\w.-]+)/.exec(node.output.stdout)?.[1], { what: 'the token of the run' });
      const target = `http://localhost:${node.port}`;
      assert.equal(await connectFrom(`http://localhost:${site.address().port}/`, { target, token }), 'websocket');
    } finally {
      site.close();
      await node.kill();
    }
  });

  for (const [what, lines, options, env] of [
    ['nginx with a bare proxy_pass, by polling', [], { upgrades: false }, {}],
    ['nginx with a bare proxy_pass and upgrades', UPGRADE, {}, {}],
    ['nginx with `Host $host` on another port', [...UPGRADE, 'proxy_set_header Host $host;'], {}, {}],
    ['nginx with `Host $http_host`, by WebSocket alone', [...UPGRADE, 'proxy_set_header Host $http_host;'], { transports: ['websocket'] }, {}],
    ['a trusted nginx with `X-Forwarded-Host`, by WebSocket alone', [...UPGRADE, 'proxy_set_header X-Forwarded-Host $http_host;'], { transports: ['websocket'] }, { TRUSTED_PROXIES: '127.0.0.1' }],
  ]) {
    test(`a page behind ${what} is its own site`, { timeout: 60_000 }, async () => {
      const node = await startGateway({ env });
      const nginx = await startNginx(node.port, lines);
      try {
        // The console's own page, without what it does by itself.
        const expected = options.upgrades === false ? 'polling' : 'websocket';
        assert.equal(await connectFrom(`${nginx.url}/api/docs`, { token: node.token(), ...options }), expected);
      } finally {
        await nginx.stop();
        await node.kill();
      }
    });
  }
});

describe('HAProxy with `option httpchk` alone', () => {
  test('keeps a node up that accepts clients, and takes a draining one down', { timeout: 60_000 }, async () => {
    const node = await startGateway({ env: { DRAIN: '20s' } });
    const haproxy = await startHaproxy(['    option httpchk'], [node.port]);
    const waiting = await rawWebSocket(node.port);
    try {
      await eventually(async () => (await haproxy.states())[0] === 'UP', { timeout: 10_000, what: 'the node to be up' });
      assert.match(await haproxy.checks(), /200/, 'it sent checks');
      const old = await rawConnection(node.port);
      old.write('OPTIONS / HTTP/1.0\r\n\r\n');
      const answer = await old.response();
      assert.deepEqual([answer.status, answer.headers.allow], [200, 'GET, HEAD, OPTIONS']);
      old.destroy();
      node.signal('SIGTERM');
      await eventually(async () => (await haproxy.states())[0].startsWith('DOWN'), { timeout: 10_000, what: 'the draining node to be down' });
    } finally {
      waiting.destroy();
      await haproxy.stop();
      await within(node.kill(), 10_000, 'the end of the node');
    }
  });
});
