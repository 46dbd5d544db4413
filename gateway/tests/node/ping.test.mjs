// `gateway ping`: connects like a client, as the image's health check and the chart's test use it.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { EVERYTHING } from './support/clients.mjs';
import { runGateway, startGateway, sumMetric, temporaryDirectory } from './support/gateway.mjs';
import { load } from './support/packages.mjs';
import { rawSocketIo } from './support/raw.mjs';

const { Server } = load('socket.io');
const { WebSocketServer } = load('ws');

const TIME = String.raw`\d+\.\d ms`;

/** A server on a free port of this machine; returns its URL. */
async function listening(server) {
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  return `ws://127.0.0.1:${server.address().port}`;
}

async function fails(args, expected, env = {}, exitCode = 1) {
  const { code, stdout, stderr } = await runGateway(['ping', ...args], { env });
  assert.equal(code, exitCode, `${args}: ${stdout}${stderr}`);
  assert.equal(stdout, '');
  assert.match(stderr, expected);
  assert.equal(stderr.trim().split('\n').length, 1, stderr);
}

async function answers(args, expected, env = {}) {
  const { code, stdout, stderr } = await runGateway(['ping', ...args], { env });
  assert.equal(code, 0, stderr);
  assert.match(stdout, expected);
  assert.equal(stderr, '');
}

