// The rows of a pool's table: one for each backend, with the reason for its state, and what else is known of it on demand.
import { highest, spark } from "./charts.js";
import { acts, attribute, drawing, facts, make, stamp, tag, text } from "./dom.js";
import { age, count, millis, plural, rate, time } from "./format.js";
import * as reasons from "./reasons.js";
import { color } from "./spread.js";
import * as trends from "./trends.js";

export const COLUMNS = [
  ["name", "Backend", "", backend => backend.name], ["health", "Health", "", backend => reasons.healthTag(backend)[1]],
  ["state", "State", "", backend => backend.state], ["weight", "Weight", "n", backend => backend.weight],
  ["sessions", "Sessions", "n", backend => backend.sessions], ["active", "Active", "n", backend => backend.active_requests],
  ["requests", "Requests/s", "n", (_, trend) => trends.latest(trend.requests)], ["errors", "Errors/s", "n", (_, trend) => trends.latest(trend.errors)],
  ["slow", "p50 · p99", "n", (_, trend) => trends.latest(trend.p99_ms)],
];
const IDLE = [["1m", "≤ 1 min"], ["5m", "≤ 5 min"], ["15m", "≤ 15 min"], ["1h", "≤ 1 h"], ["more", "longer"]];

// Makes the rows of a backend. `act` is called with what its buttons ask for.
export function makeRows(pool, backend, at, act) {
  const { root, fields } = stamp("backend"), why = stamp("reason");
  const row = { root, fields, why, facts: null, backend, pool, at };
  fields.swatch.classList.add(color(at));
  text(fields.name, backend.name);
  attribute(fields.states, "aria-label", `State of ${backend.name}`);
  for (const button of fields.states.children) button.addEventListener("click", () => act(pool, row.backend, button.dataset.to));
  fields.weight.addEventListener("click", () => act(pool, row.backend, "weight"));
  why.fields.cancel.addEventListener("click", () => act(pool, row.backend, "cancel"));
  fields.open.addEventListener("click", () => toggle(row));
  acts(root);
  acts(why.root);
  return row;
}

export const elements = row => [row.root, row.why.root, ...row.facts ? [row.facts.root] : []];

// Shows a backend as it is now. `peak` is what the charts of its pool have at their top.
export function show(row, backend, sum, peak, moment) {
  const { fields, why } = row, trend = trends.ofBackend(row.pool, backend.name), { now, clock, isNew } = moment;
  row.backend = backend;
  text(fields.address, backend.group ? `${backend.address} · ${backend.group}` : backend.address);
  tag(fields.health, reasons.healthTag(backend));
  text(fields.since, reasons.since(backend, clock));
  for (const button of fields.states.children) attribute(button, "aria-pressed", button.dataset.to === backend.state);
  const { weight, effective_weight: effective } = backend;
  text(fields.weight, effective < weight ? `${count(effective)} of ${weight}` : weight);
  attribute(fields.weight, "aria-label", `Weight of ${backend.name}: ${weight}. Change it`);
  text(fields.sessions, backend.sessions_error ? `≈ ${count(backend.sessions)}` : count(backend.sessions));
  fields.share.className = color(row.at);
  fields.share.style.width = `${sum ? 100 * backend.sessions / sum : 0}%`;
  text(fields.active, count(backend.active_requests));
  const requests = trends.rateOf(`${row.pool}/${backend.name} requests`, backend.requests, now);
  const errors = trends.rateOf(`${row.pool}/${backend.name} errors`, backend.errors ?? 0, now);
  text(fields.rate, requests === null ? "–" : rate(requests));
  text(fields.errors, errors === null ? "–" : rate(errors));
  fields.errors.className = errors > 0 ? "hot" : "";
  text(fields.slow, `${millis(trends.latest(trend.p50_ms))} · ${millis(trends.latest(trend.p99_ms))}`);
  if (isNew || !row.isDrawn) {
    spark(fields["rate-line"], fields["rate-area"], trend.requests, peak.requests, trends.places());
    spark(fields["errors-line"], fields["errors-area"], trend.errors, peak.errors, trends.places());
    spark(fields["slow-line"], fields["slow-area"], trend.p99_ms, peak.p99_ms, trends.places());
    row.isDrawn = true;
  }
  const [words, kind] = reasons.why(backend, clock), isDraining = reasons.isDraining(backend);
  text(why.fields.why, words);
  why.root.hidden = !words || row.root.hidden;
  why.root.className = `why ${kind}`;
  why.fields.drain.hidden = !isDraining;
  if (isDraining) {
    const before = Math.max(1, backend.drain.sessions_before, backend.drain.sessions);
    why.fields.progress.value = (before - backend.drain.sessions) / before;
    attribute(why.fields.progress, "aria-label", `Sessions of ${backend.name} that have left`);
  }
  if (row.facts) showFacts(row, trend, clock);
}

