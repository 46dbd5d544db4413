// Document 001 (sos) from its reader's side: its requests and its React hook, unchanged.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { component, request } from './documents/http.mjs';
import { launchBrowser } from './support/browser.mjs';
import { startGateway } from './support/gateway.mjs';

const SOS = '507f1f77bcf86cd799439011';
const USER = '507f1f77bcf86cd799439012';

describe('document 001', () => {
  let gateway;
  /** A token with the document's payload. */
  const token = (id = USER) => gateway.token({ id, userId: id, role: 'citizen', actor: { type: 'USER' } });
  before(async () => { gateway = await startGateway(); });
  after(() => gateway?.kill());

  test('its requests work in sequence as documented', async () => {
    const run = (name) => request(name, { url: gateway.url, token: token() });
    const joined = await run('join');
    assert.equal(joined.success, true);
    assert.deepEqual([joined.data.sosId, joined.data.userId, joined.data.userType, joined.data.status, joined.data.leftAt], [SOS, USER, 'citizen', 'ACTIVE', null]);
    assert.deepEqual((await run('check')).data, { isActive: true });
    const active = await run('active');
    assert.deepEqual([active.count, active.data[0].id], [1, joined.data.id]);
    assert.deepEqual((await run('leave')).message, 'Participant left SOS');
    assert.deepEqual((await run('check')).data, { isActive: false });
    for (const name of ['history', 'user-history']) {
      const { data } = await run(name);
      assert.deepEqual(data.map(({ id, status }) => [id, status]), [[joined.data.id, 'INACTIVE']], name);
    }
  });

  test('its hook and component join, list and leave in a browser', { timeout: 60_000 }, async () => {
    const props = { sosId: '607f1f77bcf86cd799439011', token: token(), currentUserId: USER };
    const script = await component({ url: gateway.url, props });
    const browser = await launchBrowser();
    try {
      const page = await browser.newPage();
      page.setDefaultTimeout(15_000);
      // A page of the gateway's own origin, so that CORS needs no setting.
      await page.route('**/reader', (route) => route.fulfill({ contentType: 'text/html', body: '<div id="root"></div>' }));
      await page.goto(`${gateway.url}/reader`);
      await page.addScriptTag({ content: script });
      const heading = (count) => page.getByRole('heading', { name: `Active Participants (${count})` }).waitFor();
      // Not a participant, so the list is not visible.
      await heading(0);
      await page.getByRole('button', { name: 'Join as Responder' }).click();
      await heading(1);
      await page.getByText(`citizen - ${USER}`).waitFor();
      assert.equal(await page.locator('.badge').textContent(), 'Active');
      // The page shows the change after a reload.
      await page.reload();
      await page.addScriptTag({ content: script });
      await page.getByRole('button', { name: 'Leave' }).click();
      await heading(0);
    } finally {
      await browser.close();
    }
  });
});
