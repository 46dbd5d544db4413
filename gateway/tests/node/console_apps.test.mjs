// The console's views of sos, emergencies and care in a real browser: two users each, who see each other's actions.
// Calls are in `console_calls.test.mjs`.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { ask, unique } from './support/clients.mjs';
import {
  DESKTOP, HANGS_UP, PHONE, connected, consoleSite, countOf, fits, gone, holds, includes, openView, reads, screenshot, talkTo, visible,
} from './support/console.mjs';

const site = consoleSite();

const BERLIN = { latitude: 52.52, longitude: 13.405 };
// 695 m to the north.
const NORTH = { latitude: 52.52625, longitude: 13.405 };

/** Enters a location in the location form, and shares it. */
async function shareFrom(page, form, { latitude, longitude }) {
  await page.fill(`#${form}-latitude`, String(latitude));
  await page.fill(`#${form}-longitude`, String(longitude));
  await page.click(`#${form} [type=submit]`);
}

describe('sos', () => {
  test('an incident is raised, found nearby, joined and left, and each user sees the other join and leave', async () => {
    const [ada, bela] = [site.person('Ada Lovelace'), site.person('Bela Bartok')];
    const a = await site.enterView(ada, 'sos');
    const b = await site.enterView(bela, 'sos', { colorScheme: 'dark' });
    const what = unique('lost at the lake');
    await shareFrom(a.page, 'sos-here', BERLIN);
    await includes(a.page, '#sos-here .note', 'You have not joined an incident');
    await a.page.fill('#sos-description', what);
    await a.page.click('#sos-raise [type=submit]');
    await reads(a.page, '#sos-title', what);
    await includes(a.page, '#sos-active', 'Ada Lovelace (you)');

    await shareFrom(b.page, 'sos-here', NORTH);
    await b.page.click('#sos-nearby [type=submit]');
    const entry = b.page.locator('#sos-list .tab').filter({ hasText: what });
    assert.match(await entry.locator('small').textContent(), /^69\d m · /);
    await entry.click();
    await reads(b.page, '#sos-note', 'Join to see the participants.');
    await b.page.selectOption('#sos-type', 'rescuer');
    await b.page.click('#sos-join');
    await includes(b.page, '#sos-active', 'Bela Bartok (you)');
    await includes(a.page, '#sos-active', 'Bela Bartok');
    await includes(a.page, '#announcer', 'Bela Bartok joined the incident');
    await countOf(a.page, '#sos-active li', 2);

    await shareFrom(b.page, 'sos-here', NORTH);
    await includes(b.page, '#sos-here .note', 'Shared at');
    await includes(a.page, '#sos-positions', 'Bela Bartok52.52625, 13.40500695 mjust now');
    await screenshot(a.page, 'sos-light');
    await screenshot(b.page, 'sos-dark');

    await b.page.press('#sos-leave', 'Enter');
    await includes(a.page, '#announcer', 'Bela Bartok left the incident');
    await countOf(a.page, '#sos-active li', 1);
    await countOf(a.page, '#sos-positions tr', 0);
    await countOf(a.page, '#sos-history tr', 2);
    // The node disconnected the sockets of the user who left; the page reconnects without an action of the user.
    await visible(b.page, '#sos-join');
    // The removed button had the keyboard focus; the next control has it now.
    await holds(b.page, '#sos-type', () => document.activeElement.id === 'sos-type');
    await b.page.click('#sos-join');
    await visible(b.page, '#sos-leave');
    await countOf(a.page, '#sos-history tr', 3);
    await shareFrom(b.page, 'sos-here', NORTH);
    await countOf(a.page, '#sos-positions tr', 1);
    await countOf(b.page, '.toast', 0);
  });

  test('events of an incident while another view is open are counted, and a reload finds the incident', async () => {
    const [ada, bela] = [site.person('Ada'), site.person('Bela')];
    const { page } = await site.enterView(ada, 'sos');
    await page.fill('#sos-description', '<b>help</b>');
    await page.click('#sos-raise [type=submit]');
    await reads(page, '#sos-title', '<b>help</b>');
    const id = await page.textContent('#sos-id');
    await openView(page, 'chat');
    const headers = { authorization: `Bearer ${bela.token}` };
    const joined = await fetch(`${site.gateway.url}/api/sos/${id}/participants/join`, { method: 'POST', headers });
    assert.equal(joined.status, 201);
    await reads(page, '#sos-badge', '1');
    assert.equal(await page.title(), '(1) Muster');
    await openView(page, 'sos');
    await gone(page, '#sos-badge');
    await page.reload();
    await connected(page);
    await includes(page, '#sos-list', 'joined');
    await page.locator('#sos-list .tab').click();
    await countOf(page, '#sos-active li', 2);
  });
});

