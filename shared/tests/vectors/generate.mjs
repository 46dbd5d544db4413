// Writes the codec vectors beside this file with the official engine.io-parser and socket.io-parser, so
// that the Rust codecs are held against what the JavaScript clients really write and read.
//
//   node shared/tests/vectors/generate.mjs           writes the files
//   node shared/tests/vectors/generate.mjs --check   fails when a committed file is not what would be written
//
// The same input gives the same bytes; the files are committed. One row a line.
//
// Common to all rows: `name` is a sentence for the failure message. `{"$bin": "…"}` in data stands for
// binary (base64). `ours` is there where this project wants something else than the official parser does,
// always with a `reason`: "error" (we refuse), "either" (both are fine; must not panic).
//
// eio_packets.json   {encode: [{name, packet, websocket, polling}], decode: [{name, transport, wire, packet, ours?}], bad: [{name, transport, wire}]}
//                    packet: {type, data?} with a string, or {type: "message", binary: base64}; a wire is {text} or {binary: base64}
// eio_payloads.json  {encode: [{name, packets, wire}], decode: [{name, wire, packets, ours?}], bad: [{name, wire, packets}]}
//                    bad: `packets` are those before the bad one, which are still delivered
// sio_encode.json    [{name, packet, wire, payload, attachments}]
//                    packet: {type, nsp, id?, data?}, type by name; wire: the text; payload: its JSON part ("" for none)
// sio_decode_ok.json [{name, wire, attachments, packet, payload, ours?, from_client?, reason?}]
//                    packet as above, plus `attachments` (how many are declared). `data` is left out (`lossy: true`) where a JSON
//                    number, a lone surrogate or depth cannot be held by a JSON reader; `payload`, the exact JSON text, is left out where `ours` is set.
//                    from_client: what a server does when a client sends it, where that is more than handing it on
// sio_decode_bad.json [{name, frames, at, error}]
//                    frames: {text} or {binary: base64}; `at`: the index of the frame at which it is refused

import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const home = new URL('../../../gateway/tests/node/', import.meta.url);
const require = createRequire(new URL('package.json', home));

function load(name) {
  try {
    return require(name);
  } catch {
    console.error(`the npm package '${name}' is not installed: run \`npm ci --ignore-scripts\` in ${fileURLToPath(home)}`);
    process.exit(2);
  }
}

const eio = load('engine.io-parser');
const { Decoder, Encoder, PacketType } = load('socket.io-parser');

const TYPE_NAMES = Object.fromEntries(Object.entries(PacketType).filter(([, value]) => typeof value === 'number').map(([name, value]) => [value, name]));
const bytes = (...values) => Buffer.from(values);
const base64 = (value) => Buffer.from(value).toString('base64');
const ALL_BYTES = Buffer.from(Array.from({ length: 256 }, (_, value) => value));

// ---- Engine.IO ------------------------------------------------------------------------------------

const packetOf = ({ type, data }) => {
  if (Buffer.isBuffer(data)) return { type, binary: base64(data) };
  return data === undefined ? { type } : { type, data };
};
const wireOf = (value) => (typeof value === 'string' ? { text: value } : { binary: base64(value) });
const encodePacket = (packet, binary) => {
  let wire;
  eio.encodePacket(packet, binary, (value) => { wire = value; });
  return wire;
};
const encodePayload = (packets) => {
  let wire;
  eio.encodePayload(packets, (value) => { wire = value; });
  return wire;
};

const eioEncode = [
  ['an open packet', { type: 'open', data: '{"sid":"lv_VI97HAXpY6yYWAAAB","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}' }],
  ['a close packet', { type: 'close' }],
  ['a ping', { type: 'ping' }],
  ['a probe', { type: 'ping', data: 'probe' }],
  ['a pong', { type: 'pong' }],
  ['the answer to a probe', { type: 'pong', data: 'probe' }],
  ['a message', { type: 'message', data: 'hello' }],
  ['an empty message', { type: 'message', data: '' }],
  ['a message that looks like a packet type', { type: 'message', data: '2' }],
  ['a message that starts with b', { type: 'message', data: 'bAQID' }],
  ['an upgrade', { type: 'upgrade' }],
  ['a noop', { type: 'noop' }],
  ['unicode in one, two, three and four bytes', { type: 'message', data: 'aé€😀' }],
  ['U+2028 and U+2029', { type: 'message', data: '\u2028\u2029' }],
  ['NUL and control characters', { type: 'message', data: '\u0000\u0001\u001f' }],
  ['a byte order mark', { type: 'message', data: '\ufeffx' }],
  ['the replacement character, which is what a lone surrogate becomes in UTF-8', { type: 'message', data: 'a\ufffdb' }],
  ['one line feed', { type: 'message', data: '\n' }],
  ['binary', { type: 'message', data: bytes(1, 2, 3, 4) }],
  ['binary of one byte (two padding characters)', { type: 'message', data: bytes(255) }],
  ['binary of two bytes (one padding character)', { type: 'message', data: bytes(0, 255) }],
  ['binary of three bytes (no padding)', { type: 'message', data: bytes(251, 239, 190) }],
  ['empty binary', { type: 'message', data: bytes() }],
  ['every byte', { type: 'message', data: ALL_BYTES }],
].map(([name, packet]) => ({
  name,
  packet: packetOf(packet),
  websocket: wireOf(encodePacket(packet, true)),
  polling: wireOf(encodePacket(packet, false)),
}));

