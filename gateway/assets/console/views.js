// The views: one button in the top bar and one section each, paired by `data-view`.

import { $, memory, setText } from './page.js';
import { EMERGENCIES, MAIN, RELAY, each, parts, session } from './session.js';

/** The namespace on which this page looks for each app. */
const NAMESPACES = { chat: MAIN, sos: MAIN, emergencies: EMERGENCIES, care: MAIN, relay: RELAY };

export const views = {
  current: 'chat',
  // Unseen items in each view.
  waiting: new Map(),

  listen() {
    $('views').addEventListener('click', (event) => {
      const button = event.target.closest('button');
      if (button) this.show(button.dataset.view);
    });
    const view = memory.get('view');
    if ([...document.querySelectorAll('#views button')].some((button) => button.dataset.view === view)) this.current = view;
  },

  show(name) {
    this.current = name;
    memory.set('view', name);
    this.paint();
    document.querySelector(`#views [data-view=${name}]`).scrollIntoView({ block: 'nearest', inline: 'nearest' });
    each('shown', name);
  },

  /** Shows the buttons of the apps that the node has on the expected namespaces; the log is always available. */
  offered(apps) {
    const has = (view) => view === 'log' || apps.some(({ app, namespace }) => app === view && namespace === NAMESPACES[view]);
    for (const button of document.querySelectorAll('#views button')) button.hidden = !has(button.dataset.view);
    if (!has(this.current)) this.show(this.first());
  },

  /** The first view that the node has. */
  first() {
    return document.querySelector('#views button:not([hidden])').dataset.view;
  },

  /** Whether the user can see the view now. */
  isOpen(name) {
    return name === this.current && session.token !== null && !document.hidden;
  },

  /** Shows at the view's button, and in the window's title, how many of `what` are unseen. */
  badge(name, what, count) {
    this.waiting.set(`${name} ${what}`, count);
    const sum = (ofView) => [...this.waiting].reduce((total, [key, one]) => (key.startsWith(ofView) ? total + one : total), 0);
    const badge = $(`${name}-badge`);
    badge.hidden = sum(`${name} `) === 0;
    setText(badge, String(sum(`${name} `)));
    document.title = sum('') > 0 ? `(${sum('')}) Muster` : 'Muster';
  },

  /** Without a token only the log is visible, and most users have no use for it. */
  putOut() {
    if (this.current === 'log') this.current = this.first();
  },

  /** Anyone who has the page open can read the log; every other view needs a token. */
  paint() {
    const open = session.token !== null || this.current === 'log';
    $('sign-in').hidden = open;
    for (const view of document.querySelectorAll('.view')) view.hidden = !open || view.dataset.view !== this.current;
    for (const button of document.querySelectorAll('#views button')) {
      if (button.dataset.view === this.current) button.setAttribute('aria-current', 'page');
      else button.removeAttribute('aria-current');
    }
  },
};

parts.push(views);