function toggle(row) {
  const isOpen = row.facts === null;
  attribute(row.fields.open, "aria-expanded", isOpen);
  if (!isOpen) {
    row.facts.root.remove();
    row.facts = null;
    return;
  }
  row.facts = stamp("facts");
  row.why.root.after(row.facts.root);
  row.facts.charts = [["Requests/s", ["requests"], rate, true], ["Errors/s", ["errors"], rate, true], ["p50 and p99", ["p50_ms", "p99_ms"], millis, false], ["Sessions", ["sessions"], count, false]].map(chart);
  row.facts.fields.charts.replaceChildren(...row.facts.charts.map(({ root }) => root));
  showFacts(row, trends.ofBackend(row.pool, row.backend.name), Date.now() / 1000);
}

function chart([title, columns, format, isRate]) {
  const svg = drawing("svg", { class: columns[0] === "errors" ? "spark bad" : "spark", viewBox: "0 0 120 28", preserveAspectRatio: "none", role: "img" });
  const area = drawing("path", { class: "area" }), lines = columns.map((_, at) => drawing("path", { class: at ? "line second" : "line" }));
  svg.append(area, ...lines);
  const value = make("b"), top = make("span");
  const root = make("figure", {}, make("figcaption", {}, make("span", {}, `${title} `, value), top), svg);
  return { root, svg, area, lines, value, top, title, columns, format, isRate };
}

function showFacts({ facts: { charts, fields }, backend }, trend, clock) {
  for (const { svg, area, lines, value, top, title, columns, format, isRate } of charts) {
    const series = columns.map(column => isRate ? trends.perSecond(trend[column]) : trend[column]);
    const peak = series.reduce((most, values) => Math.max(most, highest(values)), 0);
    lines.forEach((line, at) => spark(line, at ? null : area, series[at], peak, trends.places()));
    const now = series.map(values => trends.latest(values)).map(each => each === null ? "–" : format(each)).join(" · ");
    text(value, now);
    text(top, `peak ${format(peak)}`);
    attribute(svg, "aria-label", `${title} over the last ten minutes: now ${now}, peak ${format(peak)}`);
  }
  const idle = IDLE.map(([key, words]) => [backend.idle_sessions?.[key], words]).filter(([n]) => n).map(([n, words]) => `${count(n)} ${words}`).join(", ");
  const drift = (backend.drift ?? []).map(({ key, file, runtime, because }) => `${key} is ${runtime} and in the file ${file}: ${because}`).join("; ");
  const drain = backend.drain && !reasons.isDraining(backend) ? `${backend.drain.phase}, ${age(clock - backend.drain.ended)} ago, with ${plural(backend.drain.sessions, "session")} left` : "";
  const known = facts([
    ["Health", `${backend.health}${backend.since ? ` since ${time(backend.since)}` : ""}${backend.reason ? `: ${backend.reason}` : ""}`],
    ["Last check", reasons.lastCheck(backend.last_check, clock) || "none"], ["Last failure", reasons.lastFailure(backend.last_failure, clock) || "none"],
    ["Requests", `${count(backend.requests)}, of which ${count(backend.errors ?? 0)} ended with a 5xx status; ${plural(backend.failures, "attempt")} failed`],
    ["In flight", `${plural(backend.active_requests, "request")}, ${plural(backend.tunnels ?? 0, "tunnel")}`],
    ["Sessions by idle time", idle], ["Group", backend.group], ["Differs from the file", drift], ["Last drain", drain],
  ]);
  fields.list.replaceChildren(...known.children);
}