const eioDecode = [
  ['websocket', '0{"sid":"x"}', 'open'],
  ['websocket', '1', 'close'],
  ['websocket', '2', 'ping'],
  ['websocket', '2probe', 'a probe'],
  ['websocket', '3', 'pong'],
  ['websocket', '3probe', 'the answer to a probe'],
  ['websocket', '4', 'a message without data'],
  ['websocket', '4hello', 'message'],
  ['websocket', '42["e"]', 'a Socket.IO event'],
  ['websocket', '4aé€😀', 'unicode'],
  ['websocket', '4a\x1e4b', 'a text frame is never split at 0x1e'],
  ['websocket', '5', 'upgrade'],
  ['websocket', '6', 'noop'],
  ['websocket', '1why', 'close with data'],
  ['websocket', bytes(1, 2, 3), 'a binary frame is a message, without a type byte'],
  ['websocket', bytes(4, 2, 3), 'a binary frame that starts with 4 is not a version 3 frame'],
  ['websocket', bytes(), 'an empty binary frame'],
  ['websocket', 'bAQID', 'a text frame with b and base64', 'either', 'the official decoder is lenient; no client sends it'],
  ['polling', '4hello', 'message'],
  ['polling', 'bAQIDBA==', 'binary with padding'],
  ['polling', 'bAQIDBA', 'binary without padding'],
  ['polling', 'b/w==', 'binary with the standard alphabet'],
  ['polling', 'b', 'empty binary'],
  ['polling', 'b-_8=', 'binary in the URL alphabet'],
  ['polling', 'bAQIDBB==', 'base64 with bits left over'],
  ['polling', 'bA Q\nID', 'base64 with white space'],
  ['polling', 'b****', 'not base64'],
  ['polling', 'bAQID=A', 'padding in the middle'],
].map(([transport, wire, name, ours, reason]) => ({
  name,
  transport,
  wire: wireOf(wire),
  packet: packetOf(eio.decodePacket(wire, 'nodebuffer')),
  ...(ours && { ours, reason }),
}));

const eioBad = [
  ['websocket', '', 'an empty text frame'],
  ['websocket', 'abc', 'no packet type'],
  ['websocket', '7', 'packet type 7'],
  ['websocket', '9x', 'packet type 9'],
  ['websocket', ' 4hello', 'white space before the type'],
  ['websocket', '-1', 'a negative type'],
  ['websocket', 'é', 'a type that is not ASCII'],
  ['websocket', '\u00004', 'NUL as the type'],
  ['websocket', '{"type":4}', 'JSON'],
  ['polling', '', 'an empty packet'],
  ['polling', 'x', 'no packet type'],
  ['polling', 'B AQID', 'an upper case B'],
].map(([transport, wire, name]) => {
  const { type } = eio.decodePacket(wire, 'nodebuffer');
  if (type !== 'error') throw new Error(`engine.io-parser reads ${JSON.stringify(wire)} as ${type}`);
  return { name, transport, wire: wireOf(wire) };
});

const message = (data) => ({ type: 'message', data });
const payloadEncode = [
  ['one packet', [message('hello')]],
  ['text and binary', [message('hello'), message(bytes(1, 2, 3, 4))]],
  ['a ping between messages', [message('a'), { type: 'ping' }, message('b')]],
  ['noop and close', [{ type: 'noop' }, { type: 'close' }]],
  ['a Socket.IO event with attachments', [message('452-["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'), message(bytes(1)), message(bytes())]],
  ['unicode', [message('aé€😀'), message('\u2028')]],
  ['an escaped separator stays escaped', [message('2["e","\\u001e"]'), message('2["f"]')]],
  ['empty messages', [message(''), message('')]],
].map(([name, packets]) => ({ name, packets: packets.map(packetOf), wire: encodePayload(packets) }));

