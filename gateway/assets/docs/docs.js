// The page of the node's two documents. It knows OpenAPI and AsyncAPI and no app: what the documents hold is
// what it shows.
//
// Parts, top to bottom: page pieces · schemas · entries of either document · the list, search and apps · start.
// An entry is an endpoint, an event or a webhook. Its contents are created when it is first opened.

const VERBS = { get: 0, post: 4, put: 2, patch: 2, delete: 5, emit: 1, on: 6, hook: 3 };
const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
const ALL = 'all';
/** The public listener's address in the documents' code samples. */
const EXAMPLE_ORIGIN = 'http://127.0.0.1:8080';
const NESTED_MAX = 6;

// ---------------------------------------------------------------------------------------- page pieces

const $ = (id) => document.getElementById(id);

/** Makes an element. `props` are attributes, but for `text`, `class`, and `on…` listeners. */
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'text') node.textContent = value;
    else if (name === 'class') node.className = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A sentence in which what stands between backticks is code. */
function sentence(text, props = {}) {
  const parts = text.split('`').map((part, n) => (n % 2 === 1 ? el('code', { text: part }) : part));
  return el('p', props, ...parts);
}

function prose(text, extra = '') {
  return el('div', { class: `prose ${extra}` }, ...text.split('\n\n').map((part) => sentence(part)));
}

// ---------------------------------------------------------------------------------------- schemas

function resolve(root, value) {
  let found = value;
  for (let hops = 0; found?.$ref !== undefined && hops < 20; hops += 1) {
    const path = found.$ref.slice(2).split('/').map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
    found = path.reduce((at, key) => at?.[key], root);
  }
  return found;
}

/** The one schema behind a reference, or behind the `allOf` that draft 7 wraps a described reference in. */
function single(schema) {
  return schema?.allOf?.length === 1 ? { ...schema, ...schema.allOf[0], allOf: undefined } : schema;
}

/** What a value may be, the null taken out: `[schemas, whether it may be null]`. */
function choices(schema) {
  const several = schema.anyOf ?? schema.oneOf ?? [schema];
  const present = several.filter((one) => one.type !== 'null');
  return [present, present.length < several.length || (Array.isArray(schema.type) && schema.type.includes('null'))];
}

function nameOf(schema) {
  return schema.$ref?.split('/').pop();
}

function typeOf(root, wrapped) {
  const schema = single(wrapped);
  if (schema === true || schema === undefined || Object.keys(schema).length === 0) return 'anything';
  const [present, nullable] = choices(schema);
  const suffix = nullable ? ' or null' : '';
  if (present.length > 1) return present.map((one) => typeOf(root, one)).join(' or ') + suffix;
  const [one] = present;
  if (one.$ref !== undefined) {
    const target = resolve(root, one);
    return (target.enum ? typeOf(root, target) : nameOf(one)) + suffix;
  }
  const types = [one.type ?? []].flat().filter((type) => type !== 'null');
  if (types[0] === 'array') return `array of ${typeOf(root, one.items)}${suffix}`;
  return (types.join(' or ') || 'anything') + suffix;
}

/** The limits of a value, in short. */
function rules(root, wrapped) {
  const outer = single(wrapped);
  if (typeof outer !== 'object') return [];
  const [present] = choices(outer);
  const schema = { ...(present.length === 1 ? resolve(root, present[0]) : {}), ...outer };
  const said = [];
  if (schema.const !== undefined) said.push(`= ${JSON.stringify(schema.const)}`);
  if (schema.enum) said.push(schema.enum.map((value) => JSON.stringify(value)).join(' | '));
  if (schema.format && /^(date|uri|email|uuid)/.test(schema.format)) said.push(schema.format);
  if (schema.pattern) said.push(schema.pattern);
  const [least, most] = [schema.minimum, schema.maximum];
  if (least !== undefined && most !== undefined) said.push(`${least} to ${most}`);
  else if (most !== undefined) said.push(`at most ${most}`);
  if (schema.maxLength !== undefined) said.push(`${schema.minLength ?? 0} to ${schema.maxLength} characters`);
  return said;
}

/** The objects inside a value whose fields are worth a list: its own, its items', its choices'. */
function inner(root, wrapped) {
  const schema = single(wrapped);
  if (typeof schema !== 'object') return [];
  const [present] = choices(schema);
  return present.flatMap((one) => {
    const target = single(resolve(root, one));
    if (target?.properties) return [target];
    if (target?.items) return inner(root, target.items);
    if (target !== one && (target?.anyOf || target?.oneOf)) return inner(root, target);
    return [];
  });
}

