// The console: a person's view of one node. It speaks to the node only as any client would, through the
// stock client, the REST APIs and `/health`, so whatever works here works for an app too.
//
// One module for each part: `page` (elements, texts, toasts) · `session` (who, by which sockets, asking the
// node) · `link` (making and ending connections) · `views` · `chat` · `sos` · `emergencies` · `care` and
// `calls` · `relay` · `log`. A `…_view` says how its part looks. Each part owns its state; `session` is the
// only one that all others read, and it tells them what happens (its head says how).
//
// Invariants: what comes from the wire enters the page as text only; every list is bounded; the token is
// kept for this tab alone and never stays in the address bar.

import './views.js';
import './chat.js';
import './sos.js';
import './emergencies.js';
import './care.js';
import './relay.js';
import {
  TRANSPORTS, checkHealth, connect, disconnect, login, paint, paintLink, showSignInAlert, signOut, takeTokenFromAddress, useToken,
} from './link.js';
import { log } from './log.js';
import { $, memory } from './page.js';
import { each, parts, ping, session } from './session.js';

const PING_EVERY_MS = 10_000;
const HEALTH_EVERY_MS = 10_000;

function listen() {
  $('token-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const token = $('token').value.trim();
    if (!token) return;
    $('token').value = '';
    showSignInAlert(null);
    useToken(token);
  });
  $('token').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    $('token-form').requestSubmit();
  });
  $('login-form').addEventListener('submit', login);
  $('sign-out').addEventListener('click', () => signOut(null));

  $('transport').addEventListener('change', () => {
    memory.set('transport', $('transport').value);
    if (session.wanted) connect();
  });
  $('link-toggle').addEventListener('click', () => {
    if (!session.wanted) {
      connect();
      return;
    }
    session.problem = '';
    disconnect();
  });
  $('link-more').addEventListener('click', () => {
    const open = $('link').classList.toggle('open');
    $('link-more').setAttribute('aria-expanded', String(open));
  });

  window.addEventListener('hashchange', () => {
    const token = takeTokenFromAddress();
    if (token) useToken(token);
  });
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) return;
    each('seen');
    checkHealth();
    ping.now();
  });
}

function start() {
  listen();
  // The log is no part of its own accord: what a part is told goes through the log.
  parts.push({ listen: () => log.listen(), shown: (view) => log.shown(view), forget: () => log.clear() });
  each('listen');
  const transport = memory.get('transport');
  if (Object.hasOwn(TRANSPORTS, transport ?? '')) $('transport').value = transport;

  const token = takeTokenFromAddress() ?? memory.get('token');
  if (typeof token === 'string') useToken(token);
  else paint();

  checkHealth();
  setInterval(() => { if (!document.hidden) checkHealth(); }, HEALTH_EVERY_MS);
  setInterval(() => {
    if (document.hidden) return;
    ping.now();
    paintLink();
  }, PING_EVERY_MS);
}

start();