const payloadRows = [
  ['one packet', '4hello'],
  ['text and binary', '4hello\x1ebAQIDBA=='],
  ['binary without padding between texts', '4a\x1ebAQIDBA\x1e4b'],
  ['two messages', '4a\x1e4b'],
  ['types of all kinds', '2\x1e3\x1e6\x1e4\x1e1'],
  ['CONNECT and an event in one body', '40\x1e42["e"]'],
  ['unicode next to the separator', '4é\x1e4😀'],
  ['an escaped separator inside JSON does not split', '42["e","\\u001e"]\x1e42["f"]'],
  ['a raw separator inside data splits: what follows is a packet of its own', '42["e","\x1e4x'],
  ['an empty binary packet', 'b\x1e4x'],
  ['a packet that is not base64', '4a\x1eb****\x1e4b'],
  ['an empty body', ''],
  ['a separator alone', '\x1e'],
  ['a separator at the end', '4a\x1e'],
  ['a separator at the start', '\x1e4a'],
  ['two separators together', '4a\x1e\x1e4b'],
  ['good, bad, good: what came before the bad one is delivered', '4a\x1exyz\x1e4b'],
  ['a hundred empty packets', '\x1e'.repeat(99)],
].map(([name, wire, ours, reason]) => ({ name, wire, decoded: eio.decodePayload(wire, 'nodebuffer'), ours, reason }));

const isBadPayload = ({ decoded }) => decoded.at(-1).type === 'error';
const payloadDecode = payloadRows.filter((row) => !isBadPayload(row))
  .map(({ name, wire, decoded, ours, reason }) => ({ name, wire, packets: decoded.map(packetOf), ...(ours && { ours, reason }) }));
const payloadBad = payloadRows.filter(isBadPayload)
  .map(({ name, wire, decoded }) => ({ name, wire, packets: decoded.slice(0, -1).map(packetOf) }));

// ---- Socket.IO: encoding --------------------------------------------------------------------------

/** Data with buffers as `{"$bin": base64}`. */
function marked(value) {
  if (Buffer.isBuffer(value)) return { $bin: base64(value) };
  if (Array.isArray(value)) return value.map(marked);
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, marked(inner)]));
  return value;
}

/** The JSON part of a packet's text: what is left after type, attachments, namespace and ack id. */
function payloadOf(text) {
  const header = /^\d(?:\d+-)?(?:\/[^,]*(?:,|$))?\d*/.exec(text);
  return header ? text.slice(header[0].length) : text;
}

