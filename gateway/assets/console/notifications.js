// Notifications from backends, newest first, and the number of unread ones.

import { $, el, place, setText, toast } from './page.js';
import { timeNode } from './places.js';
import { failureOf, parts, request } from './session.js';
import { views } from './views.js';

const NOTICES_MAX = 200;
const PAGE_SIZE = 20;

export const notifications = {
  socket: null,
  all: new Map(),
  unread: 0,
  hasMore: false,

  listen() {
    $('notices-read-all').addEventListener('click', () => this.readAll());
    $('notices-older').addEventListener('click', () => this.load([...this.all.keys()].at(-1)));
  },

  attach({ main }) {
    this.socket = main;
    main.on('connected', () => { if (main === this.socket) this.load(); });
    main.on('notification:new', (notice) => { if (main === this.socket && typeof notice?.id === 'string') this.onNew(notice); });
  },

  clear() {
    this.all.clear();
    Object.assign(this, { unread: 0, hasMore: false });
    this.paint();
  },

  onNew(notice) {
    if (this.all.has(notice.id)) return;
    this.all = new Map([[notice.id, notice], ...this.all].slice(0, NOTICES_MAX));
    this.unread += 1;
    setText($('announcer'), `Notification: ${notice.title}. ${notice.message}`);
    this.paint();
  },

  /** Loads the newest page, or the one before a notification. */
  async load(before) {
    const { socket } = this;
    const outcome = await request(socket, 'notification:list', { limit: PAGE_SIZE, ...(before ? { before } : {}) });
    if (socket !== this.socket) return;
    if (!outcome.answer?.success) {
      toast(`No notifications: ${failureOf(outcome)}`);
      return;
    }
    const page = outcome.answer.notifications.map((notice) => [notice.id, notice]);
    this.all = new Map([...(before ? this.all : []), ...page].slice(0, NOTICES_MAX));
    this.hasMore = outcome.answer.hasMore === true && this.all.size < NOTICES_MAX;
    this.unread = outcome.answer.unreadCount ?? this.unread;
    this.paint();
  },

  async read(notice) {
    const outcome = await request(this.socket, 'notification:read', { notificationId: notice.id });
    if (!outcome.answer?.success) {
      toast(`Not marked: ${failureOf(outcome)}`);
      return;
    }
    notice.read = true;
    this.unread = outcome.answer.unreadCount ?? Math.max(0, this.unread - 1);
    this.paint();
  },

  async readAll() {
    const outcome = await request(this.socket, 'notification:readAll', {});
    if (!outcome.answer?.success) {
      toast(`Not marked: ${failureOf(outcome)}`);
      return;
    }
    for (const notice of this.all.values()) notice.read = true;
    this.unread = outcome.answer.unreadCount ?? 0;
    this.paint();
  },

  paint() {
    views.badge('care', 'notifications', this.unread);
    $('notices-unread').hidden = this.unread === 0;
    setText($('notices-unread'), String(this.unread));
    $('notices-unread').setAttribute('aria-label', `${this.unread} unread`);
    $('notices-read-all').hidden = this.unread === 0;
    $('notices-older').hidden = !this.hasMore;
    this.rows ??= new Map();
    for (const id of this.rows.keys()) if (!this.all.has(id)) this.rows.delete(id);
    place($('notices'), [...this.all.values()].map((notice) => {
      let row = this.rows.get(notice.id);
      if (!row) {
        row = el('li', {}, el('b', { text: String(notice.title ?? '') }), el('small', {}, notice.type ? `${notice.type} · ` : '', timeNode(notice.createdAt)),
          el('p', { text: String(notice.message ?? '') }),
          el('button', { type: 'button', class: 'quiet', text: 'Read', 'aria-label': `Mark as read: ${notice.title}`, onclick: () => this.read(this.all.get(notice.id)) }));
        this.rows.set(notice.id, row);
      }
      row.dataset.read = notice.read ? 'yes' : 'no';
      row.lastElementChild.hidden = Boolean(notice.read);
      return row;
    }));
  },
};

parts.push(notifications);