describe('emergencies', () => {
  test('a helper is alerted and responds, and both see each other\'s updates until it is resolved', async () => {
    const [ada, bela] = [site.person('Ada Lovelace'), site.person('Bela Bartok', { role: 'helper', verified: true })];
    const b = await site.enterView(bela, 'emergencies', { colorScheme: 'dark' });
    await shareFrom(b.page, 'em-here', NORTH);
    await includes(b.page, '#em-here .note', 'Shared at');
    const a = await site.enterView(ada, 'emergencies');
    await shareFrom(a.page, 'em-here', BERLIN);
    await includes(a.page, '#em-here .note', 'Shared at');
    const what = unique('chest pain');
    await a.page.fill('#em-type', 'medical');
    await a.page.fill('#em-category', 'heart_attack');
    await a.page.fill('#em-description', what);
    await a.page.selectOption('#em-priority', 'critical');
    await a.page.fill('#em-severity', '9');
    await a.page.click('#em-create [type=submit]');
    await reads(a.page, '#em-text', what);
    await includes(a.page, '#em-create-hint', 'near.');

    await includes(b.page, '#em-list', '695 m');
    await b.page.locator('#em-list .tab').first().click();
    await reads(b.page, '#em-text', what);
    await includes(b.page, '#em-facts', 'Ada Lovelace');
    await b.page.click('#em-respond');
    await visible(b.page, '#em-work');
    await includes(a.page, '#em-helpers', 'Bela Bartok');
    await reads(a.page, '#em-status', 'responding');
    await b.page.selectOption('#em-my-status', 'on_way');
    await b.page.fill('#em-my-notes', 'five minutes');
    await b.page.click('#em-status-form [type=submit]');
    await includes(a.page, '#em-helpers', 'on the way');
    await includes(a.page, '#em-helpers', 'five minutes');
    await shareFrom(b.page, 'em-here', NORTH);
    await includes(a.page, '#em-positions', '52.52625, 13.40500695 m');

    await b.page.fill('#em-message', 'Which floor?');
    await b.page.press('#em-message', 'Enter');
    await includes(a.page, '#em-messages .msg:not(.own)', 'Which floor?');
    await a.page.selectOption('#em-to', bela.userId);
    await a.page.fill('#em-message', 'Third.');
    await a.page.press('#em-message', 'Enter');
    await includes(a.page, '#em-messages .msg.own', 'You to Bela Bartok');
    await includes(b.page, '#em-messages .msg:not(.own)', 'Third.');
    await screenshot(a.page, 'emergencies-light');
    await screenshot(b.page, 'emergencies-dark');

    await a.page.fill('#em-resolution', 'In good hands');
    await a.page.click('#em-resolve [type=submit]');
    await reads(a.page, '#em-status', 'resolved');
    await reads(b.page, '#em-status', 'resolved');
    await includes(b.page, '#em-note', 'In good hands');
    await gone(b.page, '#em-work');
    await countOf(a.page, '.toast', 0);
    await countOf(b.page, '.toast', 0);
  });

  test('an anonymous owner is hidden from helpers, and may cancel', async () => {
    const [ada, bela] = [site.person('Ada Lovelace'), site.person('Bela Bartok', { role: 'rescuer' })];
    const b = await site.enterView(bela, 'emergencies');
    const a = await site.enterView(ada, 'emergencies');
    await shareFrom(a.page, 'em-here', BERLIN);
    await a.page.fill('#em-type', unique('security'));
    await a.page.check('#em-anonymous');
    await a.page.click('#em-create [type=submit]');
    await includes(a.page, '#em-facts', 'shown to nobody else');
    const id = await a.page.textContent('#em-id');
    await b.page.locator('#em-list .tab').first().click();
    await reads(b.page, '#em-id', id);
    await includes(b.page, '#em-facts', 'Anonymous · ');
    await b.page.click('#em-respond');
    await includes(a.page, '#em-helpers', 'Bela Bartok');
    await a.page.fill('#em-message', 'Please be quiet.');
    await a.page.press('#em-message', 'Enter');
    await reads(b.page, '#em-messages .who', 'Anonymous to all helpers');
    await openView(b.page, 'log');
    const log = await b.page.textContent('#log-lines');
    assert.ok(log.includes('Please be quiet.'));
    assert.ok(![ada.userId, ada.name, ada.email].some((secret) => log.includes(secret)), 'the node revealed the owner to the helper');
    await a.page.click('#em-cancel');
    await reads(a.page, '#em-note', 'Cancelled.');
    await openView(b.page, 'emergencies');
    await reads(b.page, '#em-note', 'Cancelled.');
  });

  test('an alert is counted while another view is open', async () => {
    const [ada, bela] = [site.person('Ada'), site.person('Bela', { role: 'helper' })];
    const { page } = await site.enter(bela);
    const headers = { authorization: `Bearer ${ada.token}`, 'content-type': 'application/json' };
    const body = JSON.stringify({ type: 'fire', location: BERLIN });
    const made = await fetch(`${site.gateway.url}/api/v1/emergencies`, { method: 'POST', headers, body });
    assert.equal(made.status, 201);
    await reads(page, '#emergencies-badge', '1');
    await openView(page, 'emergencies');
    await gone(page, '#emergencies-badge');
  });
});

