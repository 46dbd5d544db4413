// A witness compares every answer and every event that passes it with the gateway's own OpenAPI and AsyncAPI documents,
// and records which parts of them it has seen.
//
// Schemas are closed first: an undescribed field is as wrong as a missing one.

import assert from 'node:assert/strict';

import { ask } from './clients.mjs';
import { load } from './packages.mjs';

const { Ajv } = load('ajv');
const { Ajv2020 } = load('ajv/dist/2020.js');
const addFormats = load('ajv-formats').default;

/** Formats that schemars adds for Rust's integers; JSON Schema does not define them. */
const RUST_FORMATS = ['uint', 'uint8', 'uint16', 'uint32', 'uint64', 'int8', 'int16'];

/** Errors that every event may return, in addition to those listed with it. */
const COMMON_ERRORS = ['Unknown event', 'Too many arguments', 'Rate limit exceeded', 'Too many rooms', 'Service temporarily unavailable', 'Internal error'];

export async function documentsOf(gateway) {
  const [openapi, asyncapi] = await Promise.all(['openapi', 'asyncapi'].map(async (name) => {
    const answer = await fetch(`${gateway.url}/api/${name}.json`);
    assert.equal(answer.status, 200);
    assert.match(answer.headers.get('content-type'), /^application\/json/);
    return answer.json();
  }));
  return { openapi, asyncapi };
}

/** Every endpoint of an OpenAPI document: `[method, path, operation]`. */
export function endpoints(openapi) {
  return Object.entries(openapi.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => [method.toUpperCase(), path, operation]));
}

/** The listeners that serve an operation of an OpenAPI document. */
export function servedBy(operation) {
  return operation.servers.map(({ url }) => (url === '/' ? 'public' : 'internal'));
}

/** Every event of an AsyncAPI document, with its references resolved. */
export function events(asyncapi) {
  return Object.values(asyncapi.operations).map((operation) => {
    const app = operation.channel.$ref.split('/').pop();
    const message = follow(asyncapi, operation.messages[0].$ref);
    const channel = asyncapi.channels[app];
    const ack = operation.reply?.messages[0].$ref;
    return {
      app,
      name: message.name,
      fromClient: operation.action === 'receive',
      namespaces: channel.parameters?.namespace.enum ?? [channel.address],
      payload: 'payload' in message ? `${operation.messages[0].$ref}/payload` : undefined,
      ack: ack && `${ack}/payload`,
      errors: operation['x-errors'] ?? [],
    };
  });
}

function follow(root, reference) {
  const path = reference.slice(2).split('/').map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
  return path.reduce((at, key) => at[key], root);
}

/** The document with every object schema closed to additional fields. */
function closed(value) {
  if (Array.isArray(value)) return value.map(closed);
  if (value === null || typeof value !== 'object') return value;
  const copy = Object.fromEntries(Object.entries(value).map(([key, part]) => [key, closed(part)]));
  const isObject = value.type === 'object' && value.properties !== undefined;
  return isObject && value.additionalProperties === undefined ? { ...copy, additionalProperties: false } : copy;
}

/** Validates values against parts of a document: `check(pointer, value, what)`. */
export function checker(Dialect, document) {
  const ajv = new Dialect({ strict: false, allErrors: true });
  addFormats(ajv);
  for (const format of RUST_FORMATS) ajv.addFormat(format, true);
  ajv.addSchema(closed(document), 'document');
  const compiled = new Map();
  return (pointer, value, what) => {
    if (!compiled.has(pointer)) compiled.set(pointer, ajv.compile({ $ref: `document${pointer}` }));
    const validate = compiled.get(pointer);
    assert.ok(validate(value), `${what} is not as described: ${ajv.errorsText(validate.errors)}\n${JSON.stringify(value)}`);
  };
}

const escaped = (part) => encodeURIComponent(part.replaceAll('~', '~0').replaceAll('/', '~1'));

/** Whether an error is listed; `…` stands for the variable part. */
function isListed(error, list) {
  return list.some((wanted) => {
    const [before, after] = wanted.split('…');
    return after === undefined ? error === wanted : error.startsWith(before) && error.endsWith(after);
  });
}

