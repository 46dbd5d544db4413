// The console page: signing in, the connection, chat, relay and the log. The other apps' views are in
// `console_apps.test.mjs`; `support/console.mjs` defines visitors.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { EVERYTHING, ask, unique } from './support/clients.mjs';
import { DESKTOP, HANGS_UP, NODE_GONE, PHONE, connected, consoleSite, countOf, fits, holds, includes, openView, reads, screenshot } from './support/console.mjs';
import { rawToken, runGateway, startGateway } from './support/gateway.mjs';

const POLICY = ["default-src 'self'", "connect-src 'self' ws: wss:", "img-src 'self' data:", "style-src 'self'", "script-src 'self'"];
const LOG_LINES_MAX = 500;

const site = consoleSite();

/** Signs a visitor in as `who` and joins `rooms`; the last one is in front. */
async function enter(who, { rooms = [], ...options } = {}) {
  const visitor = await site.enter(who, options);
  for (const room of rooms) await joinRoom(visitor.page, room);
  return visitor;
}

async function joinRoom(page, room) {
  if (await page.locator('#join-open').isVisible()) await page.click('#join-open');
  await page.fill('#join-room', room);
  await page.press('#join-room', 'Enter');
  await reads(page, '#room-name', `# ${room}`);
  await reads(page, '#room-note', '');
}

async function say(page, text) {
  await page.fill('#message', text);
  await page.press('#message', 'Enter');
}

/** The texts of the stored messages, top to bottom. */
function texts(page) {
  return page.locator('#messages .msg[data-state=stored] .text').allTextContents();
}

/** Connects a client to chat room `room` as the other participant. */
async function guest(who, room) {
  const socket = await site.clients.connect({ token: who.token });
  assert.equal((await ask(socket, 'join_room', room)).success, true);
  return socket;
}

describe('the page', () => {
  test('loads completely from the node under the strict policy, and shows that the node is alive', async () => {
    const { page, asked } = await site.visit();
    await reads(page, '#health-text', `Node ${site.gateway.node} alive`);
    await page.locator('#sign-in').waitFor();
    const paths = new Set(asked.map((address) => new URL(address).pathname));
    for (const path of ['/', '/console/console.css', '/console/console.js', '/console/logo.svg', '/socket.io/socket.io.esm.min.js', '/health']) {
      assert.ok(paths.has(path), `${path} was not requested: ${[...paths]}`);
    }
    const answer = await fetch(site.gateway.url);
    const policy = answer.headers.get('content-security-policy').split(/; */);
    assert.deepEqual(POLICY.filter((directive) => !policy.includes(directive)), []);
    assert.doesNotMatch(policy.join(), /unsafe/);
    assert.match(answer.headers.get('content-type'), /^text\/html/);
    await screenshot(page, 'sign-in');
  });

  test('has no inline script, style or handler', async () => {
    const html = await (await fetch(site.gateway.url)).text();
    assert.doesNotMatch(html, /<style|\sstyle=|\son\w+=|javascript:/i);
    assert.doesNotMatch(html, /<script(?![^>]*\ssrc=)/i);
  });

  for (const [name, screen] of [['desktop', DESKTOP], ['phone', PHONE]]) {
    test(`fits a ${name} without horizontal scrolling`, async () => {
      const room = unique('room');
      const ada = site.person('Ada Lovelace With A Rather Long Name', EVERYTHING);
      const { page } = await site.visit({ screen });
      await fits(page, 'signed out');
      await page.fill('#token', ada.token);
      await page.press('#token', 'Enter');
      await connected(page);
      await joinRoom(page, `${room}-${'x'.repeat(100)}`);
      await say(page, 'w'.repeat(900));
      await say(page, 'short');
      await countOf(page, '.msg[data-state=stored]', 2);
      await fits(page, 'chat');
      if (name === 'phone') {
        const [brand, me] = await Promise.all(['.brand', '#me'].map((part) => page.locator(part).boundingBox()));
        assert.ok(me.y < brand.y + brand.height, 'the top bar is one line');
        await page.click('#link-more');
        await page.click('#members-toggle');
        await page.locator('#member-list li').waitFor();
        await fits(page, 'chat with details and members');
      }
      await openView(page, 'relay');
      await fits(page, 'relay');
      await openView(page, 'log');
      await page.locator('#log-lines summary').last().click();
      await page.locator('#log-lines pre').waitFor();
      await fits(page, 'log');
    });
  }
});

