// Calls: one at a time, set up through the node, carried by a direct connection between the two browsers
// (`call_media.js`). The dock is visible over every view.
//
//   caller   idle → calling → talking → over        callee   idle → ringing → talking → over
//
// Only the node decides a call's state: this page sends requests, and changes when an answer or an event arrives.
// End events reach all tabs of both users; a tab without the call ignores them.

import { Peer, ownMedia } from './call_media.js';
import { $, empty, keepFocus, memory, setText, toast } from './page.js';
import { failureOf, parts, request, session } from './session.js';

const DISMISS_MS = 8_000;
const EARLY_SIGNALS_MAX = 100;

const LINK_TEXTS = { new: 'connecting…', connecting: 'connecting…', connected: 'direct connection', disconnected: 'direct connection lost', failed: 'no direct connection could be made', closed: '' };

export const calls = {
  socket: null,
  // The call that this tab shows, or null. `begin` creates it.
  call: null,
  ticking: undefined,
  dismissing: undefined,

  listen() {
    $('call-accept').addEventListener('click', () => this.accept());
    $('call-reject').addEventListener('click', () => this.reject());
    $('call-end').addEventListener('click', () => this.end());
    $('call-dismiss').addEventListener('click', () => this.dismiss());
    $('call-mute').addEventListener('click', () => this.toggle('audio'));
    $('call-blind').addEventListener('click', () => this.toggle('video'));
  },

  attach({ main }) {
    this.socket = main;
    main.on('disconnect', () => { if (main === this.socket && this.call?.state === 'ringing') this.dismiss(); });
    const on = (event, react) => main.on(event, (value) => {
      if (main === this.socket && typeof value?.callId === 'string') react.call(this, value);
    });
    const about = (event, react) => on(event, (value) => {
      if (value.callId === this.call?.id && this.call.state !== 'over') react.call(this, value);
    });
    main.on('connected', () => { if (main === this.socket) this.endLost(); });
    on('call:incoming', this.onIncoming);
    on('call:accepted', this.onAccepted);
    about('call:signal', ({ signal }) => this.onSignal(signal));
    about('call:answered_elsewhere', () => this.over('Answered elsewhere'));
    about('call:rejected', ({ userId, reason }) => this.over(`${userId === session.user.id ? 'Rejected' : 'They rejected the call'}${reason ? `: ${reason}` : ''}`));
    about('call:missed', () => this.over(this.call.offers ? 'No answer' : 'Missed'));
    about('call:ended', ({ duration, reason }) => this.over(`${reason === 'failed' ? 'The call failed' : 'Ended'} after ${lengthOf(duration)}`));
  },

  clear() {
    this.dismiss();
    empty('call-who', 'call-state', 'call-time', 'call-link');
  },

  forget() {
    memory.set('call', null);
  },

  /** Ends a call that this tab was in before it was reloaded: it cannot be resumed, and must not keep the user busy. */
  endLost() {
    const lost = memory.get('call');
    if (!lost || lost.user !== session.user.id || lost.id === this.call?.id) return;
    memory.set('call', null);
    request(this.socket, 'call:end', { callId: lost.id });
  },

  detach() {
    // The user ends the connection and thereby the call, so the camera must not stay on.
    if (!this.call || this.call.state === 'over') return;
    if (this.call.id !== null && this.call.state !== 'ringing' && this.socket.connected) this.socket.emit('call:end', { callId: this.call.id });
    this.over('The connection was ended');
  },

  // ---- events from the node

  onIncoming({ callId, callerId, callerName, callType }) {
    // A second call cannot ring, because the node answers the caller with `User is busy`. A finished call gives
    // way.
    if (this.call && this.call.state !== 'over') return;
    this.begin({ id: callId, state: 'ringing', peerId: String(callerId), peerName: String(callerName || callerId), video: callType !== 'audio', offers: false });
    setText($('announcer'), `${this.call.video ? 'Video call' : 'Call'} from ${this.call.peerName}`);
  },

  /** Another node may send this event before the answer brings the call's id. */
  onAccepted({ callId }) {
    if (this.call?.state !== 'calling') return;
    if (this.call.id === callId) this.talk();
    else if (this.call.id === null) this.call.acceptedId = callId;
  },

  onSignal(signal) {
    const { peer, early } = this.call;
    if (peer) peer.take(signal);
    else if (early.length < EARLY_SIGNALS_MAX) early.push(signal);
  },

  // ---- what the user does

  /** Calls a user; `kind` is `video` or `audio`. */
  async start(kind, peerId, peerName) {
    if (this.call && this.call.state !== 'over') {
      toast('One call at a time.');
      return;
    }
    this.begin({ id: null, state: 'calling', peerId, peerName, video: kind === 'video', offers: true });
    const { call } = this;
    const outcome = await request(this.socket, 'call:initiate', { recipientId: peerId, callType: kind });
    if (call !== this.call) {
      // The user dismissed the call while it was being set up.
      if (outcome.answer?.success) request(this.socket, 'call:end', { callId: outcome.answer.callId });
      return;
    }
    if (!outcome.answer?.success) {
      this.over(failureOf(outcome));
      return;
    }
    call.id = outcome.answer.callId;
    this.remember();
    if (call.acceptedId === call.id) this.talk();
    this.paint();
  },

  async accept() {
    const { call } = this;
    $('call-accept').disabled = true;
    const outcome = await request(this.socket, 'call:accept', { callId: call.id });
    $('call-accept').disabled = false;
    if (call !== this.call || call.state !== 'ringing') return;
    if (outcome.answer?.success) this.talk();
    else this.over(failureOf(outcome));
  },

  async reject() {
    const { call } = this;
    const outcome = await request(this.socket, 'call:reject', { callId: call.id });
    if (call === this.call && call.state !== 'over') this.over(failureOf(outcome) || 'Rejected');
  },

  async end() {
    const { call } = this;
    if (!call.id) {
      this.dismiss();
      return;
    }
    const outcome = await request(this.socket, 'call:end', { callId: call.id });
    if (call !== this.call || call.state === 'over') return;
    this.over(outcome.answer?.success ? `Ended after ${lengthOf(outcome.answer.duration)}` : failureOf(outcome));
  },

  /** Mutes or unmutes audio or video. */
  toggle(kind) {
    const { call } = this;
    const off = !call[kind === 'audio' ? 'muted' : 'blind'];
    call[kind === 'audio' ? 'muted' : 'blind'] = off;
    for (const track of call.media?.stream.getTracks() ?? []) if (track.kind === kind) track.enabled = !off;
    this.paint();
  },

  // ---- the call's life

  begin(call) {
    this.dismiss();
    this.call = { startedAt: null, text: '', link: '', ms: null, peer: null, media: null, early: [], muted: false, blind: false, ...call };
    this.paint();
  },

  /** Both parties are connected: starts the media and the direct connection. */
  async talk() {
    const { call } = this;
    this.remember();
    Object.assign(call, { state: 'talking', startedAt: Date.now(), link: 'new' });
    this.ticking = setInterval(() => this.paintTime(), 1_000);
    call.peer = new Peer({
      offers: call.offers,
      signal: (signal) => { if (call === this.call && call.state === 'talking') this.sendSignal(call, signal); },
      report: (news) => { if (call === this.call) this.onPeer(call, news); },
    });
    for (const signal of call.early.splice(0)) call.peer.take(signal);
    this.paint();
    const media = await ownMedia({ video: call.video, label: session.user.name });
    if (call !== this.call || call.state !== 'talking') {
      media.stop();
      return;
    }
    call.media = media;
    $('call-local').srcObject = media.stream;
    this.paint();
    try {
      await call.peer.start(media.stream);
    } catch (error) {
      this.onPeer(call, { problem: error.message });
    }
  },

  async sendSignal(call, signal) {
    const outcome = await request(this.socket, 'call:signal', { callId: call.id, signal });
    if (!outcome.answer?.success && call === this.call && call.state === 'talking') this.onPeer(call, { problem: failureOf(outcome) });
  },

  onPeer(call, { state, remote, ms, problem }) {
    if (state) call.link = state;
    if (ms !== undefined) call.ms = ms;
    if (problem) call.problem = problem;
    if (remote && $('call-remote').srcObject !== remote) $('call-remote').srcObject = remote;
    this.paint();
  },

  over(text) {
    const { call } = this;
    this.hangUp(call);
    Object.assign(call, { state: 'over', text });
    setText($('announcer'), `Call with ${call.peerName}: ${text}`);
    this.dismissing = setTimeout(() => this.dismiss(), DISMISS_MS);
    this.paint();
  },

  remember() {
    memory.set('call', { user: session.user.id, id: this.call.id });
  },

  hangUp(call) {
    if (call.id !== null && memory.get('call')?.id === call.id) memory.set('call', null);
    clearInterval(this.ticking);
    call.peer?.close();
    call.media?.stop();
    // Dismissing a finished call again is harmless.
    Object.assign(call, { peer: null, media: null });
    for (const id of ['call-remote', 'call-local']) $(id).srcObject = null;
  },

  dismiss() {
    clearTimeout(this.dismissing);
    if (this.call) this.hangUp(this.call);
    this.call = null;
    this.paint();
  },

  // ---- painting

  paint() {
    const { call } = this;
    keepFocus($('call'), () => {
      $('call').hidden = !call;
      if (call) this.paintDock(call);
    });
    this.paintTime();
  },

  paintDock(call) {
    Object.assign($('call').dataset, { state: call.state, rtc: call.state === 'talking' ? call.link : '' });
    const kind = call.video ? 'video call' : 'call';
    setText($('call-who'), call.peerName);
    $('call-who').title = call.peerId;
    setText($('call-state'), { calling: `${kind}, ringing…`, ringing: `${kind} for you`, talking: kind, over: call.text }[call.state]);
    const show = (id, ...states) => { $(id).hidden = !states.includes(call.state); };
    show('call-accept', 'ringing');
    show('call-reject', 'ringing');
    show('call-end', 'calling', 'talking');
    show('call-mute', 'talking');
    show('call-blind', 'talking');
    if (!call.video) $('call-blind').hidden = true;
    show('call-dismiss', 'over');
    for (const [id, off] of [['call-mute', call.muted], ['call-blind', call.blind]]) $(id).setAttribute('aria-pressed', String(off));
    $('call-screen').hidden = call.state !== 'talking' || !call.video;
    $('call-link').hidden = call.state !== 'talking';
    setText($('call-link'), [LINK_TEXTS[call.link] ?? call.link, call.ms !== null && call.link === 'connected' ? `${Math.max(1, Math.round(call.ms))} ms` : '',
      call.media?.substitute, call.problem].filter(Boolean).join(' · '));
  },

  paintTime() {
    const { call } = this;
    setText($('call-time'), call?.state === 'talking' ? lengthOf((Date.now() - call.startedAt) / 1_000) : '');
  },
};

/** Seconds as a clock shows them. */
function lengthOf(seconds) {
  const whole = Math.max(0, Math.floor(Number(seconds) || 0));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')}`;
}

parts.push(calls);
