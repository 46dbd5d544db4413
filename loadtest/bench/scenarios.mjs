// The scenarios: the tester's flags, the servers to measure, and the figures of its reports that count.
//
// `flags` begin with the tester's subcommand; `alone` replaces it for servers of one node. `duration` is there where the
// subcommand takes one. With `ofBackend` the tester speaks to the internal listeners, and asks Redis what it spent. `figures`
// go into the tables, the first of them with ratios; `summary` names those that the book shows. `seconds` is a first guess at
// what a measurement takes besides its duration.

/** A figure: its path in the report, what it is called, its unit, and which way is better. */
const figure = (path, title, unit, better = 'lower') => ({ path, title, unit, better });

const CPU_PER_DELIVERY = figure('server_cpu_us_per_delivery', 'CPU per delivery', 'µs');
const DELIVERIES = figure('deliveries_per_s', 'deliveries/s', '', 'higher');
const BROADCASTS = figure('broadcasts_per_s', 'broadcasts/s', '', 'higher');
const CPU_PER_CONNECT = figure('server_cpu_us_per_connect', 'CPU per connect', 'µs');
const latency = (path, of) => ['p50', 'p99', 'p999'].map((at) => figure(`${path}.${at}`, `${of}${at.replace('p999', 'p99.9')}`, 'ms'));
const LATENCY = latency('latency_ms', '');
const [, P99] = LATENCY;
const CROSSING = latency('crossing_ms', 'other node ').slice(0, 2);
const [, CROSSING_P99] = CROSSING;

const FANOUT = [CPU_PER_DELIVERY, DELIVERIES, ...LATENCY];
const CROSS = [CPU_PER_DELIVERY, DELIVERIES, ...LATENCY.slice(0, 2), ...CROSSING];

const EACH = ['floor', 'gateway', 'socketioxide-mimalloc', 'socketioxide', 'node-uws', 'node-ws'];
const PAIRS = ['gateway-pair', 'gateway', 'socketioxide-mimalloc-pair', 'node-ws-pair'];