describe('signing in', () => {
  test('a token in the address signs in and leaves the address bar', async () => {
    const ada = site.person('Ada Lovelace');
    const { page } = await enter(ada);
    assert.equal(page.url(), `${site.gateway.url}/`);
    await reads(page, '#fact-user', ada.userId);
    await reads(page, '#me-name', 'Ada Lovelace');
    await includes(page, '#fact-token', 'left');
    await holds(page, '#fact-socket', () => document.querySelector('#fact-socket').textContent.length === 20);
    await holds(page, '#fact-ping', () => / ms$/.test(document.querySelector('#fact-ping').textContent));
  });

  test('a pasted token signs in, and signing out forgets it', async () => {
    const { page } = await site.visit({ expected: HANGS_UP });
    await page.fill('#token', site.person('Ada').token);
    await page.click('#token-form button');
    await connected(page);
    await page.click('#sign-out');
    await page.locator('#sign-in').waitFor();
    await page.reload();
    await page.locator('#sign-in').waitFor();
    assert.equal(await page.locator('#link').isVisible(), false);
  });

  test('a wrong token is refused with an explanation', async () => {
    const { page } = await site.visit({ expected: HANGS_UP });
    await page.fill('#token', rawToken({ userId: 'eve', exp: Math.floor(Date.now() / 1000) + 3600 }, 'another secret'));
    await page.click('#token-form button');
    await includes(page, '#sign-in-alert', 'The node did not accept this token');
    await includes(page, '#sign-in-alert', 'Invalid token · invalid_token');
    await page.locator('#token').waitFor();
    await screenshot(page, 'wrong-token');
  });

  test('an expired token leads back to the sign-in', async () => {
    const token = site.gateway.token({ userId: 'old', exp: Math.floor(Date.now() / 1000) - 60 });
    const { page } = await site.visit({ hash: `#token=${token}`, expected: HANGS_UP });
    await includes(page, '#sign-in-alert', 'This token has expired');
    await includes(page, '#sign-in-alert', 'Token expired · token_expired');
    assert.equal(page.url(), `${site.gateway.url}/`);
  });

  test('a token that expires while connected leads back to the sign-in, and a fresh one to the room', async () => {
    const room = unique('room');
    const userId = unique('brief');
    const { page } = await enter({ token: site.gateway.token({ userId, exp: Math.floor(Date.now() / 1000) + 15 }) }, { rooms: [room], expected: HANGS_UP });
    await includes(page, '#sign-in-alert', 'This token has expired', 30_000);
    await page.fill('#token', site.gateway.token({ userId }));
    await page.press('#token', 'Enter');
    await connected(page);
    await reads(page, '#room-name', `# ${room}`);
    await reads(page, '#room-note', '');
  });

  test('after signing out, the next user finds no data of the last one', async () => {
    const room = unique('room');
    const { page } = await enter(site.person('Ada'), { rooms: [room], expected: HANGS_UP });
    await say(page, 'for my eyes only');
    await countOf(page, '.msg[data-state=stored]', 1);
    await page.click('#sign-out');
    await page.fill('#token', site.person('Bela').token);
    await page.press('#token', 'Enter');
    await connected(page);
    await reads(page, '#me-name', 'Bela');
    assert.equal(await page.getByText('for my eyes only').count(), 0);
    await countOf(page, '#room-list .tab', 0);
    assert.equal(await page.locator('#room-empty').isVisible(), true);
  });

  test('e-mail and password sign in; a wrong password is refused with an explanation', async () => {
    const email = `${unique('grace')}@example.org`;
    const added = await runGateway(['user', 'add', '--email', email, '--name', 'Grace Hopper', '--role', 'user'], {
      env: { DATABASE_URL: site.gateway.databaseUrl, JWT_SECRET: site.gateway.secret },
      input: 'correct horse battery\n',
    });
    assert.equal(added.code, 0, added.stderr);
    const { page } = await site.visit({ expected: [/status of 401/] });
    await page.fill('#email', email);
    await page.fill('#password', 'wrong');
    await page.press('#password', 'Enter');
    await includes(page, '#sign-in-alert', 'Invalid credentials');
    await page.fill('#password', 'correct horse battery');
    await page.press('#password', 'Enter');
    await connected(page);
    await reads(page, '#me-name', 'Grace Hopper');
    assert.equal(await page.inputValue('#password'), '');
  });
});

