// The command line: tokens, settings from three sources and what is said about bad ones.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { EVERYTHING, ask, keeper, unique } from './support/clients.mjs';
import { runGateway, startGateway, temporaryDirectory } from './support/gateway.mjs';
import { load } from './support/packages.mjs';
import { once, until } from './support/wait.mjs';

const jwt = load('jsonwebtoken');
const SECRET = 'a secret of the command line';

function configFile(text) {
  const path = join(temporaryDirectory(), 'gateway.toml');
  writeFileSync(path, text);
  return path;
}

describe('gateway token', { concurrency: 4 }, () => {
  test('it prints a token for any claims, and only that', async () => {
    const before = Math.floor(Date.now() / 1000);
    const { code, stdout, stderr } = await runGateway(
      ['token', '--user', 'ann', '--role', 'rescuer', '--name', 'Ann Ä', '--email', 'ann@example.com', '--ttl', '2h', '--claims', '{"rooms":["a*"],"publish":["*"],"verified":true}'],
      { env: { JWT_SECRET: SECRET } },
    );
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^[\w-]+\.[\w-]+\.[\w-]+\n$/);
    const claims = jwt.verify(stdout.trim(), SECRET, { algorithms: ['HS256'] });
    assert.equal(claims.userId ?? claims.id ?? claims.sub, 'ann');
    assert.equal(claims.role, 'rescuer');
    assert.equal(claims.displayName ?? claims.name, 'Ann Ä');
    assert.equal(claims.email, 'ann@example.com');
    assert.deepEqual([claims.rooms, claims.publish, claims.verified], [['a*'], ['*'], true]);
    assert.ok(Math.abs(claims.exp - before - 7200) <= 5, `exp is ${claims.exp - before} s away`);
  });

  test('the token works on a socket', async () => {
    const gateway = await startGateway();
    const clients = keeper(gateway);
    try {
      const { stdout } = await runGateway(['token', '--user', 'ann', '--name', 'Ann', '--claims', '{"rooms":["*"]}'], { env: { JWT_SECRET: gateway.secret } });
      const socket = await clients.connect({ namespace: '/relay', token: stdout.trim() });
      const room = unique('room');
      await ask(socket, 'join', { room });
      const { members } = await ask(socket, 'members', { room });
      assert.deepEqual([members[0].userId, members[0].displayName], ['ann', 'Ann']);
    } finally {
      clients.closeAll();
      await gateway.kill();
    }
  });

  test('without a secret, with a bad id, bad claims or a bad ttl it refuses and prints no token', async () => {
    const cases = [
      [['--user', 'ann'], { JWT_SECRET: null }, /JWT_SECRET/i],
      [['--user', 'a\nb'], {}, /user/i],
      [['--user', 'ann', '--claims', '{not json'], {}, /claims/i],
      [['--user', 'ann', '--claims', '[1]'], {}, /claims/i],
      [['--user', 'ann', '--ttl', 'soon'], {}, /ttl/i],
      [['--user', 'ann', '--ttl', '3600'], {}, /--ttl: expected a duration .* unit/],
      [[], {}, /user/i],
    ];
    for (const [args, env, expected] of cases) {
      const { code, stdout, stderr } = await runGateway(['token', ...args], { env: { JWT_SECRET: SECRET, ...env } });
      assert.notEqual(code, 0, args.join(' '));
      assert.equal(stdout, '', args.join(' '));
      assert.match(stderr, expected, args.join(' '));
      assert.doesNotMatch(stderr, /panicked/, args.join(' '));
    }
  });
});

