// Makes the first inputs of each fuzz target from the codecs' vectors: node corpus.mjs
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';

const here = new URL('.', import.meta.url);
const load = (name) => JSON.parse(readFileSync(new URL(`../tests/vectors/${name}.json`, here)));

function save(target, input) {
  const bytes = Buffer.from(input);
  if (bytes.length > 4096) return;
  const name = createHash('sha1').update(bytes).digest('hex').slice(0, 16);
  const folder = new URL(`corpus/${target}/`, here);
  mkdirSync(folder, { recursive: true });
  writeFileSync(new URL(name, folder), bytes);
}

function masked(opcode, payload, fin = true) {
  const mask = [1, 2, 3, 4];
  const head = payload.length < 126 ? [payload.length | 0x80] : [126 | 0x80, payload.length >> 8, payload.length & 255];
  return [(fin ? 0x80 : 0) | opcode, ...head, ...mask, ...payload.map((byte, at) => byte ^ mask[at % 4])];
}

for (const row of [...load('eio_packets').decode, ...load('eio_packets').bad]) {
  if (row.wire.text !== undefined) save('eio_packet', row.wire.text);
}
for (const row of [...load('eio_payloads').decode, ...load('eio_payloads').bad]) save('eio_payload', row.wire);
for (const row of load('sio_decode_ok')) {
  save('sio_packet', row.wire);
  const frames = [Buffer.from(row.wire), ...row.attachments.map((data) => Buffer.concat([Buffer.from('b'), Buffer.from(data, 'base64')]))];
  save('sio_reassembly', Buffer.concat(frames.flatMap((frame) => [frame, Buffer.from([0])])));
}
for (const row of load('sio_decode_bad')) {
  save('sio_packet', row.frames[0].text ?? '');
}
const text = (content) => [...Buffer.from(content)];
for (const frames of [
  [masked(1, text('42["e"]'))],
  [masked(1, text('a'), false), masked(9, text('p')), masked(0, text('b'))],
  [masked(2, [0, 255]), masked(8, [3, 232])],
  [masked(1, text('x'.repeat(300)))],
]) {
  save('ws_frames', [3, ...frames.flat()]);
}
save('token', 'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1IiwiZXhwIjoxfQ.AAAA');
save('token', '{"sub":"u","exp":1,"rooms":["a*"],"actor":{"type":"ANON"}}');
save('token', '{"keys":[{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"AA"}]}');
save('query', 'EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA&t=x');
save('query', 'EIO=4&transport=websocket&token=a.b.c');
save('settings', 'ping_interval = "25s"\ncors_origins = ["https://a.example"]\nmounts = "chat=/"\n');
save('forwarded', '198.51.100.7, [2001:db8::7]:80\n10.0.0.2:1234\n\nfor="[2001:db8::7]:80";proto=https, for=10.0.0.2');
save('forwarded', '\nFor=198.51.100.7;by=_hidden, for=unknown');
save('redis_message', '{"uid":"a","requestId":"r","type":5,"opts":{"rooms":["x",7],"except":[]}}');
save('redis_message', '{"type":8,"requestId":"r","clientCount":1}');
save('redis_message', '{"a":[1,-2,3.25,"x\\n",{"_placeholder":true,"num":0}]}');
save('redis_message', 'socket.io#/a#room#');