const E = PacketType;
const encodeRows = [
  ['CONNECT to the root namespace', { type: E.CONNECT, nsp: '/' }],
  ['CONNECT with a token', { type: E.CONNECT, nsp: '/', data: { token: '123' } }],
  ['CONNECT to a namespace', { type: E.CONNECT, nsp: '/admin' }],
  ['CONNECT to a namespace with a token', { type: E.CONNECT, nsp: '/admin', data: { token: '123' } }],
  ['the reply to CONNECT', { type: E.CONNECT, nsp: '/admin', data: { sid: 'oSO0OpakMV_3jnilAAAA' } }],
  ['DISCONNECT', { type: E.DISCONNECT, nsp: '/' }],
  ['DISCONNECT from a namespace', { type: E.DISCONNECT, nsp: '/admin' }],
  ['CONNECT_ERROR', { type: E.CONNECT_ERROR, nsp: '/', data: { message: 'Authentication required', data: { code: 'auth_required' } } }],
  ['CONNECT_ERROR of an unknown namespace', { type: E.CONNECT_ERROR, nsp: '/random', data: { message: 'Invalid namespace' } }],
  ['an event', { type: E.EVENT, nsp: '/', data: ['hi'] }],
  ['an event with arguments of every kind', { type: E.EVENT, nsp: '/', data: ['e', 1, -1.5, true, false, null, 'x', [], {}, [1, [2]], { a: { b: [null] } }] }],
  ['an event with a numeric name', { type: E.EVENT, nsp: '/', data: [1, 2] }],
  ['an event with an ack id', { type: E.EVENT, nsp: '/', id: 12, data: ['e', 'x'] }],
  ['the first ack id is 0', { type: E.EVENT, nsp: '/', id: 0, data: ['e'] }],
  ['the greatest safe ack id', { type: E.EVENT, nsp: '/', id: 9007199254740991, data: ['e'] }],
  ['an event in a namespace', { type: E.EVENT, nsp: '/admin', data: ['e'] }],
  ['an event in a namespace with an ack id', { type: E.EVENT, nsp: '/admin', id: 456, data: ['project:delete', 123] }],
  ['an event in a nested namespace', { type: E.EVENT, nsp: '/a/b-c_d.e', data: ['e'] }],
  ['a namespace of digits', { type: E.EVENT, nsp: '/123', id: 4, data: ['e'] }],
  ['a namespace with unicode', { type: E.EVENT, nsp: '/zürich', data: ['e'] }],
  ['an acknowledgement', { type: E.ACK, nsp: '/', id: 12, data: ['ok'] }],
  ['an empty acknowledgement', { type: E.ACK, nsp: '/', id: 0, data: [] }],
  ['an acknowledgement in a namespace', { type: E.ACK, nsp: '/admin', id: 456, data: [{ success: true }] }],
  ['unicode', { type: E.EVENT, nsp: '/', data: ['é€😀', { ключ: 'значение', 'مفتاح': '漢字' }] }],
  ['U+2028 and U+2029 are not escaped', { type: E.EVENT, nsp: '/', data: ['e', '\u2028\u2029'] }],
  ['control characters are escaped, the separator 0x1e too', { type: E.EVENT, nsp: '/', data: ['e', '\u0000\b\t\n\f\r\u001e\u001f"\\/\u007f'] }],
  ['key order is kept', { type: E.EVENT, nsp: '/', data: ['e', { z: 1, a: 2, m: 3 }] }],
  ['numbers at the edges', { type: E.EVENT, nsp: '/', data: ['e', 1e21, 1e-7, 5e-324, 1.7976931348623157e308, 9007199254740993, 0.1] }],
  ['one buffer', { type: E.EVENT, nsp: '/', data: ['e', bytes(1, 2, 3)] }],
  ['two buffers', { type: E.EVENT, nsp: '/', data: ['message', bytes(1), bytes(2)] }],
  ['an empty buffer', { type: E.EVENT, nsp: '/', data: ['e', bytes()] }],
  ['buffers anywhere in the tree', { type: E.EVENT, nsp: '/', data: ['e', { a: [bytes(1), { b: { c: bytes(2) } }], d: 'x' }, [[bytes(3)]]] }],
  ['ten buffers, the most there may be', { type: E.EVENT, nsp: '/', data: ['e', ...Array.from({ length: 10 }, (_, at) => bytes(at))] }],
  ['a buffer in a namespace with an ack id', { type: E.EVENT, nsp: '/admin', id: 7, data: ['e', bytes(1)] }],
  ['a buffer in an acknowledgement', { type: E.ACK, nsp: '/', id: 3, data: [bytes(1, 2)] }],
  ['a buffer in an acknowledgement of a namespace', { type: E.ACK, nsp: '/cool', id: 23, data: [{ a: bytes(9) }] }],
  ['every byte as an attachment', { type: E.EVENT, nsp: '/', data: ['e', ALL_BYTES] }],
  ['an object that only looks like a placeholder', { type: E.EVENT, nsp: '/', data: ['e', { _placeholder: true, num: 0 }] }],
];

const sioEncode = encodeRows.map(([name, packet]) => {
  const shown = { type: TYPE_NAMES[packet.type], nsp: packet.nsp, ...(packet.id !== undefined && { id: packet.id }), ...(packet.data !== undefined && { data: marked(packet.data) }) };
  const [wire, ...attachments] = new Encoder().encode(structured(packet));
  return { name, packet: shown, wire, payload: payloadOf(wire), attachments: attachments.map(base64) };
});

/** The encoder rewrites what it is given; the row must not see that. */
function structured(packet) {
  return { ...packet };
}

// ---- Socket.IO: decoding --------------------------------------------------------------------------

/** Feeds frames to the official decoder: the packet, or at which frame it refused and why. */
function decode(frames) {
  const decoder = new Decoder();
  let packet;
  decoder.on('decoded', (value) => { packet = value; });
  for (const [at, frame] of frames.entries()) {
    try {
      decoder.add(frame);
    } catch (error) {
      return { at, error: error.message };
    }
  }
  return { packet };
}

const LOSSY = { lossy: true };
const fill = (name, open, close, depth) => `2["${name}",${open.repeat(depth)}${close.repeat(depth)}]`;

