// The direct connection of a call: audio, video, and a data channel that measures the round trip. The two browsers
// connect directly. The page asks no STUN or TURN server for addresses, because it communicates only with its own
// node.

const FRAMES_PER_SECOND = 10;
const CANVAS = { width: 320, height: 240 };
const MEASURE_EVERY_MS = 2_000;

/**
 * This side's audio and video: `{stream, substitute, stop}`. Without a camera or microphone, or if the user denies
 * access, silence and a drawn picture replace them, so that the call still works in both directions. `substitute`
 * is then the reason.
 */
export async function ownMedia({ video, label }) {
  try {
    if (!navigator.mediaDevices?.getUserMedia) throw new Error('not available on this page');
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video });
    return { stream, substitute: '', stop: () => stopTracks(stream) };
  } catch (error) {
    const reason = { NotAllowedError: 'not allowed', NotFoundError: 'none found', NotReadableError: 'in use' }[error.name] ?? error.message;
    return { ...drawn({ video, label }), substitute: `no ${video ? 'camera or ' : ''}microphone (${reason})` };
  }
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/** Silent audio, and a drawn picture with the name and a moving clock hand. */
function drawn({ video, label }) {
  const stream = new MediaStream();
  const sound = new AudioContext();
  for (const track of sound.createMediaStreamDestination().stream.getTracks()) stream.addTrack(track);
  let timer;
  if (video) {
    const canvas = Object.assign(document.createElement('canvas'), CANVAS);
    const pen = canvas.getContext('2d');
    const draw = () => {
      const turn = (Date.now() % 4_000) / 4_000 * 2 * Math.PI;
      pen.fillStyle = '#173833';
      pen.fillRect(0, 0, CANVAS.width, CANVAS.height);
      pen.fillStyle = '#37b8a8';
      pen.beginPath();
      pen.arc(CANVAS.width / 2 + 40 * Math.sin(turn), 90 - 40 * Math.cos(turn), 8, 0, 2 * Math.PI);
      pen.fill();
      pen.fillStyle = '#e3e8ee';
      pen.font = '20px sans-serif';
      pen.textAlign = 'center';
      pen.fillText(label, CANVAS.width / 2, 180, CANVAS.width - 40);
    };
    draw();
    timer = setInterval(draw, 1_000 / FRAMES_PER_SECOND);
    for (const track of canvas.captureStream(FRAMES_PER_SECOND).getTracks()) stream.addTrack(track);
  }
  const stop = () => {
    clearInterval(timer);
    stopTracks(stream);
    sound.close();
  };
  return { stream, stop };
}

/**
 * The direct connection of one call. The caller sends the offer, the recipient the answer; `signal` sends a signal
 * through the node. Signals are applied one after the other, and wait until this side is ready.
 */
export class Peer {
  /** Calls `report` with `{state}`, `{remote}` (a stream), `{ms}` (the round trip) or `{problem}`. */
  constructor({ offers, signal, report }) {
    Object.assign(this, { offers, signal, report, candidates: [] });
    this.connection = new RTCPeerConnection();
    this.closed = false;
    this.timer = undefined;
    const { connection } = this;
    this.ready = new Promise((resolve) => { this.isReady = resolve; });
    // One signal at a time: an answer must not overtake its offer.
    this.queue = this.ready;
    connection.addEventListener('icecandidate', ({ candidate }) => { if (candidate) signal({ candidate: candidate.toJSON() }); });
    connection.addEventListener('connectionstatechange', () => { if (!this.closed) report({ state: connection.connectionState }); });
    connection.addEventListener('track', ({ streams: [stream] }) => { if (stream) report({ remote: stream }); });
    connection.addEventListener('datachannel', ({ channel }) => this.useChannel(channel));
  }

  async start(stream) {
    if (this.closed) return;
    for (const track of stream.getTracks()) this.connection.addTrack(track, stream);
    if (this.offers) {
      this.useChannel(this.connection.createDataChannel('muster'));
      await this.connection.setLocalDescription();
      this.signal({ description: this.connection.localDescription.toJSON() });
    }
    this.isReady();
  }

  /** Applies a signal from the other side. */
  take(signal) {
    this.queue = this.queue.then(() => this.apply(signal)).catch((error) => { if (!this.closed) this.report({ problem: error.message }); });
  }

  async apply(signal) {
    const { connection } = this;
    if (this.closed || signal === null || typeof signal !== 'object') return;
    // Other clients send the bare description or candidate.
    const description = signal.description ?? (typeof signal.sdp === 'string' ? signal : null);
    if (description) {
      await connection.setRemoteDescription(description);
      for (const candidate of this.candidates.splice(0)) await connection.addIceCandidate(candidate);
      if (description.type === 'offer') {
        await connection.setLocalDescription();
        this.signal({ description: connection.localDescription.toJSON() });
      }
    } else if (signal.candidate) {
      const candidate = typeof signal.candidate === 'string' ? signal : signal.candidate;
      if (connection.remoteDescription) await connection.addIceCandidate(candidate);
      else if (this.candidates.length < 100) this.candidates.push(candidate);
    }
  }

  /** Each side sends its clock and gets it back, which measures the round trip without the node. */
  useChannel(channel) {
    channel.addEventListener('message', ({ data }) => {
      const [kind, at] = String(data).split(' ');
      if (kind === 'ping' && channel.readyState === 'open') channel.send(`pong ${at}`);
      if (kind === 'pong' && Number.isFinite(Number(at))) this.report({ ms: performance.now() - Number(at) });
    });
    const measure = () => { if (channel.readyState === 'open') channel.send(`ping ${performance.now()}`); };
    channel.addEventListener('open', () => {
      measure();
      if (!this.closed) this.timer = setInterval(measure, MEASURE_EVERY_MS);
    });
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
    this.connection.close();
  }
}