async function write(page, text) {
  await page.fill('#care-message', text);
  await page.press('#care-message', 'Enter');
}

async function notify(who, notice) {
  const headers = { 'content-type': 'application/json', 'x-internal-request': 'true' };
  const answer = await fetch(`${site.gateway.internalUrl}/internal/notifications`, { method: 'POST', headers, body: JSON.stringify({ userId: who.userId, ...notice }) });
  assert.equal(answer.status, 201, await answer.text());
}

describe('care', () => {
  test('a message is sent, delivered and read, with an attachment\'s name, and typing is shown', async () => {
    const [ada, bela] = [site.person('Ada Lovelace'), site.person('Bela Bartok')];
    const a = await site.enterView(ada, 'care');
    const b = await site.enter(bela, { colorScheme: 'dark' });
    await talkTo(a.page, bela);
    await a.page.setInputFiles('#care-files', { name: 'x-ray.png', mimeType: 'image/png', buffer: Buffer.alloc(3_000) });
    await write(a.page, 'Hello, <b>doctor</b>!');
    await countOf(a.page, '#care-messages .msg[data-state=delivered]', 1);
    await reads(b.page, '#care-badge', '1');
    await openView(b.page, 'care');
    await b.page.locator('#care-list .tab').click();
    await reads(b.page, '#care-messages .text', 'Hello, <b>doctor</b>!');
    await reads(b.page, '#care-messages .files', 'x-ray.png · image/png · 3 KB');
    await countOf(a.page, '#care-messages .msg[data-state=read]', 1);
    await gone(b.page, '#care-badge');
    await visible(b.page, '#care-start');
    await b.page.locator('#care-message').pressSequentially('Good mor');
    await includes(a.page, '#care-typing', 'Bela Bartok is typing');
    await write(b.page, 'Good morning.');
    await countOf(b.page, '#care-messages .msg.own[data-state=read]', 1);
    await reads(a.page, '#care-typing', '');
    await reads(a.page, '#care-name', 'Bela Bartok');
    await screenshot(a.page, 'care-light');
    await screenshot(b.page, 'care-dark');
    await a.page.reload();
    await connected(a.page);
    await countOf(a.page, '#care-messages .msg', 2);
  });

  test('a topic carries messages, and other users\' visits are refused with an explanation', async () => {
    const [ada, bela] = [site.person('Ada'), site.person('Bela')];
    const topic = unique('appointments');
    const [a, b] = [await site.enterView(ada, 'care'), await site.enterView(bela, 'care')];
    for (const { page } of [a, b]) {
      await page.selectOption('#care-kind', 'topic');
      await page.fill('#care-open-id', topic);
      await page.press('#care-open-id', 'Enter');
      await reads(page, '#care-name', `topic:${topic}`);
    }
    await reads(a.page, '#care-note', 'with Bela');
    await write(b.page, 'Is anybody free on Monday?');
    await reads(a.page, '#care-messages .text', 'Is anybody free on Monday?');
    await b.page.click('#care-leave');
    await reads(a.page, '#care-note', 'no other users here');
    await a.page.selectOption('#care-kind', 'visit');
    await a.page.fill('#care-open-id', unique('visit'));
    await a.page.press('#care-open-id', 'Enter');
    await reads(a.page, '#care-note', 'Room access denied');
    assert.equal(await a.page.locator('#care-send').isEnabled(), false);
  });

  test('older messages load on demand', async () => {
    const [ada, bela] = [site.person('Ada'), site.person('Bela')];
    const socket = await site.clients.connect({ token: bela.token });
    for (let n = 1; n <= 60; n += 1) assert.equal((await ask(socket, 'message:send', { recipientId: ada.userId, message: `message ${n}` })).success, true);
    const { page } = await site.enterView(ada, 'care');
    await includes(page, '#care-list .badge', '60');
    await page.locator('#care-list .tab').click();
    await countOf(page, '#care-messages .msg', 50);
    await page.click('#care-older');
    await countOf(page, '#care-messages .msg', 60);
    const texts = await page.locator('#care-messages .text').allTextContents();
    assert.deepEqual(texts, Array.from({ length: 60 }, (_, n) => `message ${n + 1}`));
    await visible(page, '#care-start');
  });

  test('one user sets a status and the other sees it', async () => {
    const [ada, bela] = [site.person('Ada'), site.person('Bela')];
    const [a, b] = [await site.enterView(ada, 'care'), await site.enterView(bela, 'care')];
    await reads(a.page, '#presence-now', 'You are online');
    await a.page.fill('#presence-watch-id', bela.userId);
    await a.page.press('#presence-watch-id', 'Enter');
    await includes(a.page, '#presence-list', 'online');
    await b.page.selectOption('#presence-status', 'busy');
    await b.page.fill('#presence-custom', 'In a meeting');
    await b.page.press('#presence-custom', 'Enter');
    await reads(a.page, '#presence-list small', 'busy: In a meeting');
    await reads(b.page, '#presence-now', 'You are busy: In a meeting');
    await a.page.getByRole('button', { name: `Stop watching ${bela.userId}` }).click();
    await countOf(a.page, '#presence-list li', 0);
  });

  test('a notification arrives, is counted and read', async () => {
    const ada = site.person('Ada');
    await notify(ada, { title: 'Before', message: 'you came' });
    const { page } = await site.enter(ada);
    await reads(page, '#care-badge', '1');
    await notify(ada, { title: 'Appointment', message: 'at <i>noon</i>', type: 'reminder' });
    await reads(page, '#care-badge', '2');
    await includes(page, '#announcer', 'Notification: Appointment');
    await openView(page, 'care');
    await countOf(page, '#notices li[data-read=no]', 2);
    await reads(page, '#notices li:first-child p', 'at <i>noon</i>');
    await screenshot(page, 'care-notifications');
    await page.getByRole('button', { name: 'Mark as read: Appointment' }).click();
    await reads(page, '#notices-unread', '1');
    await page.click('#notices-read-all');
    await gone(page, '#notices-unread');
    await gone(page, '#care-badge');
    await countOf(page, '#notices li[data-read=yes]', 2);
  });
});