// [name, wire, attachments, extra]
const okRows = [
  ['CONNECT', '0', []],
  ['CONNECT with auth', '0{"token":"123"}', []],
  ['CONNECT with an empty object', '0{}', []],
  ['CONNECT to a namespace with a comma', '0/custom,', []],
  ['CONNECT to a namespace without a comma', '0/custom', []],
  ['CONNECT to a namespace with auth', '0/admin,{"token":"123"}', []],
  ['CONNECT to a namespace with a hyphen, a dot and a slash', '0/my-ns.v1/x,', []],
  ['CONNECT to the root namespace, written out', '0/,', []],
  ['CONNECT to a namespace with a query is a namespace of that name', '0/admin?token=abc,{}', []],
  ['CONNECT with nested auth', '0{"token":"a","extra":{"b":[1,2]}}', []],
  ['CONNECT with an ack id', '05{"a":1}', [], { ours: 'either', reason: 'no client sends it' }],
  ['DISCONNECT', '1', [], { from_client: 'the namespace is left, the connection stays' }],
  ['DISCONNECT from a namespace', '1/admin,', [], { from_client: 'the namespace is left, the connection stays' }],
  ['DISCONNECT from a namespace without a comma', '1/admin', [], { from_client: 'the namespace is left, the connection stays' }],
  ['an event', '2["hi"]', []],
  ['an event with arguments', '2["e",1,"a",{"b":[true,null]},[]]', []],
  ['an event with a numeric name', '2[1,2]', []],
  ['an event with an empty name', '2[""]', []],
  ['an event named error', '2["error"]', []],
  ['an event with an ack id', '212["e","x"]', []],
  ['an event with ack id 0', '20["e"]', []],
  ['an event with the greatest safe ack id', '29007199254740991["e"]', []],
  ['an event in a namespace', '2/admin,["e"]', []],
  ['an event in a namespace with an ack id', '2/admin,456["project:delete",123]', []],
  ['a namespace of digits', '2/123,4["e"]', []],
  ['a namespace with unicode', '2/zürich,["e"]', []],
  ['a namespace in unicode, its packet counted in characters and not in bytes', '2/漢字,7["e","é"]', []],
  ['an ack id with leading zeros', '2007["e"]', [], { ours: 'either', reason: 'no client sends it' }],
  ['an ack id over 2^53 loses its last digits in JavaScript', '29007199254740993["e"]', [], { ours: 'error', reason: 'the answer would carry another id; a bound instead of a wrong answer' }],
  ['an ack id of 20 digits', '299999999999999999999["e"]', [], { ours: 'error', reason: 'over 2^53' }],
  ['an ack id of 400 digits', `2${'9'.repeat(400)}["e"]`, [], { ours: 'error', reason: 'over 2^53', ...LOSSY }],
  ['a space where an id may be', '2 ["e"]', [], { ours: 'either', reason: 'JavaScript reads a space as the number 0; no client sends it' }],
  ['a byte order mark where an id may be', '2\ufeff["e"]', [], { ours: 'either', reason: 'JavaScript reads it as white space and so as the number 0; no client sends it' }],
  ['nothing at all', '', [], { ours: 'error', reason: 'JavaScript reads an empty text as type 0; a packet has a type' }],
  ['an event without a payload', '2', [], { ours: 'error', reason: 'against the protocol document: an event needs a name' }],
  ['an event with an ack id and no payload', '27', [], { ours: 'error', reason: 'against the protocol document: an event needs a name' }],
  ['an event in a namespace without a payload', '2/admin,', [], { ours: 'error', reason: 'against the protocol document: an event needs a name' }],
  ['a namespace without its comma swallows the payload', '2/admin["e"]', [], { ours: 'error', reason: 'an event without a payload' }],
  ['an acknowledgement', '312["ok"]', []],
  ['an empty acknowledgement', '30[]', []],
  ['an acknowledgement in a namespace', '3/admin,456[{"success":true}]', []],
  ['an acknowledgement without an id', '3["x"]', [], { from_client: 'ignored' }],
  ['an acknowledgement without a payload', '312', [], { ours: 'either', reason: 'against the protocol document; harmless' }],
  ['CONNECT_ERROR with an object', '4{"message":"not authorized","data":{"code":42}}', [], { from_client: 'closed: only a server sends it' }],
  ['CONNECT_ERROR with a string', '4"not authorized"', [], { from_client: 'closed: only a server sends it' }],
  ['CONNECT_ERROR in a namespace', '4/random,{"message":"Invalid namespace"}', [], { from_client: 'closed: only a server sends it' }],
  ['white space inside JSON', '2[ "e" ,\t1,\n{ "a" : 2 } ]', []],
  ['key order', '2["e",{"z":1,"a":2,"m":{"y":1,"b":2}}]', []],
  ['escapes', '2["e","\\u0041\\n\\/\\"\\\\\\u001e"]', []],
  ['a name written with escapes', '2["\\u0065"]', []],
  ['unicode', '2["é€😀",{"ключ":"значение"}]', []],
  ['U+2028 and U+2029', '2["e","\u2028\u2029"]', []],
  ['a surrogate pair written with escapes', '2["e","\\ud83d\\ude00"]', []],
  ['a lone high surrogate', '2["m","\\ud83d"]', [], LOSSY],
  ['a lone low surrogate', '2["m","x\\ude00y"]', [], LOSSY],
  ['a lone surrogate as a key', '2["m",{"\\ud83d":1}]', [], LOSSY],
  ['numbers in other spellings', '2["e",1.0,1e2,-0,0.10,1E+2]', [], LOSSY],
  ['a number beyond double precision', '2["e",123456789012345678901234567890]', [], LOSSY],
  ['a number beyond the greatest double', '2["e",1e400]', [], LOSSY],
  ['duplicate keys', '2["e",{"a":1,"a":2}]', [], LOSSY],
  ['the key __proto__', '2["e",{"__proto__":{"x":1},"constructor":1}]', [], LOSSY],
  ['an object that looks like a placeholder in a packet without attachments', '2["e",{"_placeholder":true,"num":0}]', []],
  ['a payload 100 levels deep', fill('e', '[', ']', 99), [], LOSSY],
  ['a payload 5,000 levels deep', fill('e', '[', ']', 5000), [], { ours: 'error', reason: 'deeper than 128', ...LOSSY }],
  ['a payload 5,000 objects deep', `2["e",${'{"a":'.repeat(5000)}1${'}'.repeat(5000)}]`, [], { ours: 'error', reason: 'deeper than 128', ...LOSSY }],
  ['one attachment', '51-["e",{"_placeholder":true,"num":0}]', [bytes(1, 2, 3)]],
  ['two attachments', '52-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', [bytes(1), bytes(2)]],
  ['placeholders in another order than the attachments', '52-["e",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]', [bytes(1), bytes(2)]],
  ['placeholders anywhere in the tree', '53-["e",{"a":[{"_placeholder":true,"num":0},{"b":{"c":{"_placeholder":true,"num":1}}}]},[[{"_placeholder":true,"num":2}]]]', [bytes(1), bytes(2), bytes(3)]],
  ['a placeholder with its keys the other way round', '51-["e",{"num":0,"_placeholder":true}]', [bytes(7)]],
  ['a placeholder written with white space', '51-["e",{ "_placeholder" : true , "num" : 0 }]', [bytes(7)]],
  ['a placeholder with more keys', '51-["e",{"_placeholder":true,"num":0,"x":1}]', [bytes(7)], { ours: 'either', reason: 'no encoder writes it' }],
  ['an empty attachment', '51-["e",{"_placeholder":true,"num":0}]', [bytes()]],
  ['ten attachments', `510-["e",${Array.from({ length: 10 }, (_, num) => `{"_placeholder":true,"num":${num}}`).join(',')}]`, Array.from({ length: 10 }, (_, at) => bytes(at))],
  ['an attachment in a namespace with an ack id', '51-/admin,7["e",{"_placeholder":true,"num":0}]', [bytes(1)]],
  ['an attachment in an acknowledgement', '61-3[{"_placeholder":true,"num":0}]', [bytes(1, 2)]],
  ['an attachment in an acknowledgement of a namespace', '61-/cool,23[{"a":{"_placeholder":true,"num":0}}]', [bytes(9)]],
  ['one attachment used twice', '51-["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]', [bytes(1)], { ours: 'either', reason: 'no encoder writes it' }],
  ['an attachment nobody refers to', '52-["e",{"_placeholder":true,"num":0}]', [bytes(1), bytes(2)], { ours: 'either', reason: 'no encoder writes it' }],
  ['attachments declared and no placeholder at all', '51-["e"]', [bytes(1)], { ours: 'either', reason: 'no encoder writes it' }],
  ['a marker that is not true is no placeholder', '51-["e",{"_placeholder":"true","num":5},{"_placeholder":true,"num":0}]', [bytes(1)]],
  ['a fractional placeholder', '51-["e",{"_placeholder":true,"num":0.5}]', [bytes(1)], { ours: 'error', reason: 'JavaScript puts undefined there', ...LOSSY }],
  ['an attachment count with a leading zero', '501-["e",{"_placeholder":true,"num":0}]', [bytes(1)], { ours: 'either', reason: 'no encoder writes it' }],
  ['an attachment count in hexadecimal', '50x1-["e",{"_placeholder":true,"num":0}]', [bytes(1)], { ours: 'error', reason: 'the count is decimal digits' }],
  ['an attachment count with an exponent', '51e0-["e",{"_placeholder":true,"num":0}]', [bytes(1)], { ours: 'error', reason: 'the count is decimal digits' }],
  ['an attachment count with a fraction', '51.0-["e",{"_placeholder":true,"num":0}]', [bytes(1)], { ours: 'error', reason: 'the count is decimal digits' }],
  ['an attachment count with a sign', '5+1-["e",{"_placeholder":true,"num":0}]', [bytes(1)], { ours: 'error', reason: 'the count is decimal digits' }],
  ['an attachment count with a space', '5 1-["e",{"_placeholder":true,"num":0}]', [bytes(1)], { ours: 'error', reason: 'the count is decimal digits' }],
  ['a binary event without a payload', '51-', [bytes(1)], { ours: 'error', reason: 'against the protocol document: an event needs a name' }],
];

