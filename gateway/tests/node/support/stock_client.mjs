// The stock client as a process: keeps four connections, or sends bytes over two, and prints lines of JSON about what
// happens until its standard input ends. `gateway/tests/clients` has the same in other languages.

import { load } from './packages.mjs';

const { io } = load('socket.io-client');
const [url, token, task] = process.argv.slice(2);

function say(name, event, value = 0) {
  process.stdout.write(`${JSON.stringify({ name, event, value })}\n`);
}

function open(name, transport) {
  const socket = io(`${url}/relay`, { forceNew: true, transports: [transport], auth: { token } });
  socket.on('connect', () => say(name, 'connect'));
  socket.on('disconnect', (reason) => say(name, 'disconnect', reason));
  return socket;
}

function keep(name, transport, sends) {
  const socket = open(name, transport);
  let count = 0;
  const echo = () => {
    count += 1;
    socket.emit('echo', count, (back) => say(name, 'echo', back));
  };
  if (sends) setInterval(() => { if (socket.connected) echo(); }, 50);
  else socket.on('connect', echo);
}

function sendBytes(transport) {
  const socket = open(transport, transport);
  socket.on('connect', () => {
    for (const length of [0, 1, 2, 3, 56, 57, 58, 1000]) {
      const bytes = Buffer.from(Array.from({ length }, (_, at) => (at * 7) % 256));
      socket.emit('echo', bytes, (back) => say(transport, bytes.equals(Buffer.from(back)) ? 'same' : 'changed', length));
    }
  });
}

for (const transport of ['websocket', 'polling']) {
  if (task === 'binary') {
    sendBytes(transport);
  } else {
    keep(`${transport} idle`, transport, false);
    keep(`${transport} sending`, transport, true);
  }
}
process.stdin.on('end', () => process.exit(0)).resume();