test('after signing out, the next user finds no data of the last one', async () => {
  const [ada, bela, cleo] = [site.person('Ada', { role: 'helper' }), site.person('Bela'), site.person('Cleo')];
  const secret = unique('secret');
  const { page } = await site.enterView(ada, 'sos', { expected: HANGS_UP });
  await shareFrom(page, 'sos-here', BERLIN);
  await page.fill('#sos-description', secret);
  await page.click('#sos-raise [type=submit]');
  await reads(page, '#sos-title', secret);
  await openView(page, 'emergencies');
  await page.fill('#em-type', 'medical');
  await page.fill('#em-description', secret);
  await page.click('#em-create [type=submit]');
  await reads(page, '#em-text', secret);
  await openView(page, 'care');
  await talkTo(page, bela);
  await write(page, secret);
  await notify(ada, { title: secret, message: secret });
  await includes(page, '#notices', secret);
  await page.click('#sign-out');
  await page.fill('#token', cleo.token);
  await page.press('#token', 'Enter');
  await connected(page);
  await reads(page, '#me-name', 'Cleo');
  await includes(page, '#presence-now', 'You are online');
  const left = await page.evaluate(() => document.body.textContent + [...document.querySelectorAll('input, textarea')].map(({ value }) => value).join());
  for (const trace of [secret, bela.userId, ada.userId, String(BERLIN.latitude)]) assert.ok(!left.includes(trace), trace);
  assert.equal(await page.evaluate(() => JSON.stringify({ ...sessionStorage }).includes('52.52')), false);
});