function fields(root, schema, depth = 0) {
  const lists = inner(root, schema).map((object) => {
    // What is required is listed in the order of the type; the fields themselves are not.
    const required = new Set(object.required);
    const names = [...required, ...Object.keys(object.properties).filter((name) => !required.has(name))];
    return el('ul', { class: 'fields' }, ...names.map((name) => field(root, name, object.properties[name], required.has(name), depth)));
  });
  return lists;
}

function field(root, name, schema, required, depth) {
  const about = schema.description ?? '';
  return el('li', {},
    el('span', { class: 'field', text: name }),
    el('span', { class: 'type', text: typeOf(root, schema) }),
    required ? null : el('span', { class: 'may', text: 'optional' }),
    ...rules(root, schema).map((rule) => el('span', { class: 'rule', text: rule })),
    about ? sentence(about, { class: 'about' }) : null,
    ...(depth < NESTED_MAX ? fields(root, schema, depth + 1) : []));
}

function shape(root, title, schema, note) {
  const target = single(resolve(root, schema));
  const about = target?.description;
  return el('section', {},
    el('h4', {}, ...[title].flat()),
    note ? sentence(note, { class: 'about' }) : null,
    el('p', { class: 'kind' }, typeOf(root, schema), ...rules(root, schema).map((rule) => el('span', { class: 'rule', text: rule }))),
    about ? sentence(about, { class: 'about' }) : null,
    ...fields(root, schema));
}

// ---------------------------------------------------------------------------------------- entries

/** Everything that can be searched for in a part of a document: its texts, and those of the types it names. */
function words(root, value, seen = new Set()) {
  if (typeof value === 'string') return [value];
  if (value === null || typeof value !== 'object') return [];
  if (value.$ref !== undefined) {
    if (seen.has(value.$ref)) return [];
    seen.add(value.$ref);
    return words(root, resolve(root, value), seen);
  }
  return Object.entries(value).flatMap(([key, part]) => [key, ...words(root, part, seen)]);
}

function errorsOf(operation) {
  return Object.entries(operation.responses).filter(([, response]) => response['x-errors']);
}

function endpoint(root, path, method, operation) {
  const internal = listeners(operation) === 'internal';
  const caller = operation.security.some((one) => one.userToken) ? 'token' : internal ? 'internal' : '';
  const described = { ...operation, security: undefined, responses: undefined, 'x-codeSamples': undefined };
  const said = Object.values(operation.responses).flatMap((response) => [response.description, ...words(root, response['x-errors'] ? {} : response)]);
  return {
    id: operation.operationId, app: operation.tags[0], verb: method, name: path, gist: operation.summary, caller,
    haystack: [path, method, caller, ...words(root, described), ...said].join(' ').toLowerCase(),
    body: () => [
      operation.description ? prose(operation.description) : null,
      who(operation),
      parameters(root, operation.parameters ?? []),
      operation.requestBody ? shape(root, `Body${operation.requestBody.required ? '' : ', may be left out'}`, operation.requestBody.content['application/json'].schema) : null,
      ...Object.entries(operation.responses).filter(([, response]) => !response['x-errors']).map(([status, response]) => answer(root, status, response)),
      refusals(errorsOf(operation).map(([status, response]) => [status, response['x-errors']])),
      ...codeSamples(operation),
      exampleOf('Example of the answer', Object.values(operation.responses).find((response) => !response['x-errors'])),
    ],
  };
}

/** A request that the node itself sends. */
function webhook(root, name, operation) {
  return {
    id: operation.operationId, app: operation.tags[0], verb: 'hook', name, gist: operation.summary, caller: '',
    haystack: [name, 'webhook', ...words(root, { ...operation, 'x-codeSamples': undefined })].join(' ').toLowerCase(),
    body: () => [
      prose(operation.description),
      parameters(root, operation.parameters),
      shape(root, 'Body', operation.requestBody.content['application/json'].schema),
      ...Object.entries(operation.responses).map(([status, response]) => answer(root, status, response)),
      exampleOf('Example of the body', operation.requestBody),
      ...codeSamples(operation),
    ],
  };
}

/** Which listeners serve an endpoint: `public`, `internal` or `both`. */
function listeners(operation) {
  if (operation.servers.length === 2) return 'both';
  return operation.servers[0].url === '/' ? 'public' : 'internal';
}

function who(operation) {
  const where = { internal: 'Served by the internal listener only.', both: 'Served by both listeners.', public: '' }[listeners(operation)];
  let auth = '';
  if (operation.security.some((one) => one.userToken)) auth = 'Wants `Authorization: Bearer` with a user’s token.';
  if (operation.security.some((one) => one.internalRequest)) auth = 'Wants `X-Internal-Request: true`, and `Authorization: Bearer` with the `INTERNAL_TOKEN` where one is set.';
  const text = [where, auth].filter(Boolean).join(' ');
  return text ? sentence(text, { class: 'about' }) : null;
}

