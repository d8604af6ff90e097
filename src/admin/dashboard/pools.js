// The list of pools: which ones are shown, in which order, and what each tells.
import { highest, spark } from "./charts.js";
import { attribute, find, make, stamp, tag, text } from "./dom.js";
import { count, millis, plural, rate, share } from "./format.js";
import * as reasons from "./reasons.js";
import * as rows from "./rows.js";
import * as spread from "./spread.js";
import * as trends from "./trends.js";

// With more pools than this, those without trouble are closed at first.
const OPEN = 6;
// A table has no more rows than this until somebody asks for all.
const ROWS = 100;
const VIEW = "linchpin-view";

let shown = new Map(), last = null, moment = null, act = () => {};
// What the reader has chosen: sorting, order, and which pools are open. The tab keeps it.
let chosen = { sort: null, down: false, order: "file", open: {} };
try { chosen = { ...chosen, ...JSON.parse(sessionStorage.getItem(VIEW)) }; } catch {}
const keep = () => { try { sessionStorage.setItem(VIEW, JSON.stringify(chosen)); } catch {} };

export function start(onAct) {
  act = onAct;
  find("order").value = chosen.order;
  find("order").addEventListener("change", event => { chosen.order = event.target.value; keep(); arrange(); });
  for (const id of ["filter", "trouble-only"]) find(id).addEventListener("input", arrange);
  find("unfold").addEventListener("click", () => {
    const isOpen = [...shown.values()].some(view => !view.fields.box.open);
    for (const view of shown.values()) view.fields.box.open = isOpen;
  });
}

// Opens a pool and goes to it.
export function reveal(name) {
  const view = shown.get(name);
  if (!view) return;
  find("filter").value = "";
  find("trouble-only").checked = false;
  view.fields.box.open = true;
  arrange();
  view.root.scrollIntoView({ block: "start" });
  view.fields.box.querySelector("summary").focus({ preventScroll: true });
}

// Shows all pools as they are in `status`. Elements are made anew only for pools and backends that were added.
export function show(status, now, clock, isNew) {
  moment = { now, clock, isNew };
  const isFirst = last === null;
  last = status;
  const views = new Map();
  for (const pool of status.pools) {
    const view = shown.get(pool.name) ?? add(pool, status.pools.length);
    view.pool = pool;
    views.set(pool.name, view);
  }
  const isOther = isFirst || views.size !== shown.size || [...views.keys()].some(name => !shown.has(name));
  shown = views;
  arrange(isOther);
}

export function clear() {
  shown = new Map();
  last = null;
  find("pools").replaceChildren();
}

function add(pool, all) {
  const view = { ...stamp("pool"), rows: new Map(), pool, hasAll: false };
  const { fields } = view;
  view.picture = spread.picture(fields);
  fields.box.open = chosen.open[pool.name] ?? (all <= OPEN || reasons.poolTag(pool)[0] === "bad");
  // Opening by the reader counts, opening by this line doesn't.
  fields.box.addEventListener("toggle", () => { chosen.open[pool.name] = fields.box.open; keep(); draw(view, true); });
  fields.all.addEventListener("click", () => { view.hasAll = true; draw(view, true); });
  for (const [key, title, kind] of rows.COLUMNS) {
    const button = make("button", { type: "button" }, title);
    button.addEventListener("click", () => sortBy(key));
    const head = make("th", { className: kind, scope: "col" }, button);
    head.setAttribute("role", "columnheader");
    head.dataset.key = key;
    fields.head.append(head);
  }
  text(fields.name, pool.name);
  return view;
}

function sortBy(key) {
  const isText = ["name", "health", "state"].includes(key);
  // The third press restores the order of the file.
  if (chosen.sort !== key) [chosen.sort, chosen.down] = [key, !isText];
  else if (chosen.down !== isText) chosen.down = !chosen.down;
  else chosen.sort = null;
  keep();
  for (const view of shown.values()) draw(view, true);
}

const wanted = () => find("filter").value.trim().toLowerCase();
const says = (backend, words) => [backend.name, backend.address, backend.state, backend.health, backend.group, backend.reason].some(each => each?.toLowerCase().includes(words));