for (const [name, screen] of [['desktop', DESKTOP], ['phone', PHONE]]) {
  test(`the views fit a ${name} without horizontal scrolling`, async () => {
    const ada = site.person('Ada Lovelace With A Rather Long Name', { role: 'helper' });
    const other = site.person('Bela');
    const socket = await site.clients.connect({ token: other.token });
    assert.equal((await ask(socket, 'message:send', { recipientId: ada.userId, message: 'w'.repeat(900) })).success, true);
    await notify(ada, { title: 't'.repeat(120), message: 'm'.repeat(300) });
    const { page } = await site.enterView(ada, 'sos', { screen });
    await shareFrom(page, 'sos-here', BERLIN);
    await page.fill('#sos-description', 'd'.repeat(400));
    await page.click('#sos-raise [type=submit]');
    await countOf(page, '#sos-active li', 1);
    await fits(page, 'sos');
    await screenshot(page, `sos-${name}`);
    await openView(page, 'emergencies');
    await page.fill('#em-type', 'a'.repeat(128));
    await page.fill('#em-description', 'd'.repeat(400));
    await page.click('#em-create [type=submit]');
    await visible(page, '#em-end');
    await fits(page, 'emergencies');
    await screenshot(page, `emergencies-${name}`);
    await openView(page, 'care');
    await page.locator('#care-list .tab').click();
    await countOf(page, '#care-messages .msg', 1);
    await fits(page, 'care');
    await screenshot(page, `care-${name}`);
    if (name === 'phone') {
      await page.click('#care-desk-toggle');
      await visible(page, '#care-desk');
      await fits(page, 'care with presence and notifications');
      await page.keyboard.press('Escape');
      await gone(page, '#care-desk');
    }
    await page.click('#care-call-video');
    await visible(page, '#call[data-state=calling]');
    await fits(page, 'a call');
    await screenshot(page, `call-${name}`);
    await page.click('#call-end');
    await reads(page, '#call-state', 'Ended after 0:00');
  });
}