/** A witness to `gateway`: `request` and `watch` compare traffic with the documents. */
export async function witness(gateway, { internalToken } = {}) {
  const { openapi, asyncapi } = await documentsOf(gateway);
  const checkHttp = checker(Ajv2020, openapi);
  const checkEvent = checker(Ajv, asyncapi);
  const described = events(asyncapi);
  const seen = { endpoints: new Set(), events: new Set(), acks: new Set() };
  const problems = [];

  /** Sends a request to an endpoint, with the path as in the document; the answer must be described. */
  async function request(method, path, { params = {}, query = {}, body, headers = {}, claims, internal = path.startsWith('/internal') || path === '/metrics', stranger = false } = {}) {
    const operation = openapi.paths[path]?.[method.toLowerCase()];
    assert.ok(operation, `${method} ${path} is not described`);
    const target = path.replaceAll(/\{(\w+)\}/g, (_, name) => encodeURIComponent(params[name]));
    const all = { ...headers };
    if (body !== undefined) all['Content-Type'] ??= 'application/json';
    if (claims) all.Authorization = `Bearer ${gateway.token(claims)}`;
    if (internal && !stranger) Object.assign(all, { 'X-Internal-Request': 'true' }, internalToken ? { Authorization: `Bearer ${internalToken}` } : {});
    const search = new URLSearchParams(query).toString();
    const answer = await fetch(`${internal ? gateway.internalUrl : gateway.url}${target}${search && `?${search}`}`, {
      method, headers: all, body: body === undefined || typeof body === 'string' ? body : JSON.stringify(body),
    });
    const text = await answer.text();
    const what = `${method} ${target}: ${answer.status} ${text.slice(0, 300)}`;
    const response = operation.responses[answer.status];
    assert.ok(response, `${what}: this status is not described`);
    const media = answer.headers.get('content-type').split(';')[0];
    const content = response.content[media] ?? response.content['*/*'];
    assert.ok(content, `${what}: ${media} is not described`);
    const result = { status: answer.status, text };
    if (media === 'application/json') {
      result.body = JSON.parse(text);
      const pointer = `#/paths/${escaped(path)}/${method.toLowerCase()}/responses/${answer.status}/content/${escaped(media)}/schema`;
      if (content.schema !== undefined) checkHttp(pointer, result.body, what);
    }
    if (response['x-errors']) assert.ok(isListed(result.body.error, response['x-errors']), `${what}: this error is not described`);
    if (response.headers?.['Retry-After']) assert.match(answer.headers.get('retry-after'), /^\d+$/);
    if (answer.status < 400) seen.endpoints.add(`${method} ${path}`);
    return result;
  }

  function find(namespace, name, fromClient) {
    return described.find((event) => event.name === name && event.fromClient === fromClient && event.namespaces.includes(namespace));
  }

  /**
   * Compares every event that a socket receives with the document; `passing` are names that clients chose for their
   * events.
   */
  function watch(socket, { passing = [] } = {}) {
    socket.onAny((name, ...args) => {
      if (passing.includes(name)) return;
      try {
        const event = find(socket.nsp, name, false);
        assert.ok(event, `the event ${name} is not described`);
        assert.equal(args.length, event.payload === undefined ? 0 : 1, `${name} has ${args.length} arguments`);
        if (event.payload) checkEvent(event.payload, args[0], `the event ${name}`);
        seen.events.add(`${event.app} to ${name}`);
      } catch (error) {
        // Thrown here, the error would end in the client's emitter.
        problems.push(error);
      }
    });
    socket.on('connect_error', (error) => seeConnectError(error));
    return socket;
  }

  function seeConnectError(error) {
    const told = error.data === undefined ? { message: error.message } : { message: error.message, data: error.data };
    const event = described.find(({ name }) => name === 'connect_error');
    checkEvent(event.payload, told, 'the event connect_error');
    seen.events.add(`${event.app} to connect_error`);
    return told;
  }

  /** Sends an event as described; its ack must be as described, and a success unless `refused`. */
  async function send(socket, name, payload, { refused = false } = {}) {
    const event = find(socket.nsp, name, true);
    assert.ok(event, `the event ${name} is not described`);
    if (event.payload && !refused) checkEvent(event.payload, payload, `the argument of ${name}`);
    const ack = await ask(socket, name, payload);
    const what = `the ack of ${name}`;
    if (refused) {
      checkEvent('#/components/messages/refused/payload', ack, what);
      assert.ok(isListed(ack.error, [...event.errors, ...COMMON_ERRORS]), `${what}: '${ack.error}' is not described`);
    } else {
      checkEvent(event.ack, ack, what);
      seen.acks.add(`${event.app} from ${name}`);
    }
    return ack;
  }

  return {
    openapi,
    asyncapi,
    request,
    watch,
    send,
    seeConnectError,
    seen,
    /** Throws the first recorded problem that could not be thrown where it occurred. */
    assertClean() {
      const [first] = problems.splice(0);
      if (first) throw first;
    },
    /** The described parts that were not seen. */
    unseen() {
      const wanted = [
        ...endpoints(openapi).map(([method, path]) => [`${method} ${path}`, seen.endpoints]),
        ...described.map(({ app, name, fromClient }) => (fromClient ? [`${app} from ${name}`, seen.acks] : [`${app} to ${name}`, seen.events])),
      ];
      return wanted.filter(([key, set]) => !set.has(key)).map(([key]) => key);
    },
  };
}
