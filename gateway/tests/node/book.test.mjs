// The examples of the book and of the README run as they stand there, against a node of this test.
//
// A comment before a fenced block says how: `run` to its end, `run until: TEXT` until it has printed that, `run emitter`
// with a Redis, `nginx`, `haproxy` and `caddy` with the real program, `config` as a file of settings. Blocks of settings and
// `gateway token` are found by their form.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { startConfiguredCaddy } from './support/caddy.mjs';
import { EVERYTHING, TRANSPORTS, ask, keeper } from './support/clients.mjs';
import { gatewayBinary, runGateway, startGateway, temporaryDirectory } from './support/gateway.mjs';
import { startConfiguredHaproxy } from './support/haproxy.mjs';
import { startConfiguredNginx } from './support/nginx.mjs';
import { startRedis } from './support/redis.mjs';
import { once, within } from './support/wait.mjs';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const REPOSITORY = join(HERE, '../../..');
const BOOK = 'gateway/docs';
const DEADLINE = 20_000;

/** Every fenced block: `{page, at, language, how, text}`; `how` is the comment before it. */
function blocksOf(page) {
  const lines = readFileSync(join(REPOSITORY, page), 'utf8').split('\n');
  const blocks = [];
  for (let at = 0; at < lines.length; at += 1) {
    const fence = /^( *)```(\w+)$/.exec(lines[at]);
    if (!fence) continue;
    const end = lines.indexOf(`${fence[1]}\`\`\``, at + 1);
    const how = /^<!-- (.*) -->$/.exec(lines[at - 1] ?? '')?.[1];
    blocks.push({ page, at: at + 1, language: fence[2], how, text: lines.slice(at + 1, end).join('\n') });
    at = end;
  }
  return blocks;
}

const pages = readdirSync(join(REPOSITORY, BOOK), { recursive: true }).filter((file) => file.endsWith('.md')).map((file) => join(BOOK, file));
const blocks = ['README.md', ...pages].flatMap(blocksOf);
const named = ({ page, at }) => `${page}:${at}`;

/** Runs a command until it ends, or until it has printed a text: what it printed, and its exit code. */
async function runUntil(command, args, { until, env }) {
  const child = spawn(command, args, { cwd: HERE, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  let seen;
  const printed = new Promise((resolve) => { seen = resolve; });
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
      if (until !== undefined && output.includes(until)) seen();
    });
  }
  const ended = new Promise((resolve, reject) => { child.on('close', resolve).on('error', reject); });
  try {
    const code = await within(Promise.race([ended, printed]), DEADLINE, `the end of the example, or "${until}": ${output}`);
    return { code, output };
  } finally {
    child.kill('SIGKILL');
  }
}