describe('settings', { concurrency: 4 }, () => {
  test('version', async () => {
    const manifest = readFileSync(fileURLToPath(new URL('../../../Cargo.toml', import.meta.url)), 'utf8');
    const [, version] = /^version = "([^"]+)"/m.exec(manifest);
    const { code, stdout } = await runGateway(['version']);
    assert.equal(code, 0);
    assert.ok(stdout.includes(version), stdout);
  });

  test('help of a command shows its own options, and that of `serve` the settings', async () => {
    const help = async (...args) => (await runGateway([...args, '--help'])).stdout;
    const settings = /--ping-interval|PING_INTERVAL/;
    for (const command of [['token'], ['ping'], ['user', 'add'], ['check-config'], ['print-config'], ['docs'], ['version']]) {
      const text = await help(...command);
      assert.doesNotMatch(text, settings, command.join(' '));
      assert.ok(text.split('\n').length < 45, `${command.join(' ')}: ${text.split('\n').length} lines`);
    }
    assert.match(await help('serve'), settings);
    assert.match(await help(), settings);
  });

  test('a setting may be a flag before a command and after it; the last one counts', async () => {
    const shown = async (...args) => /^ping_interval = "(\w+)"$/m.exec((await runGateway(args)).stdout)?.[1];
    assert.equal(await shown('print-config', '--ping-interval', '7s'), '7s');
    assert.equal(await shown('--ping-interval', '7s', 'print-config'), '7s');
    assert.equal(await shown('--ping-interval', '7s', 'print-config', '--ping-interval', '8s'), '8s');
  });

  test('docs finds pages that differ, and writes them', async () => {
    const folder = join(temporaryDirectory(), 'reference');
    const missing = await runGateway(['docs', '--folder', folder]);
    assert.equal(missing.code, 1);
    assert.match(missing.stderr, /settings\.md.* differ/);
    assert.equal((await runGateway(['docs', '--write', '--folder', folder])).code, 0);
    assert.ok(readdirSync(folder).includes('settings.md'));
    assert.equal((await runGateway(['docs', '--folder', folder])).code, 0);
    const checked = await runGateway(['docs', '--folder', fileURLToPath(new URL('../../docs/reference', import.meta.url))]);
    assert.equal(checked.code, 0, checked.stderr);
  });

  test('help names every command', async () => {
    const { code, stdout } = await runGateway(['--help']);
    assert.equal(code, 0);
    for (const word of ['serve', 'ping', 'token', 'user', 'check-config', 'print-config', 'docs', 'version', '--listen', 'JWT_SECRET']) {
      assert.ok(stdout.includes(word), `${word} in ${stdout}`);
    }
  });

  test('check-config accepts what is good, starts nothing and makes no file', async () => {
    const cwd = temporaryDirectory();
    const database = join(cwd, 'never.db');
    const { code, stderr } = await runGateway(['check-config'], { cwd, env: { DATABASE_URL: `sqlite:${database}`, PING_INTERVAL: '10s' } });
    assert.equal(code, 0, stderr);
    assert.throws(() => readFileSync(database), { code: 'ENOENT' });
  });

  test('all that is wrong in flag, environment and file is told at once: key, value, expectation', async () => {
    const path = configFile('max_payload = "lots"\nping_timeout = "soon"\ncolour = "red"\n');
    for (const command of ['check-config', 'serve']) {
      const { code, stdout, stderr } = await runGateway([command, '--config', path, '--drain', 'never'], {
        env: { PING_INTERVAL: 'often', LISTEN: 'nowhere', AUTH_ERRORS: 'loud', MOUNTS: 'chess=/' },
      });
      assert.notEqual(code, 0, command);
      const said = `${stdout}${stderr}`;
      const wrong = { max_payload: 'lots', ping_timeout: 'soon', 'drain': 'never', PING_INTERVAL: 'often', LISTEN: 'nowhere', AUTH_ERRORS: 'loud', MOUNTS: 'chess=/' };
      for (const [key, value] of Object.entries(wrong)) {
        const line = said.split('\n').find((candidate) => candidate.toLowerCase().includes(key.toLowerCase()) && candidate.includes(value));
        assert.ok(line, `${key} = ${value} in:\n${said}`);
        assert.match(line, /expected/i, line);
      }
      assert.ok(said.split('\n').some((line) => line.includes('colour')), `the unknown key in:\n${said}`);
      assert.doesNotMatch(said, /panicked/);
    }
  });

  test('unknown flags, commands and mounts are refused by name', async () => {
    for (const [args, expected] of [
      [['--colour', 'red'], /colour/],
      [['fly'], /fly/],
      [['--mount', 'chess=/'], /chess/],
      [['--config', '/no/such/file.toml'], /no\/such\/file\.toml/],
      [['--listen'], /listen/],
    ]) {
      const { code, stderr } = await runGateway(args, { env: { LISTEN: '127.0.0.1:0', INTERNAL_LISTEN: '127.0.0.1:0' } });
      assert.notEqual(code, 0, args.join(' '));
      assert.match(stderr, expected, args.join(' '));
      assert.doesNotMatch(stderr, /panicked/, args.join(' '));
    }
  });

  test('a file that is not TOML is named', async () => {
    const path = configFile('drain = = 1\n');
    const { code, stderr } = await runGateway(['check-config', '--config', path]);
    assert.notEqual(code, 0);
    assert.ok(stderr.includes(path), stderr);
  });

  test('flags win over the environment, and that over the file; print-config shows what holds and hides secrets', async () => {
    const path = configFile('drain = "11s"\nping_interval = "12s"\nping_timeout = "13s"\ncors_origins = ["https://a.example", "https://b.example"]\n');
    const { code, stdout, stderr } = await runGateway(['print-config', '--config', path, '--drain', '31s'], {
      env: { DRAIN: '21s', PING_INTERVAL: '22s', JWT_SECRET: SECRET, INTERNAL_TOKEN: 'hush hush', DATABASE_URL: 'postgres://user:pass-word@db.example/x' },
    });
    assert.equal(code, 0, stderr);
    const line = (key) => stdout.split('\n').find((candidate) => candidate.trim().toLowerCase().startsWith(key)) ?? '';
    assert.match(line('drain'), /31s/);
    assert.match(line('ping_interval'), /22s/);
    assert.match(line('ping_timeout'), /13s/);
    assert.match(line('cors_origins'), /https:\/\/a\.example.*https:\/\/b\.example/);
    assert.match(line('max_payload'), /1000000/, 'defaults are shown, too');
    for (const secret of [SECRET, 'hush hush', 'pass-word']) assert.ok(!`${stdout}${stderr}`.includes(secret), 'no secret is shown');
  });

  test('with a Redis a secret is needed, and wrong Redis settings are told in words', async () => {
    const alone = await runGateway(['check-config'], { env: { REDIS_URL: 'redis://127.0.0.1:6379' } });
    assert.notEqual(alone.code, 0);
    assert.match(alone.stderr, /JWT_SECRET: expected a secret/);
    const wrong = await runGateway(['check-config'], { env: { REDIS_URL: 'http://:hush-hush@x', LEASE: '1ms', JWT_SECRET: 's' } });
    assert.notEqual(wrong.code, 0);
    assert.match(wrong.stderr, /REDIS_URL[^]*redis:\/\/[^]*LEASE/);
    assert.ok(!wrong.stderr.includes('hush-hush'));
    const right = await runGateway(['check-config'], { env: { REDIS_HOST: 'r.example', REDIS_PORT: '7000', JWT_SECRET: 's', MOUNTS: 'relay=/relay' } });
    assert.equal(right.code, 0, right.stderr);
  });

  test('PORT is the public port on loopback', async () => {
    const gateway = await startGateway({ env: { LISTEN: null, PORT: '0' } });
    try {
      assert.ok(gateway.port > 0);
      assert.equal((await fetch(`${gateway.url}/live`)).status, 200);
    } finally {
      await gateway.kill();
    }
  });

  test('a port that is taken is said plainly, and the exit code is not 0', async () => {
    const gateway = await startGateway();
    try {
      const { code, stderr } = await runGateway([], { env: { LISTEN: `127.0.0.1:${gateway.port}`, INTERNAL_LISTEN: '127.0.0.1:0' } });
      assert.notEqual(code, 0);
      assert.match(stderr, new RegExp(`LISTEN: cannot listen on 127.0.0.1:${gateway.port}`));
      assert.doesNotMatch(stderr, /panicked/);
    } finally {
      await gateway.kill();
    }
  });

  test('a database that cannot be opened is said plainly', async () => {
    const directory = join(temporaryDirectory(), 'a-directory.db');
    mkdirSync(directory);
    const { code, stderr } = await runGateway([], { env: { LISTEN: '127.0.0.1:0', INTERNAL_LISTEN: '127.0.0.1:0', DATABASE_URL: `sqlite:${directory}` } });
    assert.notEqual(code, 0);
    assert.match(stderr, /database/i);
    assert.doesNotMatch(stderr, /panicked/);
  });

  test('--mount replaces the default set', async () => {
    const gateway = await startGateway({ args: ['--mount', 'relay=/bus'] });
    const clients = keeper(gateway);
    try {
      const socket = await clients.connect({ namespace: '/bus', claims: EVERYTHING });
      assert.equal(await ask(socket, 'echo', 1), 1);
      for (const namespace of ['/', '/relay']) {
        const other = clients.socket({ namespace });
        const [error] = await once(other, 'connect_error');
        assert.equal(error.message, 'Invalid namespace', namespace);
      }
    } finally {
      clients.closeAll();
      await gateway.kill();
    }
  });

  test('AUTH_ERRORS can be set for one namespace', async () => {
    const gateway = await startGateway({ env: { AUTH_ERRORS: '/relay=prefixed' } });
    const clients = keeper(gateway);
    try {
      const [prefixed] = await once(clients.socket({ namespace: '/relay', auth: {} }), 'connect_error');
      assert.equal(prefixed.message, 'Authentication error: Authentication required');
      const [plain] = await once(clients.socket({ auth: {} }), 'connect_error');
      assert.equal(plain.message, 'Authentication required');
    } finally {
      clients.closeAll();
      await gateway.kill();
    }
  });
});

