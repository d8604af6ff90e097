// What stands beside the pools: problems, events, the last reload, certificates, the explanation of a token.
import { Refused, send } from "./api.js";
import { facts, find, make, text } from "./dom.js";
import { age, count, plural, size, time } from "./format.js";
import { reveal } from "./pools.js";

const LISTED = 100;

// Shows the problems, which are pairs of a word, a pool and a sentence.
let problemsShown = "";
export function problems(all) {
  find("problems").hidden = !all.length;
  find("problems").classList.toggle("worst", all.some(([kind]) => kind === "bad"));
  const list = all.slice(0, 12), next = JSON.stringify(list);
  // The focus stays where it is, unless something is new.
  if (next === problemsShown) return;
  problemsShown = next;
  const items = list.map(([kind, pool, sentence]) => {
    const words = make("span");
    if (pool !== null) {
      const button = make("button", { type: "button" }, pool);
      button.addEventListener("click", () => reveal(pool));
      words.append(button, " ");
    }
    words.append(sentence);
    return make("li", {}, make("span", { className: kind, ariaHidden: "true" }, kind === "bad" ? "✕" : "▲"), words);
  });
  if (all.length > list.length) items.push(make("li", {}, make("span"), make("span", {}, `and ${plural(all.length - list.length, "more problem")}`)));
  find("problem-list").replaceChildren(...items);
}

const because = reason => reason ? `: ${reason}` : "";
const target = ({ pool, backend }) => `${pool}/${backend}`;
// How good or bad each kind of event is, and a sentence that says it.
const EVENTS = {
  health: e => [e.to === "up" ? "good" : "bad", `${target(e)} is ${e.to}, was ${e.from}${because(e.reason)}`],
  state: e => [e.to === "ready" ? "good" : "warn", `${target(e)} is ${worded(e.to)}, was ${worded(e.from)} (${by(e.by)})`],
  weight: e => ["", `${target(e)} has weight ${e.to}, had ${e.from} (${by(e.by)})`],
  moves: e => ["warn", `${plural(e.sessions, "session")} of ${e.pool} moved: ${e.cause.replaceAll("_", " ")}`],
  drain: e => [e.phase === "deadline" ? "warn" : "", `${target(e)}: ${{ begun: "the drain began", drained: "drained", deadline: "the drain's deadline came", cancelled: "the drain was cancelled" }[e.phase] ?? e.phase}, ${plural(e.sessions, "session")} left`],
  rebalance: e => ["", `${plural(e.sessions, "session")} of ${e.pool} moved from ${e.from} to ${e.to} to even the load`],
  reload: e => [e.result === "refused" ? "bad" : "", `Reload (${by(e.by)}): ${e.result}${e.changes ? `, ${plural(e.changes, "key")}: ${e.keys.slice(0, 3).join(", ")}${e.changes > 3 ? ", …" : ""}` : ""}${because(e.reason)}`],
  store: e => [e.ok ? "good" : "bad", `The store of ${e.pool}'s ${e.of} ${e.ok ? "is back" : "is lost"}${because(e.reason)}`],
  certificate: e => [e.ok ? "good" : "bad", `The certificates of ${e.of} ${e.name} ${e.ok ? "were replaced" : "can't be used; the former ones stay in use"}${because(e.reason)}`],
  renewal: e => [e.ok ? "good" : "warn", `${e.name}: ${e.ok ? "obtained a certificate" : "could not obtain a certificate; the one in use stays"}${because(e.reason)}`],
  discovery: e => [e.ok ? "good" : "warn", `${e.pool}: the source ${e.source} ${e.ok ? "works" : "fails"}${because(e.reason)}`],
  members: e => ["", `${e.pool}: ${plural(e.count, "backend")} ${e.what}: ${e.backends.join(", ")}`],
  process: e => [e.phase === "ready" ? "good" : "warn", { ready: "Linchpin takes requests", stopping: "Linchpin takes no more requests", stalled: "A worker thread does not respond", broken: "A worker thread has failed" }[e.phase] ?? e.phase],
  upgrade: e => ["", `Upgrade: ${e.phase.replaceAll("_", " ")}${because(e.reason)}`],
  lost: e => ["warn", e.events === null ? "Linchpin was restarted: earlier events are lost" : `${plural(e.events, "event")} missed`],
};
const worded = state => state === "drain" ? "draining" : state === "maintenance" ? "in maintenance" : state;
const by = word => ({ api: "by an operator", health: "asked for by the backend", drain: "its drain has ended", reload: "by a reload" })[word] ?? word;