describe('the connection', () => {
  test('auto begins with polling and shows the upgrade', async () => {
    const { page } = await enter(site.person('Ada'));
    await reads(page, '#fact-transport', 'websocket');
    await openView(page, 'log');
    const lines = await page.locator('#log-lines [data-dir=sys] summary').allTextContents();
    assert.ok(lines.some((line) => /open\{"transport":"polling"\}/.test(line)), String(lines));
    assert.ok(lines.some((line) => /upgrade\{"transport":"websocket"\}/.test(line)), String(lines));
  });

  test('the transport can be chosen, and the connection closed and opened again', async () => {
    const { page } = await enter(site.person('Ada'), { expected: HANGS_UP });
    for (const transport of ['polling', 'websocket']) {
      const old = await page.textContent('#fact-socket');
      await page.selectOption('#transport', transport);
      await holds(page, '#fact-socket', ([last]) => !['–', last].includes(document.querySelector('#fact-socket').textContent), [old]);
      await reads(page, '#fact-transport', transport);
    }
    await page.click('#link-toggle');
    await reads(page, '#link-state', 'Disconnected');
    await reads(page, '#fact-transport', '–');
    await page.click('#link-toggle');
    await connected(page);
  });

  test('shows the apps that the node has on the expected namespaces, and opens with one of them', async () => {
    for (const [mounts, shown] of [
      ['relay=/relay', ['relay', 'log']],
      ['chat=/', ['chat', 'log']],
      ['sos=/,emergencies=/elsewhere,care=/', ['sos', 'care', 'log']],
    ]) {
      const node = await startGateway({ env: { MOUNTS: mounts } });
      try {
        const { page } = await enter({ token: node.token({ userId: 'ada', ...EVERYTHING }) }, { url: node.url, expected: NODE_GONE });
        await holds(page, '#views', ([views]) => {
          const visible = [...document.querySelectorAll('#views button:not([hidden])')].map((button) => button.dataset.view);
          return visible.join() === views;
        }, [shown.join()]);
        await holds(page, '#views', ([first]) => document.querySelector('#views [aria-current=page]').dataset.view === first, [shown[0]]);
        assert.equal(await page.locator(`.view[data-view=${shown[0]}]`).isVisible(), true, mounts);
        if (mounts.startsWith('relay')) {
          await page.fill('#relay-join-room', 'room');
          await page.press('#relay-join-room', 'Enter');
          await includes(page, '#relay-rooms', 'room');
        }
        await countOf(page, '.toast', 0);
      } finally {
        await node.kill();
      }
    }
  });

  test('a restarted node is found again, with the room and each message once', async () => {
    const first = await startGateway();
    try {
      const room = unique('room');
      const token = first.token({ userId: 'ada', name: 'Ada' });
      const { page } = await enter({ token }, { url: first.url, rooms: [room], expected: NODE_GONE });
      await say(page, 'before');
      await countOf(page, '.msg[data-state=stored]', 1);
      await first.kill();
      await reads(page, '#link-state', 'Reconnecting');
      const second = await first.restart();
      try {
        await connected(page);
        await reads(page, '#room-note', '');
        await say(page, 'after');
        await countOf(page, '.msg[data-state=stored]', 2);
        assert.deepEqual(await texts(page), ['before', 'after']);
      } finally {
        await second.kill();
      }
    } finally {
      await first.kill();
    }
  });

  test('a message without an answer is marked and can be sent again', async () => {
    const first = await startGateway();
    let second;
    try {
      const room = unique('room');
      const token = first.token({ userId: 'ada', name: 'Ada' });
      const { page } = await enter({ token }, { url: first.url, rooms: [room], expected: NODE_GONE });
      await reads(page, '#fact-transport', 'websocket');
      first.signal('SIGSTOP');
      await say(page, 'are you there?');
      await countOf(page, '.msg[data-state=sending]', 1);
      await first.kill();
      await includes(page, '.failure', 'Not sent: The connection was lost');
      second = await first.restart();
      await connected(page);
      await reads(page, '#room-note', '');
      await page.getByRole('button', { name: 'Retry' }).click();
      await countOf(page, '.msg[data-state=stored]', 1);
      await countOf(page, '.failure', 0);
      assert.deepEqual(await texts(page), ['are you there?']);
    } finally {
      await first.kill();
      await second?.kill();
    }
  });
});