function parameters(root, list) {
  if (list.length === 0) return null;
  const items = list.map((one) => el('li', {},
    el('span', { class: 'field', text: one.name }),
    el('span', { class: 'type', text: typeOf(root, one.schema) }),
    el('span', { class: 'may', text: one.in + (one.required ? '' : ', optional') }),
    ...rules(root, one.schema).map((rule) => el('span', { class: 'rule', text: rule })),
    one.description ? sentence(one.description, { class: 'about' }) : null));
  return el('section', {}, el('h4', { text: 'Parameters' }), el('ul', { class: 'fields' }, ...items));
}

function answer(root, status, response) {
  const [[media, content]] = Object.entries(response.content ?? { '': {} });
  const title = ['Answer ', el('span', { class: 'mono', text: status })];
  if (media === '') return el('section', {}, el('h4', {}, ...title), sentence(response.description, { class: 'about' }));
  if (content.schema !== undefined) return shape(root, title, content.schema, response.description);
  return el('section', {}, el('h4', {}, ...title), sentence(`${response.description} \`${media}\``, { class: 'about' }));
}

function refusals(list) {
  if (list.length === 0) return null;
  const items = list.map(([status, errors]) => el('li', {},
    status === '' ? null : el('b', { class: 'mono', text: status }),
    el('span', { class: status === '' ? 'plain' : '' }, ...errors.flatMap((error) => [el('code', { text: error }), ' ']))));
  return el('section', {}, el('h4', { text: 'Errors' }), el('ul', { class: 'errors' }, ...items));
}

function event(root, id, operation) {
  const message = resolve(root, resolve(root, operation.messages[0]));
  const emit = operation.action === 'receive';
  const acks = (operation.reply?.messages ?? []).map((one) => resolve(root, resolve(root, one)));
  const errors = operation['x-errors'] ?? [];
  const to = operation['x-to'];
  return {
    id, app: operation.tags[0].name, verb: emit ? 'emit' : 'on', name: message.name, gist: operation.summary, caller: '',
    haystack: [message.name, emit ? 'emit' : 'on', operation.summary, operation.description, to, ...errors, ...words(root, message.payload ?? {}), ...acks.slice(0, 1).flatMap((ack) => words(root, ack.payload))].join(' ').toLowerCase(),
    body: () => [
      operation.description ? prose(operation.description) : null,
      to ? sentence(`Goes to ${to}.`, { class: 'about' }) : null,
      message.payload === undefined ? sentence('Has no argument.', { class: 'about' }) : shape(root, 'Argument', message.payload),
      acks.length > 0 ? shape(root, 'Ack', acks[0].payload) : null,
      errors.length > 0 ? refusals([['', errors]]) : null,
      ...codeSamples(operation),
    ],
  };
}

function example(title, code) {
  return el('section', {}, el('h4', { text: title }), el('pre', { class: 'example' }, el('code', { text: code })));
}

/** The example of a body or an answer, if it has one. */
function exampleOf(title, part) {
  const value = part?.content?.['application/json']?.example;
  return value === undefined ? null : example(title, JSON.stringify(value, null, 2));
}

/** An entry's code samples, one for each language, with this page's address in place of the example address. */
function codeSamples(operation) {
  return operation['x-codeSamples'].map(({ lang, label, source }) => example(`${lang}, ${label}`, source.trimEnd().replaceAll(EXAMPLE_ORIGIN, location.origin)));
}

function entryView(entry) {
  const view = el('details', { class: 'entry', id: entry.id },
    el('summary', {},
      el('span', { class: `verb hue-${VERBS[entry.verb] ?? 7} ${entry.verb}`, text: entry.verb }),
      el('span', { class: 'name', text: entry.name }),
      el('span', { class: 'gist', text: entry.gist }),
      el('span', { class: 'caller', text: entry.caller })));
  view.addEventListener('toggle', () => {
    if (!view.open) return;
    history.replaceState(null, '', `#${encodeURIComponent(entry.id)}`);
    if (view.childElementCount === 1) view.append(el('div', { class: 'facts' }, ...entry.body().filter((part) => part !== null)));
  });
  return view;
}

// ---------------------------------------------------------------------------------------- list

const state = { app: ALL, entries: [], sections: [] };