// Adds an event above the others.
export function event(data) {
  const [kind, sentence] = EVENTS[data.kind]?.(data) ?? ["", data.kind];
  const list = find("events"), at = data.time ?? Date.now() / 1000;
  const when = make("time", { dateTime: new Date(at * 1000).toISOString() }, time(at));
  list.prepend(make("li", {}, when, make("span", { className: kind }, sentence)));
  while (list.children.length > LISTED) list.lastElementChild.remove();
}

const value = what => what === null ? "nothing" : typeof what === "string" ? what : JSON.stringify(what);

// Shows the configuration's generation, and what the last reload changed or why it was refused.
export function reload({ generation, last }) {
  const box = find("reload");
  if (!last) return box.replaceChildren(make("p", { className: "faint" }, `None since the start: configuration ${generation}.`));
  const errors = last.errors.map(({ file, line, problem, remedy }) => make("li", {}, make("b", {}, `${file}${line ? `:${line}` : ""}: `), `${problem}; ${remedy}`));
  const changes = last.changes.map(({ path, runtime, now, because }) => make("li", { title: because }, make("code", {}, path), ": ", make("del", {}, value(runtime)), " → ", make("ins", {}, value(now))));
  const more = last.left_out ? [make("li", {}, `and ${plural(last.left_out, "more key")}`)] : [];
  const kind = last.result === "refused" ? "hot" : "";
  box.replaceChildren(
    make("p", {}, make("b", { className: kind }, last.result), ` at ${time(last.time)} by ${last.by} · configuration ${generation}`),
    make("ul", { className: "changes" }, ...errors, ...changes, ...more));
}

// Lists the certificates in use, and those that an ACME server has not issued yet.
export function certificates(all, renewals) {
  const left = ({ days }) => days < 0 ? `expired ${plural(-days, "day")} ago` : plural(days, "day");
  const items = all.map(each => make("li", {},
    make("b", { className: each.days < 14 ? "hot" : "" }, left(each)), ` · ${each.certificate} `, make("span", { className: "faint" }, `${each.kind} ${each.of}, until ${time(each.not_after)}`)));
  const awaited = renewals.filter(({ not_after }) => not_after === null).map(each => make("li", {},
    make("b", { className: "hot" }, "none yet"), ` · ${each.name} `, make("span", { className: "faint" }, `listener ${each.listener}, from an ACME server; next attempt ${time(each.next_order)}`)));
  find("certificates").replaceChildren(all.length + awaited.length ? make("ul", { className: "changes" }, ...awaited, ...items) : make("p", { className: "faint" }, "None: no listener and no pool uses TLS with files."));
}

// Explains what a client's token holds, and what would happen to it now.
export function start() {
  find("explain-form").addEventListener("submit", async submitted => {
    submitted.preventDefault();
    const box = find("explained"), token = find("explain-token").value.trim();
    try {
      box.replaceChildren(explanation(await send("POST", "api/v1/explain", { token })));
    } catch (error) {
      box.replaceChildren(make("p", { className: "hot" }, error instanceof Refused ? error.message : "The connection failed. Try again."));
    }
  });
}

function explanation(e) {
  const now = Date.now() / 1000, when = at => at ? `${time(at)}, ${age(now - at)} ago` : "";
  const copy = e.copy && `${e.copy.state}, state ${e.copy.seq} of term ${e.copy.term}${e.copy.bytes ? `, ${size(e.copy.bytes)}` : ""}${e.copy.holder ? `, held by ${e.copy.holder}` : ""}`;
  return make("div", {}, make("p", {}, make("b", {}, e.why)), facts([
    ["Verdict", e.cause ? `${e.verdict}: ${e.cause}` : e.verdict], ["Goes to", e.goes_to], ["Pool", e.pool], ["Pinned to", e.backend && `${e.backend}${e.address ? ` (${e.address})` : ""}`],
    ["Session", e.session], ["Begun", when(e.issued)], ["Last seen", when(e.last_seen)], ["Ends when idle for", e.idle_timeout && age(e.idle_timeout)],
    ["Sealed by key", e.key], ["Handed over", e.term ? `${count(e.term)} times` : ""], ["Copy", copy],
  ]));
}

// Says whether there is contact, and how stale the figures are.
export function contact(kind, word, why) {
  const tag = find("contact");
  tag.className = `tag ${kind}`;
  text(tag, word);
  find("lost").hidden = why === undefined;
  if (why !== undefined) text(find("lost-why"), why);
  find("content").classList.toggle("stale", why !== undefined);
}