describe('chat', () => {
  test('two users chat in one room and see the messages in the same order', async () => {
    const room = unique('room');
    const ada = site.person('Ada Lovelace');
    const bela = site.person('Bela Bartok');
    const [a, b] = [await enter(ada, { rooms: [room] }), await enter(bela, { rooms: [room], colorScheme: 'dark' })];
    const wanted = [];
    for (let n = 1; n <= 5; n += 1) {
      wanted.push(`from Ada ${n}`, `from Bela ${n}`);
      await Promise.all([say(a.page, `from Ada ${n}`), say(b.page, `from Bela ${n}`)]);
    }
    await Promise.all([a, b].map(({ page }) => countOf(page, '.msg[data-state=stored]', wanted.length)));
    const [onA, onB] = await Promise.all([texts(a.page), texts(b.page)]);
    assert.deepEqual(onA, onB);
    assert.deepEqual([...onA].sort(), [...wanted].sort());
    for (const who of ['Ada', 'Bela']) {
      assert.deepEqual(onA.filter((text) => text.includes(who)), wanted.filter((text) => text.includes(who)));
    }
    // Each sees their own messages on the right without a name, and the other's with the name.
    assert.equal(await a.page.locator('.msg.own').count(), 5);
    const right = await a.page.locator('.msg.own .bubble').first().boundingBox();
    const left = await a.page.locator('.msg:not(.own) .bubble').first().boundingBox();
    assert.ok(right.x > left.x + 100, `${right.x} against ${left.x}`);
    await reads(a.page, '.msg:not(.own) .who', 'Bela Bartok');
    await includes(a.page, '#member-list', 'Bela Bartok');
    await includes(a.page, '#announcer', 'Bela Bartok in');
    await screenshot(a.page, 'chat-light');
    await screenshot(b.page, 'chat-dark');
  });

  test('users who enter and leave are announced in the room, and shown in the list', async () => {
    const room = unique('room');
    const { page } = await enter(site.person('Ada'), { rooms: [room] });
    const bela = site.person('Bela');
    const socket = await guest(bela, room);
    await includes(page, '.notice', 'joined');
    await includes(page, '#member-list', bela.email);
    assert.equal((await ask(socket, 'leave_room', room)).success, true);
    await countOf(page, '.notice', 2);
    await includes(page, '.member[data-here=no]', bela.email);
  });

  test('typing is shown to the other user, and disappears when the text is deleted or sent', async () => {
    const room = unique('room');
    const [a, b] = [await enter(site.person('Ada'), { rooms: [room] }), await enter(site.person('Bela Bartok'), { rooms: [room] })];
    // A first message supplies the name; typing events contain only the e-mail address.
    await say(b.page, 'hello');
    await countOf(a.page, '.msg[data-state=stored]', 1);
    await b.page.locator('#message').pressSequentially('I think');
    await includes(a.page, '#typing', 'Bela Bartok is typing');
    await b.page.fill('#message', '');
    await reads(a.page, '#typing', '');
    await b.page.locator('#message').pressSequentially('therefore');
    await includes(a.page, '#typing', 'Bela Bartok is typing');
    await b.page.press('#message', 'Enter');
    await countOf(a.page, '.msg[data-state=stored]', 2);
    await reads(a.page, '#typing', '');
    assert.equal(await b.page.textContent('#typing'), '');
  });

  test('typing disappears after a pause', async () => {
    const room = unique('room');
    const [a, b] = [await enter(site.person('Ada'), { rooms: [room] }), await enter(site.person('Bela'), { rooms: [room] })];
    await b.page.locator('#message').pressSequentially('hmm');
    await includes(a.page, '#typing', 'is typing');
    await reads(a.page, '#typing', '');
    assert.equal(await b.page.inputValue('#message'), 'hmm');
  });

  test('a reload stays signed in and shows the history', async () => {
    const room = unique('room');
    const { page } = await enter(site.person('Ada'), { rooms: [room] });
    for (const text of ['one', 'two', 'three']) await say(page, text);
    await countOf(page, '.msg[data-state=stored]', 3);
    await page.reload();
    await connected(page);
    await reads(page, '#room-name', `# ${room}`);
    await countOf(page, '.msg[data-state=stored]', 3);
    assert.deepEqual(await texts(page), ['one', 'two', 'three']);
  });

  test('older messages load on demand, down to the start of the room', async () => {
    const room = unique('room');
    const socket = await guest(site.person('Bela'), room);
    const wanted = Array.from({ length: 60 }, (_, n) => `message ${n + 1}`);
    for (const content of wanted) assert.equal((await ask(socket, 'send_message', { roomId: room, content })).success, true);
    const { page } = await enter(site.person('Ada'), { rooms: [room] });
    await countOf(page, '.msg', 50);
    assert.deepEqual(await texts(page), wanted.slice(10));
    assert.equal(await page.locator('#room-start').isVisible(), false);
    await page.click('#older');
    await countOf(page, '.msg', 60);
    await page.locator('#room-start').waitFor();
    assert.deepEqual(await texts(page), wanted);
    assert.equal(await page.locator('#older').isVisible(), false);
  });

  test('several rooms: messages in other rooms are counted until they are read', async () => {
    const [here, there] = [unique('here'), unique('there')];
    const { page } = await enter(site.person('Ada'), { rooms: [there, here] });
    const socket = await guest(site.person('Bela'), there);
    for (const content of ['one', 'two']) await ask(socket, 'send_message', { roomId: there, content });
    const tab = page.locator('#room-list .tab').filter({ hasText: there });
    await reads(page, '#chat-badge', '2');
    assert.equal(await tab.locator('.badge').textContent(), '2');
    assert.equal(await page.title(), '(2) Muster');
    assert.equal(await page.locator('.msg').count(), 0);
    await tab.click();
    await countOf(page, '.msg', 2);
    assert.equal(await page.locator('#chat-badge').isVisible(), false);
    assert.equal(await page.title(), 'Muster');
    await page.click('#leave');
    await reads(page, '#room-name', `# ${here}`);
    await countOf(page, '#room-list .tab', 1);
  });

  test('markup in messages and names is shown as text', async () => {
    const room = unique('room');
    const script = '<script>window.pwned = 1</script><img src="/x" onerror="window.pwned = 1"> & <b>bold</b>';
    const eve = site.person('<img src="/x" onerror="window.pwned = 1">');
    const ada = await enter(site.person('Ada'), { rooms: [room] });
    const other = await enter(eve, { rooms: [room] });
    await say(other.page, script);
    for (const { page } of [ada, other]) {
      await reads(page, '.msg .text', script);
      assert.equal(await page.evaluate(() => window.pwned), undefined);
      assert.equal(await page.locator('#messages :is(script, img, b), #member-list img').count(), 0);
    }
    await includes(ada.page, '.who', eve.name);
    assert.deepEqual(ada.asked.filter((address) => new URL(address).pathname === '/x'), []);
  });

  test('a refused room is reported and not kept; a message that is too long cannot be sent', async () => {
    const [other, room] = [unique('room'), unique('room')];
    const { page } = await enter(site.person('Ada'), { rooms: [other, room] });
    const socket = await guest(site.person('Bela'), other);
    await ask(socket, 'send_message', { roomId: other, content: 'unread' });
    await reads(page, '#chat-badge', '1');
    await page.fill('#join-room', 'a\u0007b');
    await page.press('#join-room', 'Enter');
    await includes(page, '.toast', 'Invalid room id');
    await reads(page, '#room-name', `# ${room}`);
    await countOf(page, '#room-list .tab', 2);
    await reads(page, '#chat-badge', '1');
    await page.fill('#message', '𝕏'.repeat(1000));
    assert.equal(await page.locator('#send').isEnabled(), true);
    await page.fill('#message', '𝕏'.repeat(1001));
    await reads(page, '#count', '1001 / 1000');
    assert.equal(await page.locator('#send').isEnabled(), false);
    await page.getByRole('button', { name: 'Dismiss' }).click();
    await countOf(page, '.toast', 0);
  });
});

