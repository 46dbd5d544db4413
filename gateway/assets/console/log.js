// The log: every event of this page's sockets, in both directions.

import { $, addLine, lineNode, setText, toJson } from './page.js';

const LOG_LINES_MAX = 500;

export const log = {
  lines: [],
  waiting: [],
  paused: false,
  pings: false,

  listen() {
    $('log-tools').addEventListener('submit', (event) => event.preventDefault());
    $('log-filter').addEventListener('input', () => this.repaint());
    $('log-direction').addEventListener('change', () => this.repaint());
    $('log-pings').addEventListener('change', () => { this.pings = $('log-pings').checked; });
    $('log-pause').addEventListener('click', () => this.pause());
    $('log-clear').addEventListener('click', () => this.clear());
    this.paintCount();
  },

  add(dir, namespace, event, args) {
    const line = { at: new Date(), dir, namespace, event, args };
    line.text = `${namespace} ${event} ${toJson(args)}`.toLowerCase();
    const list = this.paused ? this.waiting : this.lines;
    list.push(line);
    if (list.length > LOG_LINES_MAX) list.shift();
    if (!this.paused && this.matches(line)) this.show(line);
    this.paintCount();
  },

  matches(line) {
    const direction = $('log-direction').value;
    return (!direction || line.dir === direction) && line.text.includes($('log-filter').value.trim().toLowerCase());
  },

  show(line) {
    addLine($('log-lines'), lineNode(line, true), LOG_LINES_MAX);
  },

  repaint() {
    $('log-lines').replaceChildren();
    for (const line of this.lines) if (this.matches(line)) this.show(line);
    this.paintCount();
  },

  /** A view was opened. If it is this one, scrolls to its end. */
  shown(view) {
    if (view === 'log') $('log-lines').scrollTop = $('log-lines').scrollHeight;
  },

  pause() {
    this.paused = !this.paused;
    $('log-pause').setAttribute('aria-pressed', String(this.paused));
    setText($('log-pause'), this.paused ? 'Resume' : 'Pause');
    if (!this.paused) {
      this.lines = [...this.lines, ...this.waiting].slice(-LOG_LINES_MAX);
      this.waiting = [];
      this.repaint();
    }
    this.paintCount();
  },

  clear() {
    this.lines = [];
    this.waiting = [];
    this.repaint();
  },

  paintCount() {
    const shown = $('log-lines').children.length;
    const parts = [shown === this.lines.length ? `${shown} lines` : `${shown} of ${this.lines.length} lines`];
    if (this.paused) parts.push(`${this.waiting.length} waiting`);
    setText($('log-count'), parts.join(' · '));
    setText($('log-nothing'), this.lines.length > 0 ? 'No line matches the filter.' : 'Nothing yet. Every event of this page’s sockets appears here, in both directions.');
  },
};