/** The token in the console's URL of the banner. */
async function printedToken(gateway) {
  const pattern = /#token=([\w-]+\.[\w-]+\.[\w-]+)\s/;
  await until(gateway.child.stdout, 'data', () => pattern.test(gateway.output.stdout), { what: 'a URL with #token=… on standard output' });
  return pattern.exec(gateway.output.stdout)[1];
}

describe('without a JWT_SECRET', { concurrency: 2 }, () => {
  test('a gateway makes one for its run and prints a console URL and a token that works', async () => {
    // As on a terminal; where there is none, `secrets.test.mjs` sees where it goes.
    const gateway = await startGateway({ env: { JWT_SECRET: null, FIRST_TOKEN: 'stdout' } });
    const clients = keeper(gateway);
    try {
      const token = await printedToken(gateway);
      assert.ok(gateway.output.stdout.includes(`127.0.0.1:${gateway.port}/`), 'the URL has the port in use');
      const relay = await clients.connect({ namespace: '/relay', token });
      const room = unique('room');
      assert.equal((await ask(relay, 'join', { room })).success, true, 'it may do everything on the relay');
      assert.equal((await ask(relay, 'publish', { room, event: 'e', data: 1 })).success, true);
      const chat = await clients.connect({ token });
      assert.equal((await ask(chat, 'join_room', room)).success, true);
      for (const line of gateway.logs) assert.ok(!JSON.stringify(line).includes(token), 'the token is not in the log');
    } finally {
      clients.closeAll();
      await gateway.kill();
    }
  });

  test('another run has another secret', async () => {
    const [first, second] = await Promise.all([0, 1].map(() => startGateway({ env: { JWT_SECRET: null, FIRST_TOKEN: 'stdout' } })));
    const clients = keeper(second);
    try {
      const token = await printedToken(first);
      const [error] = await once(clients.socket({ token }), 'connect_error');
      assert.equal(error.message, 'Invalid token');
    } finally {
      clients.closeAll();
      await Promise.all([first.kill(), second.kill()]);
    }
  });
});