describe('relay', () => {
  test('join, publish, receive, members and echo', async () => {
    const room = unique('sensors');
    const ada = site.person('Ada', EVERYTHING);
    const { page } = await enter(ada);
    await openView(page, 'relay');
    await page.fill('#relay-join-room', room);
    await page.press('#relay-join-room', 'Enter');
    await includes(page, '#relay-rooms', room);
    await page.fill('#relay-event', 'reading');
    await page.fill('#relay-data', '{"celsius": -11.5, "note": "<b>cold</b>"}');
    await page.click('#relay-send');
    await includes(page, '#relay-result', 'Published');
    await includes(page, '#relay-lines', 'reading{"celsius":-11.5,"note":"<b>cold</b>"}');
    await page.getByRole('button', { name: `Members of ${room}` }).click();
    await includes(page, '#relay-members-title', '1 socket of 1 user');
    await includes(page, '#relay-members-body', 'Ada');
    await page.click('#relay-echo');
    await includes(page, '#relay-result', '{"celsius":-11.5,"note":"<b>cold</b>"}');
    await page.fill('#relay-data', '{');
    await page.click('#relay-send');
    assert.equal(await page.getAttribute('#relay-data', 'aria-invalid'), 'true');
    await countOf(page, '#relay-lines li', 1);
    await screenshot(page, 'relay');
  });

  test('a token without relay claims is shown as powerless', async () => {
    const { page } = await enter(site.person('Ada'));
    await openView(page, 'relay');
    await includes(page, '#relay-claims', 'may join nothing and publish to nothing');
    await page.fill('#relay-join-room', unique('room'));
    await page.press('#relay-join-room', 'Enter');
    await includes(page, '.toast', 'Not allowed');
    await countOf(page, '#relay-rooms li', 0);
  });
});