const sioDecodeOk = okRows.map(([name, wire, attachments, { lossy, ...extra } = {}]) => {
  const { packet, error } = decode([wire, ...attachments]);
  if (error || !packet) throw new Error(`socket.io-parser refuses '${name}': ${error ?? 'waits for more'}`);
  const shown = { type: TYPE_NAMES[Number(wire.charAt(0))], nsp: packet.nsp };
  if (packet.id !== undefined && Number.isSafeInteger(packet.id)) shown.id = packet.id;
  if (packet.data !== undefined && !lossy) shown.data = marked(packet.data);
  if (attachments.length) shown.attachments = attachments.length;
  return { name, wire, attachments: attachments.map(base64), packet: shown, ...(!extra.ours && { payload: payloadOf(wire) }), ...(lossy && { lossy }), ...extra };
});

const HEADER = '51-["e",{"_placeholder":true,"num":0}]';
const placeholder = (num) => `51-["e",{"_placeholder":true,"num":${num}}]`;
const badRows = [
  ['no type', ['abc']],
  ['a negative type', ['-1']],
  ['type 7', ['7']],
  ['type 9', ['9["e"]']],
  ['a space before the type', [' 2["e"]']],
  ['a control character as the type', ['\u0001']],
  ['a type that is not ASCII', ['é']],
  ['CONNECT with an array', ['0[]']],
  ['CONNECT with elements', ['0[1]']],
  ['CONNECT with a string', ['0"x"']],
  ['CONNECT with null', ['0null']],
  ['CONNECT with JSON cut short', ['0{']],
  ['CONNECT with words', ['0hello']],
  ['CONNECT to a namespace with an array', ['0/admin,[]']],
  ['DISCONNECT with a payload', ['1["x"]']],
  ['DISCONNECT with an object', ['1{}']],
  ['DISCONNECT from a namespace with a payload', ['1/admin,{"a":1}']],
  ['an empty event', ['2[]']],
  ['an event that is an object', ['2{}']],
  ['an event that is a string', ['2"e"']],
  ['an event that is a boolean', ['2true']],
  ['an event that is null', ['2null']],
  ['an event with null for a name', ['2[null]']],
  ['an event with an object for a name', ['2[{}]']],
  ['an event with an object with toString for a name', ['2[{"toString":"foo"}]']],
  ['an event with an array for a name', ['2[[]]']],
  ['an event with a boolean for a name', ['2[true]']],
  ...['connect', 'connect_error', 'disconnect', 'disconnecting', 'newListener', 'removeListener'].map((event) => [`the reserved event ${event}`, [`2["${event}"]`]]),
  ['a reserved event with an ack id in a namespace', ['2/admin,1["disconnect"]']],
  ['a reserved event written with escapes', ['2["\\u0063onnect"]']],
  ['an event with JSON cut short', ['2["e"']],
  ['an event with something after the JSON', ['2["e"]x']],
  ['an event with two values', ['2["e"]["f"]']],
  ['an event with a comma too many', ['2["e",]']],
  ['an event with single quotes', ["2['e']"]],
  ['a raw control character in a string', ['2["e","\u001e"]']],
  ['NaN', ['2["e",NaN]']],
  ['Infinity', ['2["e",Infinity]']],
  ['a number with a leading zero', ['2["e",01]']],
  ['a number with a plus', ['2["e",+1]']],
  ['a number without digits after the point', ['2["e",1.]']],
  ['a bad escape', ['2["e","\\x41"]']],
  ['a short unicode escape', ['2["e","\\u12"]']],
  ['a comment', ['2["e"/**/]']],
  ['words before the JSON', ['2abc["e"]']],
  ['a fractional ack id', ['21.5["e"]']],
  ['a negative ack id', ['2-1["e"]']],
  ['an ack id in hexadecimal', ['20x1["e"]']],
  ['an ack id after the JSON', ['2["e"]12']],
  ['a namespace without its slash', ['2admin,["e"]']],
  ['a comma without a namespace', ['2,["e"]']],
  ['an acknowledgement that is an object', ['31{}']],
  ['an acknowledgement that is a string', ['31"x"']],
  ['an acknowledgement with JSON cut short', ['31[']],
  ['CONNECT_ERROR with an array', ['4[]']],
  ['CONNECT_ERROR with null', ['4null']],
  ['CONNECT_ERROR with a boolean', ['4true']],
  ['a binary event without a count', ['5["e"]']],
  ['a binary event with only a hyphen', ['5-["e"]']],
  ['a binary event with a word for a count', ['5x-["e"]']],
  ['a binary event with 0 attachments', ['50-["e"]']],
  ['a binary acknowledgement with 0 attachments', ['60-1[]']],
  ['a binary event without a hyphen', ['51["e"]']],
  ['a binary event with a negative count', ['5-1-["e"]']],
  ['a binary event with a fractional count', ['51.5-["e"]']],
  ['11 attachments', ['511-["e",{"_placeholder":true,"num":0}]']],
  ['1,000 attachments with an exponent', ['51e3-["e"]']],
  ['99,999,999 attachments', ['599999999-["e"]']],
  ['a count of 400 digits', [`5${'9'.repeat(400)}-["e"]`]],
  ['a count alone', ['51']],
  ['a binary event with the namespace before the count', ['5/admin,1-["e"]']],
  ['a binary event with an empty array', ['51-[]']],
  ['a binary event with a reserved name', ['51-["connect",{"_placeholder":true,"num":0}]']],
  ['a binary event with an object', ['51-{}']],
  ['a binary acknowledgement with an object', ['61-1{}']],
  ['a placeholder out of range', [placeholder(5), bytes(1)]],
  ['a placeholder equal to the count', [placeholder(1), bytes(1)]],
  ['a negative placeholder', [placeholder(-1), bytes(1)]],
  ['a placeholder that is a string', [placeholder('"0"'), bytes(1)]],
  ['a placeholder named like a method', [placeholder('"splice"'), bytes(1)]],
  ['a placeholder that is null', [placeholder('null'), bytes(1)]],
  ['a placeholder that is true', [placeholder('true'), bytes(1)]],
  ['a huge placeholder', [placeholder('1e300'), bytes(1)]],
  ['a placeholder without a number', ['51-["e",{"_placeholder":true}]', bytes(1)]],
  ['a nested placeholder out of range', ['51-["e",{"a":[{"b":{"_placeholder":true,"num":1}}]}]', bytes(1)]],
  ['the second of two placeholders out of range', ['52-["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":2}]', bytes(1), bytes(2)]],
  ['text while an attachment is pending', [HEADER, '2["f"]']],
  ['another header while an attachment is pending', [HEADER, HEADER]],
  ['text between two attachments', ['52-["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', bytes(1), '2["f"]']],
  ['binary without a header', [bytes(1)]],
  ['binary after an event without attachments', ['2["e"]', bytes(1)]],
  ['one attachment more than declared', [HEADER, bytes(1), bytes(2)]],
];

