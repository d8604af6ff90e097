// The last ten minutes, as Linchpin has sampled them, and the rates of the last seconds, from counts of the status.
const COLUMNS = ["requests", "errors", "sessions", "p50_ms", "p99_ms"];
// A rate covers the last few responses.
const SPAN = 4;

let interval = 5, newest = 0, kept = 120;
let pools = new Map();
const counts = new Map();

export const path = () => `api/v1/trends?after=${newest}`;
export const places = () => kept;
export const perSecond = values => (values ?? []).map(value => value === null ? null : value / interval);

// Adds the samples of a response. They are all there are if this page has missed some, or if the process was restarted.
export function add(response) {
  const isWhole = response.newest < newest || response.newest - newest >= response.kept || newest === 0;
  const join = (old, more) => Object.fromEntries(COLUMNS.map(column => {
    const before = isWhole ? [] : old?.[column] ?? [];
    return [column, [...before, ...more[column]].slice(-response.kept)];
  }));
  const all = new Map();
  for (const pool of response.pools) {
    const old = pools.get(pool.name);
    const backends = new Map(pool.backends.map(backend => [backend.name, join(old?.backends.get(backend.name), backend)]));
    all.set(pool.name, { ...join(old, pool), backends });
  }
  ({ interval, newest, kept } = response);
  pools = all;
}

const NONE = Object.fromEntries(COLUMNS.map(column => [column, []]));
export const ofPool = pool => pools.get(pool) ?? { ...NONE, backends: new Map() };
export const ofBackend = (pool, backend) => pools.get(pool)?.backends.get(backend) ?? NONE;

// The newest value that is not missing, of the last minute.
export const latest = values => values.slice(-12).findLast(value => value !== null && value !== undefined) ?? null;

// The share of requests in the last minute that ended with a 5xx status; null if there were few requests.
export function failing(trend) {
  const sum = values => values.slice(-12).reduce((total, value) => total + (value ?? 0), 0);
  const requests = sum(trend.requests), errors = sum(trend.errors);
  return requests < 10 ? null : errors / requests;
}

// The sum of a column over all pools, at each time.
export function total(column) {
  const all = [...pools.values()].map(pool => pool[column]), length = all.reduce((most, values) => Math.max(most, values.length), 0);
  return Array.from({ length }, (_, at) => all.reduce((sum, values) => sum + (values[values.length - length + at] ?? 0), 0));
}

// The rate per second of a count that is read with each status; null before the second one.
export function rateOf(key, value, now) {
  let samples = counts.get(key);
  // A count that shrinks means that the process was restarted.
  if (!samples || samples.at(-1).value > value) counts.set(key, samples = []);
  if (samples.at(-1)?.now !== now) samples.push({ now, value });
  if (samples.length > SPAN) samples.shift();
  const [first, last] = [samples[0], samples.at(-1)];
  return samples.length < 2 ? null : (last.value - first.value) * 1000 / (last.now - first.now);
}

// Forgets the counts of what was not read with the last status.
export function forget(now) {
  for (const [key, samples] of counts) if (samples.at(-1).now !== now) counts.delete(key);
}