function sectionView(name, about, address, groups) {
  const head = el('h2', {}, name, address ? el('span', { class: 'mono', text: `namespace ${address}` }) : '');
  const node = el('section', { class: 'app', 'data-app': name }, head, about ? prose(about, 'muted') : '');
  const links = el('ul');
  $('toc').append(el('div', { 'data-app': name }, el('b', { text: name }), links));
  const shown = groups.filter(([, entries]) => entries.length > 0).map(([title, entries]) => {
    const views = entries.map((entry) => {
      const verb = METHODS.includes(entry.verb) ? `${entry.verb.toUpperCase()} ` : '';
      const link = el('li', {}, el('a', { href: `#${encodeURIComponent(entry.id)}`, text: `${verb}${entry.name}` }));
      links.append(link);
      return { entry, view: entryView(entry), link };
    });
    const group = el('div', {}, el('h3', { text: title }), ...views.map(({ view }) => view));
    node.append(group);
    return { group, views };
  });
  return { name, node, groups: shown };
}

/** Shows what has every word of the search and belongs to the chosen app. */
function filter() {
  const wanted = $('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const section of state.sections) {
    let inSection = 0;
    for (const { group, views } of section.groups) {
      let inGroup = 0;
      for (const { entry, view, link } of views) {
        const fits = wanted.every((word) => entry.haystack.includes(word)) && [ALL, section.name].includes(state.app);
        view.hidden = !fits;
        link.hidden = !fits;
        inGroup += fits ? 1 : 0;
      }
      group.hidden = inGroup === 0;
      inSection += inGroup;
    }
    section.node.hidden = inSection === 0;
    $('toc').querySelector(`[data-app="${section.name}"]`).hidden = inSection === 0;
    count += inSection;
  }
  const total = state.entries.length;
  $('found').textContent = count === total ? `${total} endpoints, events and webhooks` : `${count} of ${total} endpoints, events and webhooks`;
}

function choose(app) {
  state.app = app;
  for (const button of $('apps').children) button.setAttribute('aria-pressed', String(button.dataset.app === app));
  filter();
}

function appButtons() {
  const counts = new Map(state.sections.map((section) => [section.name, state.entries.filter((entry) => entry.app === section.name).length]));
  for (const [name, count] of [[ALL, state.entries.length], ...counts]) {
    $('apps').append(el('button', { type: 'button', 'data-app': name, 'aria-pressed': String(name === state.app), onclick: () => choose(name) }, name, el('span', { class: 'badge muted', text: String(count) })));
  }
}

/** Opens the entry that the address names, so that one can be pointed at. */
function follow() {
  const view = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!view?.classList.contains('entry')) return;
  $('search').value = '';
  choose(ALL);
  view.open = true;
  view.scrollIntoView({ block: 'start' });
}

// ---------------------------------------------------------------------------------------- start

async function fetchJson(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return answer.json();
}

async function start() {
  const [http, events] = await Promise.all(['/api/openapi.json', '/api/asyncapi.json'].map(fetchJson));
  const endpoints = Object.entries(http.paths).flatMap(([path, methods]) => METHODS.filter((method) => methods[method])
    .map((method) => endpoint(http, path, method, methods[method])));
  const webhooks = Object.entries(http.webhooks).map(([name, methods]) => webhook(http, name, methods.post));
  const listed = Object.entries(events.operations).map(([id, operation]) => event(events, id, operation));
  const tags = new Map([...http.tags, ...events.info.tags].map((tag) => [tag.name, tag.description]));
  const content = $('content');
  content.append(
    el('details', { class: 'entry preface' }, el('summary', {}, el('span', { class: 'verb hue-7', text: 'all' }), el('span', { class: 'name', text: 'What holds for every endpoint' })), el('div', { class: 'facts' }, prose(http.info.description))),
    el('details', { class: 'entry preface' }, el('summary', {}, el('span', { class: 'verb hue-7', text: 'all' }), el('span', { class: 'name', text: 'What holds for every event' })), el('div', { class: 'facts' }, prose(events.info.description))));
  const order = ['gateway', ...[...tags.keys()].filter((name) => name !== 'gateway').sort()];
  for (const name of order) {
    const of = (entries) => entries.filter((entry) => entry.app === name);
    const channel = events.channels[name];
    const address = channel?.parameters ? channel.parameters.namespace.enum.join(', ') : channel?.address;
    state.sections.push(sectionView(name, tags.get(name), address, [['HTTP', of(endpoints)], ['Events', of(listed)], ['Webhooks', of(webhooks)]]));
  }
  state.entries = [...endpoints, ...listed, ...webhooks];
  content.append(...state.sections.map((section) => section.node));
  document.body.dataset.version = http.info.version;
  appButtons();
  filter();
  follow();
}

$('search').addEventListener('input', filter);
addEventListener('hashchange', follow);
start().catch((error) => {
  $('found').textContent = `The documents could not be loaded: ${error.message}`;
});