describe('the log', () => {
  test('lists events of both directions and their acks, filters, pauses and clears', async () => {
    const room = unique('room');
    const { page } = await enter(site.person('Ada'), { rooms: [room] });
    await say(page, 'look at the log');
    await countOf(page, '.msg[data-state=stored]', 1);
    await openView(page, 'log');
    const line = (direction, text) => page.locator(`#log-lines [data-dir=${direction}]`).filter({ hasText: text });
    await line('out', `join_room"${room}"`).waitFor();
    await line('in', `room_history{"roomId":"${room}"`).waitFor();
    await line('in', 'ack join_room{"success":true').waitFor();
    await line('out', 'send_message{"roomId"').waitFor();
    await line('in', 'new_message{').waitFor();
    await line('sys', 'connect{"id"').first().waitFor();
    assert.match(await line('in', 'new_message{').locator('.at').textContent(), /^\d\d:\d\d:\d\d\.\d{3}$/);

    await line('in', 'new_message{').locator('summary').click();
    await includes(page, '#log-lines pre', '"content": "look at the log"');
    await screenshot(page, 'log');

    await page.fill('#log-filter', 'new_message');
    await countOf(page, '#log-lines li', 1);
    await page.selectOption('#log-direction', 'out');
    await countOf(page, '#log-lines li', 0);
    await page.fill('#log-filter', '');
    await page.selectOption('#log-direction', '');

    await page.click('#log-pause');
    const shown = await page.locator('#log-lines li').count();
    const socket = await guest(site.person('Bela'), room);
    await ask(socket, 'send_message', { roomId: room, content: 'while paused' });
    await includes(page, '#log-count', '2 waiting');
    await countOf(page, '#log-lines li', shown);
    await page.click('#log-pause');
    await countOf(page, '#log-lines li', shown + 2);
    await page.click('#log-clear');
    await countOf(page, '#log-lines li', 0);
  });

  test(`keeps ${LOG_LINES_MAX} lines at most, the newest ones`, async () => {
    const room = unique('room');
    const ada = site.person('Ada', EVERYTHING);
    const { page } = await enter(ada);
    await openView(page, 'relay');
    await page.fill('#relay-join-room', room);
    await page.press('#relay-join-room', 'Enter');
    await includes(page, '#relay-rooms', room);
    await openView(page, 'log');
    const socket = await site.clients.connect({ namespace: '/relay', token: ada.token });
    const total = LOG_LINES_MAX + 50;
    for (let n = 1; n <= total; n += 1) socket.emit('publish', { room, event: 'tick', data: { n } });
    // Two cores that also run the gateways and another browser take a while to draw 550 lines.
    await includes(page, '#log-lines li:last-child', `{"n":${total}}`, 60_000);
    await countOf(page, '#log-lines li', LOG_LINES_MAX);
    await includes(page, '#log-lines li:first-child', `{"n":${total - LOG_LINES_MAX + 1}}`);
  });
});

test('on a phone, two users chat, and a screenshot is taken', async () => {
  const room = unique('room');
  const { page } = await enter(site.person('Ada'), { rooms: [room], screen: PHONE });
  const socket = await guest(site.person('Bela Bartok'), room);
  await ask(socket, 'send_message', { roomId: room, content: 'Is the summit on for noon?' });
  await say(page, 'Yes, same place.');
  await countOf(page, '.msg[data-state=stored]', 2);
  await page.click('#members-toggle');
  await includes(page, '#member-list', 'Bela Bartok');
  assert.equal(await page.locator('#members').isVisible(), true);
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('#members').isVisible(), false);
  await screenshot(page, 'phone');
});
