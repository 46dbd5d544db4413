// Calls in the console: two browsers that are connected directly, with signals through the node's `call:signal`.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { ask } from './support/clients.mjs';
import { NODE_GONE, connected, consoleSite, gone, holds, includes, reads, screenshot, talkTo, visible } from './support/console.mjs';
import { startGateway } from './support/gateway.mjs';

// Chromium fakes a camera and a microphone; a visitor without the permission may not use them.
const site = consoleSite({ flags: ['--use-fake-device-for-media-stream'] });
const DEVICES = { permissions: ['camera', 'microphone'] };

describe('calls', () => {
  test('two browsers connect directly, one with a camera and one without, and hang up', async () => {
    const [ada, bela] = [site.person('Ada Lovelace'), site.person('Bela Bartok')];
    const a = await site.enterView(ada, 'care', { context: DEVICES });
    const b = await site.enterView(bela, 'care', { colorScheme: 'dark' });
    const elsewhere = await site.enter(bela);
    await talkTo(a.page, bela);
    await a.page.click('#care-call-video');
    await includes(a.page, '#call-state', 'ringing…');
    for (const { page } of [b, elsewhere]) {
      await reads(page, '#call-who', 'Ada Lovelace');
      await reads(page, '#call-state', 'video call for you');
    }
    await screenshot(b.page, 'call-incoming');
    await b.page.click('#call-accept');
    await reads(elsewhere.page, '#call-state', 'Answered elsewhere');
    for (const { page } of [a, b]) {
      await visible(page, '#call[data-state=talking][data-rtc=connected]');
      // The other side's picture moves, and the round trip between the two is measured.
      await holds(page, '#call-remote', () => document.querySelector('#call-remote').videoWidth > 0 && document.querySelector('#call-remote').currentTime > 0);
      await holds(page, '#call-link', () => /direct connection · \d+ ms/.test(document.querySelector('#call-link').textContent));
    }
    assert.doesNotMatch(await a.page.textContent('#call-link'), /no camera/);
    assert.match(await b.page.textContent('#call-link'), /no camera or microphone/);
    await a.page.click('#call-mute');
    assert.equal(await a.page.getAttribute('#call-mute', 'aria-pressed'), 'true');
    await reads(a.page, '#care-note', 'in a call');
    await screenshot(a.page, 'call-light');
    await screenshot(b.page, 'call-dark');
    await b.page.click('#call-end');
    for (const { page } of [a, b]) {
      await holds(page, '#call-state', () => /^Ended after \d+:\d\d$/.test(document.querySelector('#call-state').textContent));
    }
    await a.page.click('#call-dismiss');
    await gone(a.page, '#call');
    assert.equal(await a.page.evaluate(() => document.querySelector('#call-local').srcObject), null);
  });

  test('a call is rejected, or ended while it rings', async () => {
    const [ada, bela] = [site.person('Ada'), site.person('Bela')];
    const [a, b] = [await site.enterView(ada, 'care'), await site.enter(bela)];
    await talkTo(a.page, bela);
    await a.page.click('#care-call-audio');
    await reads(b.page, '#call-state', 'call for you');
    await b.page.click('#call-reject');
    await includes(a.page, '#call-state', 'They rejected the call');
    await includes(b.page, '#call-state', 'Rejected');
    await a.page.click('#care-call-audio');
    await visible(b.page, '#call[data-state=ringing]');
    await a.page.click('#call-end');
    await reads(b.page, '#call-state', 'Ended after 0:00');
    await reads(a.page, '#call-state', 'Ended after 0:00');
  });

  test('a reload ends the call, because it cannot be resumed', async () => {
    const [ada, bela] = [site.person('Ada'), site.person('Bela')];
    const [a, b] = [await site.enterView(ada, 'care'), await site.enter(bela)];
    await talkTo(a.page, bela);
    await a.page.click('#care-call-audio');
    await b.page.click('#call-accept');
    for (const { page } of [a, b]) await visible(page, '#call[data-rtc=connected]');
    await a.page.reload();
    await includes(b.page, '#call-state', 'Ended after');
    await connected(a.page);
    await a.page.click('#care-call-audio');
    await visible(b.page, '#call[data-state=ringing]');
  });

  test('a user in a call cannot be called', async () => {
    const [ada, bela, cleo] = ['Ada', 'Bela', 'Cleo'].map((name) => site.person(name));
    const [a, c] = [await site.enterView(ada, 'care'), await site.enterView(cleo, 'care')];
    const socket = await site.clients.connect({ token: bela.token });
    const { callId } = await ask(socket, 'call:initiate', { recipientId: ada.userId, callType: 'audio' });
    await visible(a.page, '#call[data-state=ringing]');
    await talkTo(c.page, ada);
    await c.page.click('#care-call-audio');
    await reads(c.page, '#call-state', 'User is busy');
    assert.equal((await ask(socket, 'call:end', { callId })).success, true);
  });
});

test('a call without an answer is missed', async () => {
  const node = await startGateway({ env: { CALL_RING: '2s' } });
  try {
    const people = ['ada', 'bela'].map((userId) => ({ userId, token: node.token({ userId }) }));
    const [a, b] = [await site.enterView(people[0], 'care', { url: node.url, expected: NODE_GONE }), await site.enter(people[1], { url: node.url, expected: NODE_GONE })];
    await talkTo(a.page, people[1]);
    await a.page.click('#care-call-audio');
    await visible(b.page, '#call[data-state=ringing]');
    await reads(a.page, '#call-state', 'No answer');
    await reads(b.page, '#call-state', 'Missed');
  } finally {
    await node.kill();
  }
});