const sioDecodeBad = badRows.map(([name, frames]) => {
  const { at, error } = decode(frames);
  if (error === undefined) throw new Error(`socket.io-parser reads '${name}'`);
  if (at !== frames.length - 1) throw new Error(`'${name}' is refused at frame ${at} already`);
  return { name, frames: frames.map(wireOf), at, error };
});

// ---- Files ----------------------------------------------------------------------------------------

/** JSON with one row a line; a lone surrogate would make a file that strict readers refuse. */
function render(value) {
  const rows = (list, indent) => `[\n${list.map((row) => `${indent}  ${JSON.stringify(row)}`).join(',\n')}\n${indent}]`;
  const text = Array.isArray(value)
    ? rows(value, '')
    : `{\n${Object.entries(value).map(([key, list]) => `  ${JSON.stringify(key)}: ${rows(list, '  ')}`).join(',\n')}\n}`;
  if (!text.isWellFormed()) throw new Error('a lone surrogate in a vector file');
  if (/(?<!\\)(?:\\\\)*\\ud[89a-f]/i.test(text)) throw new Error('an escaped lone surrogate in a vector file');
  return `${text}\n`;
}

const files = {
  'eio_packets.json': { encode: eioEncode, decode: eioDecode, bad: eioBad },
  'eio_payloads.json': { encode: payloadEncode, decode: payloadDecode, bad: payloadBad },
  'sio_encode.json': sioEncode,
  'sio_decode_ok.json': sioDecodeOk,
  'sio_decode_bad.json': sioDecodeBad,
};

const checking = process.argv.includes('--check');
let stale = false;
for (const [name, value] of Object.entries(files)) {
  const url = new URL(name, import.meta.url);
  const text = render(value);
  if (!checking) {
    writeFileSync(url, text);
    continue;
  }
  let committed = '';
  try {
    committed = readFileSync(url, 'utf8');
  } catch {
    // A missing file is stale, too.
  }
  if (committed !== text) {
    stale = true;
    console.error(`${name} is not what generate.mjs writes: run \`node shared/tests/vectors/generate.mjs\``);
  }
}
process.exit(stale ? 1 : 0);
