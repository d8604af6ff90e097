// The picture of how a pool's sessions are spread over its backends: the last ten minutes, the present, and what moves.
import { highest, stacked } from "./charts.js";
import { attribute, drawing, make, text } from "./dom.js";
import { count, plural, share } from "./format.js";
import { serves } from "./reasons.js";
import { ofBackend, ofPool, places } from "./trends.js";

const WIDTH = 600, HEIGHT = 120, COLORS = 10;
// More backends than this are not told apart.
const MOST = 60, LISTED = 12, DOTS = 6;
// What a backend gained or lost is compared with a minute ago.
const MINUTE = 12;

export const color = at => `c${at % COLORS}`;
const isCalm = matchMedia("(prefers-reduced-motion: reduce)");

// Makes the picture of a pool whose elements are in `fields`.
export function picture(fields) {
  const svg = drawing("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const now = make("div", { className: "now", ariaHidden: "true" }), peak = make("span", { className: "peak" });
  fields.picture.replaceChildren(svg, now, peak);
  return { fields, svg, now, peak, paths: [], segments: [], rows: [], before: new Map() };
}

// Shows the sessions of a pool. `isNew` says that the trends have new samples.
export function show(view, pool, isNew) {
  const { fields } = view, trend = ofPool(pool.name);
  const sum = pool.backends.reduce((all, backend) => all + backend.sessions, 0);
  const top = Math.max(highest(trend.sessions), sum);
  fields.spread.hidden = top === 0 || pool.persistence === "none";
  if (fields.spread.hidden) return;
  // Lines between more layers than are listed would hide them.
  fields.picture.classList.toggle("many", pool.backends.length > LISTED);
  const backends = pool.backends.slice(0, MOST), rest = sum - backends.reduce((all, backend) => all + backend.sessions, 0);
  if (isNew || view.paths.length !== backends.length) history(view, pool, backends, trend, top);
  present(view, backends, top);
  legend(view, pool, backends, sum, rest);
  text(view.peak, `peak ${count(top)}`);
  attribute(view.svg, "aria-label", `Sessions by backend over the last ten minutes. Now: ${backends.slice(0, LISTED).map(backend => `${backend.name} ${backend.sessions}`).join(", ")}`);
  const moves = moved(view, pool.name, backends);
  if (!isCalm.matches && !document.hidden) fly(view, moves);
}

function history(view, pool, backends, trend, top) {
  if (view.paths.length !== backends.length) {
    view.paths = backends.map((_, at) => drawing("path", { class: `layer ${color(at)}` }));
    view.svg.replaceChildren(...view.paths);
  }
  const pad = values => [...Array(Math.max(0, places() - values.length)).fill(0), ...values];
  const outlines = stacked(backends.map(backend => pad(ofBackend(pool.name, backend.name).sessions)), top, WIDTH, HEIGHT);
  view.paths.forEach((path, at) => path.setAttribute("d", outlines[at]));
}

// The column of the present, at the scale of the history.
function present(view, backends, top) {
  if (view.segments.length !== backends.length) {
    view.segments = backends.map((_, at) => make("i", { className: color(at) }));
    view.now.replaceChildren(...view.segments);
  }
  let below = 0;
  view.segments.forEach((segment, at) => {
    segment.style.bottom = `${100 * below / (top || 1)}%`;
    segment.style.height = `${100 * backends[at].sessions / (top || 1)}%`;
    below += backends[at].sessions;
  });
}

function legend(view, pool, backends, sum, rest) {
  const { fields } = view;
  const order = backends.map((backend, at) => ({ backend, at }));
  if (order.length > LISTED) order.sort((one, other) => other.backend.sessions - one.backend.sessions || one.at - other.at);
  const listed = order.slice(0, LISTED);
  while (view.rows.length < listed.length) {
    const cells = [make("i"), make("span"), make("span"), make("span"), make("span")];
    view.rows.push({ root: make("li", {}, ...cells), cells });
  }
  view.rows.length = listed.length;
  if (fields.legend.children.length !== listed.length) fields.legend.replaceChildren(...view.rows.map(row => row.root));
  listed.forEach(({ backend, at }, line) => {
    const [swatch, name, sessions, part, change] = view.rows[line].cells;
    const past = ofBackend(pool.name, backend.name).sessions, then = past.at(-MINUTE - 1) ?? past[0] ?? backend.sessions;
    const delta = backend.sessions - then;
    swatch.className = `swatch ${color(at)}`;
    text(name, backend.name);
    text(sessions, count(backend.sessions));
    text(part, sum ? share(backend.sessions / sum) : "");
    change.className = delta > 0 ? "up" : delta < 0 ? "down" : "";
    change.title = "against a minute ago";
    text(change, delta > 0 ? `▲ ${count(delta)}` : delta < 0 ? `▼ ${count(-delta)}` : "");
  });
  const more = order.length - listed.length;
  text(fields.skew, [skew(pool), more > 0 ? `and ${plural(more, "more backend")}` : "", rest > 0 ? `${count(rest)} on others` : ""].filter(Boolean).map(words => `· ${words}`).join(" "));
}

// How much more than its share by weight the fullest backend has that takes new sessions.
function skew(pool) {
  const takers = pool.backends.filter(backend => serves(backend) && backend.state === "ready" && backend.weight > 0);
  const sum = takers.reduce((all, backend) => all + backend.sessions, 0), weights = takers.reduce((all, backend) => all + backend.weight, 0);
  if (takers.length < 2 || sum < 20) return "";
  const [most, fullest] = takers.map(backend => [backend.sessions / sum / (backend.weight / weights), backend.name]).sort(([one], [other]) => other - one)[0];
  return most < 1.1 ? "evenly spread" : `${fullest} has ${most.toFixed(1)} times its share`;
}

// Pairs what backends have lost since the last status with what others have gained.
function moved(view, pool, backends) {
  const gains = [], losses = [];
  backends.forEach((backend, at) => {
    const delta = backend.sessions - (view.before.get(backend.name) ?? backend.sessions);
    if (delta > 0) gains.push({ at, left: delta });
    if (delta < 0) losses.push({ at, left: -delta });
  });
  view.before = new Map(backends.map(backend => [backend.name, backend.sessions]));
  const moves = [];
  for (const loss of losses) for (const gain of gains) {
    const sessions = Math.min(loss.left, gain.left);
    if (sessions > 0) moves.push({ from: loss.at, to: gain.at, sessions });
    loss.left -= sessions;
    gain.left -= sessions;
  }
  return moves;
}

// Lets dots move from one segment of the present to another.
function fly(view, moves) {
  const middle = at => (100 - parseFloat(view.segments[at].style.bottom) - parseFloat(view.segments[at].style.height) / 2) * view.now.clientHeight / 100;
  for (const { from, to, sessions } of moves.slice(0, DOTS)) {
    const dots = Math.min(DOTS, Math.ceil(Math.log2(sessions + 1)));
    for (let n = 0; n < dots; n++) {
      const dot = make("span", { className: `dot ${color(from)}` });
      view.now.append(dot);
      const way = [{ left: "-0.6rem", top: `${middle(from)}px` }, { left: `${-1.4 - n * 0.3}rem`, top: `${(middle(from) + middle(to)) / 2}px` }, { left: "0.3rem", top: `${middle(to)}px` }];
      dot.animate(way, { duration: 900, delay: n * 90, easing: "ease-in-out", fill: "both" }).finished.finally(() => dot.remove()).catch(() => {});
    }
  }
}