describe('examples of the book', () => {
  let node;
  let clients;
  let redis;
  before(async () => {
    redis = await startRedis();
    node = await startGateway({ env: { REDIS_URL: redis.url, SQLITE_WITH_REDIS: 'true' } });
    clients = keeper(node);
  });
  after(async () => {
    clients?.closeAll();
    await node?.stop();
    await redis?.stop();
  });

  const token = () => node.token({ sub: 'ann', name: 'Ann', ...EVERYTHING });
  const here = (text) => text.replaceAll(/http:\/\/(127\.0\.0\.1|localhost):8080/g, node.url).replaceAll('<JWT>', token())
    .replaceAll('http://127.0.0.1:9090', node.internalUrl).replaceAll('redis://127.0.0.1:6379', redis.url);
  const run = ({ language, text }, until) => {
    const env = { TOKEN: token() };
    return language === 'js'
      ? runUntil(process.execPath, ['--input-type=module', '-e', here(text)], { until, env })
      : runUntil('sh', ['-euc', here(text)], { until, env });
  };

  const runnable = blocks.filter(({ how }) => how === 'run' || how?.startsWith('run until: '));
  assert.ok(runnable.length >= 8, `${runnable.length} examples`);
  for (const block of runnable) {
    test(`${named(block)} runs`, { timeout: 60_000 }, async () => {
      const until = /^run until: (.*)$/.exec(block.how)?.[1];
      const { code, output } = await run(block, until);
      if (until === undefined) {
        assert.equal(code, 0, output);
        assert.ok(output.trim().length > 0, 'it prints something');
        assert.doesNotMatch(output, /"success":\s*false/);
      } else {
        assert.ok(output.includes(until), output);
      }
      assert.doesNotMatch(output, /Error|refused|"error"/);
    });
  }

  test('the client and the backend of the README work together', { timeout: 60_000 }, async () => {
    const [client] = blocks.filter(({ page, language }) => page === 'README.md' && language === 'js');
    const backend = blocks.find(({ page, text }) => page === 'README.md' && text.startsWith('curl'));
    const { output } = await run(client, 'hello');
    assert.match(output, /general \d+\n(.*\n)*Ann: hello/);
    const socket = await clients.connect({ claims: { sub: 'bob' } });
    assert.equal((await ask(socket, 'join_room', 'general')).success, true);
    const [event] = /"event": "(\w+)"/.exec(backend.text).slice(1);
    const received = once(socket, event);
    const emitted = await run({ ...backend, language: 'sh' });
    assert.equal(emitted.code, 0, emitted.output);
    assert.ok((await received)[0]);
  });

  test('the emitter reaches a member of the room', { timeout: 60_000 }, async () => {
    const block = blocks.find(({ how }) => how === 'run emitter');
    const socket = await clients.connect({ namespace: '/relay', claims: EVERYTHING });
    assert.equal((await ask(socket, 'join', { room: 'prices:nyse' })).success, true);
    const received = once(socket, 'price');
    // It keeps its connection to Redis, so it is ended when the event has come.
    const running = run(block, 'never printed').catch((error) => error);
    assert.deepEqual((await received)[0], { symbol: 'MSTR', value: 3.14 });
    void running;
  });

  const proxies = { nginx: startConfiguredNginx, haproxy: startConfiguredHaproxy, caddy: startConfiguredCaddy };
  for (const [how, start] of Object.entries(proxies)) {
    for (const block of blocks.filter((one) => one.how === how)) {
      test(`${named(block)} lets clients through`, { timeout: 60_000 }, async () => {
        const proxy = await start(block.text.replaceAll('127.0.0.1:8080', `127.0.0.1:${node.port}`));
        try {
          for (const transport of TRANSPORTS) {
            const socket = await clients.connect({ url: proxy.url, namespace: '/relay', transport, claims: EVERYTHING });
            assert.equal(await ask(socket, 'echo', 'hello'), 'hello');
          }
        } finally {
          await proxy.stop();
        }
      });
    }
  }
});

describe('settings of the book', () => {
  /** The variables of a block that is nothing else, or that starts a gateway with them. */
  const variables = (text) => {
    const words = text.replaceAll('\\\n', ' ').split(/\s+/).filter((word) => word && word !== 'gateway');
    const pairs = words.map((word) => /^([A-Z_]+)=(.*)$/.exec(word)?.slice(1).map((part) => part.replaceAll(/^'|'$/g, '')));
    return pairs.every(Boolean) ? Object.fromEntries(pairs) : undefined;
  };
  const settings = blocks.filter(({ language, text }) => language === 'sh' && variables(text));
  assert.ok(settings.length >= 6, `${settings.length} blocks of settings`);
  for (const block of settings) {
    test(`${named(block)} is good`, async () => {
      // Files that a reader has, and this machine has not.
      const env = Object.fromEntries(Object.entries(variables(block.text)).map(([name, value]) => [name, value.replace(/&?sslrootcert=[^&]*/, '')]));
      const { code, stderr } = await runGateway(['check-config'], { env: { JWT_SECRET: null, MOUNTS: null, ...env } });
      assert.equal(code, 0, stderr);
    });
  }

  for (const block of blocks.filter(({ how }) => how === 'config')) {
    test(`${named(block)} is a file of settings`, async () => {
      const file = join(temporaryDirectory(), 'muster.toml');
      writeFileSync(file, block.text);
      const { code, stderr } = await runGateway(['check-config', '--config', file], { env: { JWT_SECRET: null, MOUNTS: null } });
      assert.equal(code, 0, stderr);
    });
  }

  for (const block of blocks.filter(({ language }) => language === 'sh')) {
    for (const line of block.text.split('\n').filter((one) => one.startsWith('gateway token '))) {
      test(`${named(block)}: ${line}`, async () => {
        const { code, output } = await runUntil('sh', ['-euc', line.replace('gateway', gatewayBinary())], { env: { JWT_SECRET: 'a-secret-of-at-least-32-characters-please' } });
        assert.equal(code, 0, output);
        assert.match(output, /^[\w-]+\.[\w-]+\.[\w-]+\n$/);
      });
    }
  }

  test('every JSON of the book is JSON', () => {
    for (const block of blocks.filter(({ language }) => language === 'json')) {
      assert.doesNotThrow(() => JSON.parse(block.text), named(block));
    }
  });
});