// The backends of a pool that the reader wants to see, by position; undefined if the pool is not wanted.
function matching(pool) {
  const words = wanted(), isTrouble = find("trouble-only").checked;
  let all = pool.backends.map((backend, at) => ({ backend, at }));
  if (isTrouble) all = all.filter(({ backend }) => reasons.isTrouble(backend) || backend.state !== "ready");
  if (isTrouble && !all.length && pool.available) return undefined;
  if (!words || pool.name.toLowerCase().includes(words)) return all;
  all = all.filter(({ backend }) => says(backend, words));
  return all.length ? all : undefined;
}

const ORDERS = {
  trouble: pool => -(2 * !pool.available + pool.backends.filter(reasons.isTrouble).length / (pool.backends.length + 1)),
  sessions: pool => -pool.sessions,
  requests: pool => -(trends.latest(trends.ofPool(pool.name).requests) ?? 0),
  errors: pool => -(trends.failing(trends.ofPool(pool.name)) ?? 0),
  slow: pool => -(trends.latest(trends.ofPool(pool.name).p99_ms) ?? 0),
};

// Puts the wanted pools into the wanted order, and draws them.
function arrange(isOther = true) {
  if (!last) return;
  let views = [...shown.values()];
  if (chosen.order === "name") views.sort((one, other) => one.pool.name.localeCompare(other.pool.name));
  else if (ORDERS[chosen.order]) views = views.map(view => [ORDERS[chosen.order](view.pool), view]).sort(([one], [other]) => one - other).map(([, view]) => view);
  let hits = 0;
  for (const view of views) {
    view.matching = matching(view.pool);
    view.root.hidden = !view.matching;
    hits += view.matching ? 1 : 0;
    draw(view, isOther);
  }
  // Moving an element takes its focus, so they only move when the reader changes something, or pools were added.
  if (isOther) find("pools").replaceChildren(...views.map(view => view.root));
  text(find("shown"), hits < views.length ? `${hits} of ${plural(views.length, "pool")}` : views.length > 1 ? plural(views.length, "pool") : "");
  text(find("unfold"), views.some(view => !view.fields.box.open) ? "Open all" : "Close all");
  find("unfold").hidden = views.length < 2;
}

function draw(view, isOther) {
  const { fields, pool } = view;
  if (view.root.hidden || !moment) return;
  const sum = pool.backends.reduce((all, backend) => all + backend.sessions, 0), trend = trends.ofPool(pool.name);
  tag(fields.state, reasons.poolTag(pool));
  text(fields.sessions, count(sum));
  text(fields["sessions-word"], sum === 1 ? "session" : "sessions");
  const requests = trends.rateOf(`${pool.name} requests`, pool.requests ?? 0, moment.now);
  text(fields.rate, requests === null ? "–" : rate(requests));
  const failed = trends.failing(trend);
  text(fields.errors, failed === null ? "–" : share(failed));
  fields["errors-box"].classList.toggle("hot", failed >= 0.01);
  text(fields.slow, millis(trends.latest(trend.p99_ms)));
  view.root.classList.toggle("alarm", !pool.available);
  minis(fields.mini, pool, sum);
  if (!fields.box.open) return;
  text(fields.how, reasons.how(pool));
  const empty = reasons.emptySentence(pool), notes = reasons.notes(pool);
  fields.empty.hidden = !empty;
  text(fields.empty, empty);
  fields.notes.hidden = !notes;
  text(fields.notes, notes);
  spread.show(view.picture, pool, moment.isNew || isOther);
  table(view, sum, trend, isOther);
}

function minis(box, pool, sum) {
  const backends = pool.backends.slice(0, ROWS);
  if (box.children.length !== backends.length) box.replaceChildren(...backends.map((_, at) => make("i", { className: spread.color(at) })));
  backends.forEach((backend, at) => { box.children[at].style.width = `${sum ? 100 * backend.sessions / sum : 0}%`; });
}

