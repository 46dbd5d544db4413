// The console: a user's view of one node. It uses only what any client may use: the stock client, the REST APIs and
// `/health`. So everything that works here works for an app, too.
//
// One module per part: `page` (elements, texts, toasts) · `session` (user, sockets, requests) · `link` (opening and
// closing connections) · `views` · `chat` · `sos` · `emergencies` · `care` and `calls` · `relay` · `log`. A
// `…_view` module holds a part's user interface. Each part owns its state. All parts read `session`, and `session`
// notifies them (see its head).
//
// Invariants: data from the network enters the page only as text; every list is bounded; the token is kept for this
// tab only and never stays in the address bar.

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
  // `log.js` does not register itself as a part, because notifications to the parts are written to the log.
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