describe('gateway ping', { concurrency: 4 }, () => {
  let node;
  before(async () => { node = await startGateway(); });
  after(() => node.kill());

  test('with a token it connects, gets one echo, and prints the times', async () => {
    const { href } = new URL('/socket.io/', node.url.replace('http', 'ws'));
    const expected = new RegExp(`^${href}: open after ${TIME}, in /relay after ${TIME}, echo after ${TIME}\n$`);
    await answers([node.url, '--token', node.token({ userId: 'ann', ...EVERYTHING })], expected);
  });

  test('the settings of a node provide its address and sign the token', async () => {
    const env = { LISTEN: `0.0.0.0:${node.port}`, JWT_SECRET: node.secret };
    await answers([], new RegExp(`^ws://127.0.0.1:${node.port}/socket.io/: .*, echo after ${TIME}\n$`), env);
    await answers([], new RegExp(`^ws://127.0.0.1:${node.port}/.*, echo after ${TIME}\n$`), { ...env, LISTEN: `[::]:${node.port}` });
    await answers([], /, echo after /, { ...env, JWT_ISSUER: 'https://login.example.org', JWT_AUDIENCE: 'realtime', JWT_USER_CLAIM: 'uid' });
  });

  test('it connects to another namespace, without an echo', async () => {
    const token = ['--token', node.token({ userId: 'ann' })];
    await answers([node.url, ...token, '--namespace', '/emergencies'], new RegExp(`, in /emergencies after ${TIME}\n$`));
    await answers([node.url, ...token], new RegExp(`, in / after ${TIME}\n$`), { MOUNTS: 'care=/' });
  });

  test('a node that requires a token has answered; a wrong token fails', async () => {
    for (const AUTH_ERRORS of ['plain', 'prefixed']) {
      const other = await startGateway({ env: { AUTH_ERRORS } });
      try {
        await answers([other.url, '--namespace', '/relay'], new RegExp(`, token required in /relay after ${TIME}\n$`));
        await fails([other.url, '--token', 'wrong'], /the server refuses the client in \/relay: .*Invalid token\n$/);
        await fails([other.url], /Invalid token\n$/, { JWT_SECRET: 'another secret than that of the node' });
      } finally {
        await other.kill();
      }
    }
    await fails([node.url, '--token', node.token({ userId: 'ann' })], /the answer to echo is \[\{"error":"Not allowed","success":false\}\]\n$/);
  });

  test('without a token it ends before CONNECT, and no token is refused', async () => {
    const other = await startGateway();
    try {
      const opened = new RegExp(`: open after ${TIME}, no CONNECT without a token\n$`);
      await answers([other.url], opened);
      // The user of a health check would be announced to the users of care.
      await answers([other.url], opened, { JWT_SECRET: other.secret, MOUNTS: 'relay=/,care=/' });
      await answers([other.url], opened, { JWT_SECRET: other.secret, MOUNTS: 'care=/' });
      assert.equal(sumMetric(await other.metrics(), 'muster_tokens_refused_total'), 0);
    } finally {
      await other.kill();
    }
  });

  test('a full node counts as an answer', async () => {
    const full = await startGateway({ env: { MAX_CONNECTIONS: '1' } });
    try {
      const ws = await rawSocketIo(full.port, { token: full.token({ userId: 'ann' }) });
      await answers([full.url], /: the node answers, but accepts no new client now: HTTP 503 Service Unavailable, "Too many connections"\n$/);
      ws.destroy();
    } finally {
      await full.kill();
    }
  });

  test('the body distinguishes a busy node from a load balancer without nodes', async () => {
    const cases = [
      [429, '{"code":7,"message":"Too many requests"}', true],
      [403, '{"code":4,"message":"Forbidden"}', false],
      [503, '<h1>No server is available</h1>', false],
      [503, '{"message":"No server is available"}', false],
      [503, '', false],
    ];
    for (const [status, body, isAnswer] of cases) {
      const server = createHttpServer((_, response) => { response.writeHead(status, { 'Content-Length': body.length }).end(body); });
      const url = await listening(server);
      if (isAnswer) await answers([url], /accepts no new client now: HTTP 429 Too Many Requests, "Too many requests"\n$/);
      else await fails([url], new RegExp(`answered with HTTP ${status} .* and opened no WebSocket\n$`));
      server.close();
      server.closeAllConnections();
    }
  });

  test('an unknown namespace fails', async () => {
    await fails([node.url, '--namespace', '/nowhere'], /in \/nowhere: Invalid namespace\n$/);
    for (const none of ['relay', '', '/relay/']) {
      await fails([node.url, '--namespace', none], /^gateway: --namespace: expected \/ or a path such as \/relay/, {}, 2);
    }
  });

  test('it fails if nothing listens, and for an unknown host', async () => {
    const server = createServer();
    const url = await listening(server);
    await new Promise((resolve) => { server.close(resolve); });
    await fails([url], /could not connect: Connection refused/);
    await fails(['ws://nowhere.invalid', '--within', '15s'], /could not connect: |no connection in time/);
  });

  test('it fails if a different server answers', async () => {
    const http = createHttpServer((_, response) => { response.writeHead(404).end('not here'); });
    const websocket = createHttpServer();
    new WebSocketServer({ server: websocket }).on('connection', (socket) => { socket.send('hello'); });
    const closing = createHttpServer();
    new WebSocketServer({ server: closing }).on('connection', (socket) => { socket.close(); });
    const text = createServer((socket) => { socket.on('error', () => {}).end('220 mail.example.org\r\n'); });
    const servers = [
      [http, /answered with HTTP 404 Not Found and opened no WebSocket\n$/],
      [websocket, /does not speak Socket.IO: it sent "hello"\n$/],
      [closing, /the server closed the WebSocket\n$/],
      [text, /the server opened no WebSocket: /],
    ];
    for (const [server, expected] of servers) {
      await fails([await listening(server)], expected);
      server.close();
      server.closeAllConnections?.();
    }
  });

  test('a server that never answers takes no longer than the given time', async () => {
    const sockets = [];
    const silent = createServer((socket) => { sockets.push(socket.on('error', () => {})); });
    const mute = createHttpServer();
    new WebSocketServer({ server: mute });
    for (const server of [silent, mute]) {
      const begun = Date.now();
      await fails([await listening(server), '--within', '300ms'], /: no answer to the handshake in time\n$/);
      assert.ok(Date.now() - begun < 5_000);
      server.close();
      server.closeAllConnections?.();
    }
    for (const socket of sockets) socket.destroy();
  });

  test('it connects to other Socket.IO servers', async () => {
    const http = createHttpServer();
    const io = new Server(http, { path: '/my/io/' });
    try {
      await answers([`${await listening(http)}/my/io`, '--namespace', '/'], new RegExp(`/my/io/: open after ${TIME}, in / after ${TIME}\n$`));
    } finally {
      await io.close();
    }
  });

  test('it ignores events with binary arguments', async () => {
    const http = createHttpServer();
    const io = new Server(http);
    io.of('/relay').on('connection', (socket) => {
      const say = () => socket.emit('bytes', Buffer.from('a'), Buffer.from('b'));
      say();
      socket.on('echo', (value, answer) => { say(); answer(value); });
    });
    try {
      await answers([await listening(http), '--token', 'any'], new RegExp(`, in /relay after ${TIME}, echo after ${TIME}\n$`));
    } finally {
      await io.close();
    }
  });

  test('it speaks TLS, to servers whose certificate the system trusts', async () => {
    const directory = temporaryDirectory();
    const [key, cert] = ['key.pem', 'cert.pem'].map((name) => join(directory, name));
    const made = ['-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1', '-addext', 'basicConstraints=critical,CA:FALSE'];
    execFileSync('openssl', ['req', ...made, '-keyout', key, '-out', cert], { stdio: 'ignore' });
    const https = createHttpsServer({ key: readFileSync(key), cert: readFileSync(cert) });
    const io = new Server(https);
    try {
      const url = (await listening(https)).replace('ws://', 'https://');
      await answers([url, '--namespace', '/'], new RegExp(`^wss://.*, in / after ${TIME}\n$`), { SSL_CERT_FILE: cert });
      await fails([url, '--namespace', '/'], /certificate/);
    } finally {
      await io.close();
    }
  });

  test('an invalid URL and an invalid duration are reported', async () => {
    for (const url of ['ftp://example.org', 'ws://', 'ws://ann:secret@example.org/', 'ws://example.org/?token=secret', 'ws://example.org:80800']) {
      const { code, stderr } = await runGateway(['ping', url]);
      assert.equal(code, 2);
      assert.match(stderr, /^gateway: URL: expected a URL/);
      assert.doesNotMatch(stderr, /secret/);
    }
    await fails(['--within', 'soon'], /--within: expected a duration/, {}, 2);
  });
});