function table(view, sum, trend, isOther) {
  const { fields, pool } = view, all = sorted(pool, view.matching), listed = view.hasAll ? all : all.slice(0, ROWS);
  fields.head.closest("table").hidden = !listed.length;
  fields.more.hidden = listed.length === all.length;
  text(fields.all, `Show all ${plural(all.length, "backend")}`);
  for (const head of fields.head.children) {
    if (head.dataset.key === chosen.sort) attribute(head, "aria-sort", chosen.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  const next = new Map();
  for (const { backend, at } of listed) {
    let row = view.rows.get(backend.name);
    if (!row || row.at !== at) row = rows.makeRows(pool.name, backend, at, act);
    next.set(backend.name, row);
  }
  const isSame = next.size === view.rows.size && [...next].every(([name, row]) => view.rows.get(name) === row);
  view.rows = next;
  if (!isSame || isOther) {
    const elements = [...next.values()].flatMap(rows.elements), old = fields.rows.children;
    // As above: only if it is another order.
    if (elements.length !== old.length || elements.some((element, at) => old[at] !== element)) fields.rows.replaceChildren(...elements);
  }
  const columns = listed.map(({ backend }) => trends.ofBackend(pool.name, backend.name));
  const peak = Object.fromEntries(["requests", "errors", "p99_ms"].map(column => [column, columns.reduce((most, each) => Math.max(most, highest(each[column])), 0)]));
  for (const { backend } of listed) rows.show(next.get(backend.name), backend, sum, peak, { ...moment, isNew: moment.isNew || isOther });
}

function sorted(pool, all) {
  const by = rows.COLUMNS.find(([key]) => key === chosen.sort)?.[3];
  if (!by) return all;
  const value = ({ backend }) => by(backend, trends.ofBackend(pool.name, backend.name));
  const compare = (one, other) => typeof one === "string" ? one.localeCompare(other, "en", { numeric: true }) : (one ?? -1) - (other ?? -1);
  const keyed = all.map(each => [value(each), each]).sort(([one], [other]) => chosen.down ? compare(other, one) : compare(one, other));
  return keyed.map(([, each]) => each);
}

// The figures above all pools, each with its last ten minutes.
export function tiles(status, now) {
  const backends = status.pools.flatMap(pool => pool.backends);
  const up = status.pools.reduce((sum, pool) => sum + pool.available, 0), lost = status.pools.filter(pool => !pool.available).length;
  const requests = trends.total("requests"), errors = trends.total("errors"), sessions = trends.total("sessions");
  const sum = values => values.slice(-12).reduce((all, value) => all + value, 0), failed = sum(requests) < 10 ? null : sum(errors) / sum(requests);
  const slow = status.pools.map(pool => trends.latest(trends.ofPool(pool.name).p99_ms)).filter(value => value !== null);
  const per = trends.rateOf("all requests", status.pools.reduce((all, pool) => all + (pool.requests ?? 0), 0), now);
  const entries = [
    ["Pools that serve", `${status.pools.length - lost} of ${status.pools.length}`, lost ? "bad" : "", null],
    ["Backends up", `${up} of ${backends.length}`, backends.some(reasons.isTrouble) ? "bad" : up < backends.length ? "warn" : "", null],
    ["Sessions", count(backends.reduce((all, backend) => all + backend.sessions, 0)), "", sessions],
    ["Requests/s", per === null ? "–" : rate(per), "", requests],
    ["Errors (5xx)", failed === null ? "–" : share(failed), failed >= 0.05 ? "bad" : failed >= 0.01 ? "warn" : "", errors],
    ["Slowest pool's p99", slow.length ? millis(slow.reduce((most, value) => Math.max(most, value), 0)) : "–", "", null],
  ];
  const box = find("tiles");
  while (box.children.length < entries.length) {
    const { root, fields } = stamp("tile");
    root.fields = fields;
    box.append(root);
  }
  entries.forEach(([label, value, kind, values], at) => {
    const root = box.children[at], { fields } = root;
    root.className = `tile ${kind}`;
    text(fields.label, label);
    text(fields.value, value);
    fields.line.parentNode.classList.toggle("bad", label.startsWith("Errors"));
    fields.line.parentNode.toggleAttribute("hidden", !values);
    if (values) spark(fields.line, fields.area, values, highest(values), trends.places());
  });
}