export const scenarios = ({ idle }) => [
  {
    name: '1x1000-window1',
    title: '1 room × 1,000, one broadcast in flight',
    flags: ['fanout', '--members', '1000', '--in-flight', '1'],
    duration: '3s',
    servers: EACH,
    figures: FANOUT,
    summary: [CPU_PER_DELIVERY],
  },
  {
    name: '1x1000-window32',
    title: '1 room × 1,000, 32 in flight',
    flags: ['fanout', '--members', '1000', '--in-flight', '32'],
    duration: '3s',
    coalesce: true,
    servers: EACH,
    figures: FANOUT,
    summary: [CPU_PER_DELIVERY],
  },
  {
    name: '1x10000-window1',
    title: '1 room × 10,000, one in flight',
    flags: ['fanout', '--members', '10000', '--in-flight', '1'],
    duration: '3s',
    seconds: 9,
    servers: EACH,
    figures: FANOUT,
    summary: [CPU_PER_DELIVERY],
  },
  {
    name: '100x50-window1',
    title: '100 rooms × 50, one in flight in each',
    flags: ['rooms', '--rooms', '100', '--members', '50', '--in-flight', '1'],
    duration: '3s',
    seconds: 7,
    servers: EACH,
    figures: FANOUT,
    summary: [CPU_PER_DELIVERY],
  },
  {
    name: '1x1000-20/s',
    title: '1 room × 1,000, 20 broadcasts a second',
    flags: ['fanout', '--members', '1000', '--rate', '20'],
    duration: '4s',
    servers: EACH,
    figures: [P99, LATENCY[0], LATENCY[2], CPU_PER_DELIVERY],
    summary: [P99],
  },
  {
    name: 'echo-200',
    title: 'echo with ack, 200 connections',
    flags: ['echo', '--connections', '200'],
    duration: '3s',
    servers: EACH,
    figures: [figure('server_cpu_us_per_op', 'CPU per echo', 'µs'), figure('ops_per_s', 'echoes/s', '', 'higher'), ...LATENCY],
    summary: [figure('server_cpu_us_per_op', 'CPU per echo', 'µs')],
  },
  {
    name: 'churn-100',
    title: 'connect, join, leave, disconnect, 100 at once',
    flags: ['churn', '--slots', '100'],
    duration: '3s',
    servers: EACH,
    figures: [figure('server_cpu_us_per_cycle', 'CPU per cycle', 'µs'), figure('cycles_per_s', 'cycles/s', '', 'higher'), ...LATENCY],
    summary: [figure('server_cpu_us_per_cycle', 'CPU per cycle', 'µs')],
  },
  {
    name: `idle-${idle}`,
    title: `${idle.toLocaleString('en')} idle connections, each in a room`,
    flags: ['idle', '--connections', String(idle)],
    seconds: 12,
    servers: EACH,
    figures: [
      figure('bytes_per_connection_warmed', 'memory of each after a message', 'bytes'),
      figure('bytes_per_connection_fresh', 'fresh', 'bytes'),
      CPU_PER_CONNECT,
      figure('connects_per_s', 'connects/s', '', 'higher'),
    ],
    summary: [figure('bytes_per_connection_warmed', 'memory of each after a message', 'bytes')],
    // The floor keeps next to nothing per connection.
    beside: 'node-ws',
  },
  {
    name: 'storm-2000',
    title: '2,000 clients reconnect at once',
    flags: ['storm', '--connections', '2000'],
    servers: EACH,
    figures: [figure('seconds_to_all_back', 'until all are back', 's'), ...LATENCY, CPU_PER_CONNECT],
    summary: [figure('seconds_to_all_back', 'until all are back', 's')],
  },
  {
    name: 'cross-window1',
    title: 'two nodes, 500 members on each, one broadcast in flight',
    flags: ['cross', '--members', '1000', '--in-flight', '1'],
    alone: 'fanout',
    duration: '3s',
    servers: PAIRS,
    figures: CROSS,
    summary: [CPU_PER_DELIVERY],
  },
  {
    name: 'cross-window32',
    title: 'two nodes, 500 members on each, 32 in flight',
    flags: ['cross', '--members', '1000', '--in-flight', '32'],
    alone: 'fanout',
    duration: '3s',
    servers: PAIRS,
    figures: CROSS,
    summary: [CPU_PER_DELIVERY, CROSSING_P99],
  },
  {
    name: 'cross-20/s',
    title: 'two nodes, 500 members on each, 20 broadcasts a second',
    flags: ['cross', '--members', '1000', '--rate', '20'],
    alone: 'fanout',
    duration: '4s',
    servers: PAIRS,
    figures: [P99, LATENCY[0], CROSSING_P99, CROSSING[0], CPU_PER_DELIVERY],
    summary: [P99, CROSSING_P99],
  },
  {
    // With so few members, publishing dominates the cost.
    name: 'cross-publish',
    title: 'two nodes, one member on each, 32 in flight',
    flags: ['cross', '--members', '2', '--in-flight', '32'],
    alone: 'fanout',
    duration: '3s',
    servers: [...PAIRS, 'redis-benchmark'],
    figures: [BROADCASTS, CPU_PER_DELIVERY, ...LATENCY.slice(0, 2), ...CROSSING],
    summary: [BROADCASTS],
  },
  {
    // The room is empty: this measures what a backend's event costs the nodes and Redis.
    name: 'publish-http',
    title: "a backend's events over HTTP, 32 connections",
    flags: ['publish-http', '--connections', '32'],
    duration: '3s',
    ofBackend: true,
    servers: ['gateway', 'gateway-pair', 'gateway-twenty'],
    figures: [
      figure('publishes_per_s', 'events/s', '', 'higher'),
      figure('server_cpu_us_per_publish', 'CPU per event', 'µs'),
      figure('redis_cpu_us_per_publish', 'Redis per event', 'µs'),
      figure('redis_messages_per_publish', 'messages per event', ''),
      ...LATENCY.slice(0, 2),
    ],
    summary: [figure('publishes_per_s', 'events/s', '', 'higher')],
  },
];
