// Why something is as it is, in words: of a backend, of a pool, and the list of problems.
import { age, count, plural, share, size, time } from "./format.js";
import { failing, ofPool } from "./trends.js";

// A failure of a backend that is up is shown for ten minutes.
const RECENT = 600;
// A certificate is a problem in its last two weeks, and a bad one in the last three days.
const SOON = 14, URGENT = 3;
const HEALTH = { up: ["good", "● up"], down: ["bad", "✕ down"], ejected: ["bad", "▲ ejected"], warming: ["warn", "◔ warming"], unknown: ["", "– not probed"] };
const REFUSED = { no_servers: "no backends", all_down: "all down", maintenance: "in maintenance", draining: "draining", full: "full",
  late: "waited too long", pin_lost: "pinned backend unavailable" };
const worded = (words, word) => Object.hasOwn(words, word) ? words[word] : undefined;
const ago = (then, clock) => `${age(clock - then)} ago`;

export const healthTag = backend => backend.failing ? ["bad", "▲ failing"] : worded(HEALTH, backend.health) ?? ["", backend.health];
export const serves = backend => backend.state !== "maintenance" && (backend.health === "up" || backend.health === "warming");
export const isTrouble = backend => backend.failing || backend.state !== "maintenance" && !serves(backend);

export function lastCheck(check, clock) {
  if (!check) return "";
  const what = check.ok ? `passed${check.status ? ` with ${check.status}` : ""}` : `failed: ${check.error}`;
  return `${what}, ${ago(check.time, clock)}, in ${check.duration_ms} ms`;
}

export const lastFailure = (failure, clock) => failure ? `${failure.error}, ${ago(failure.time, clock)}, seen by a ${failure.by}` : "";

export const isDraining = backend => backend.drain?.phase === "draining";

export function drainProgress({ drain }, clock) {
  const left = `Draining: ${count(drain.sessions)} of ${plural(Math.max(drain.sessions, drain.sessions_before), "session")} left`;
  const flight = [plural(drain.active_requests, "request"), drain.tunnels ? plural(drain.tunnels, "tunnel") : ""].filter(Boolean).join(" and ");
  const limit = drain.deadline ? `at ${time(drain.deadline)} at the latest, in ${age(drain.deadline - clock)}` : "no deadline";
  const end = drain.estimated_end && (!drain.deadline || drain.estimated_end < drain.deadline - 1) ? `ends in about ${age(drain.estimated_end - clock)}` : "";
  const then = drain.then === "nothing" ? "" : `then ${drain.then}`;
  return [left, `${flight} in flight`, end, limit, then].filter(Boolean).join(" · ");
}

// The reason for a backend's state, and how bad that is; empty for one of which there is nothing to say.
export function why(backend, clock) {
  if (backend.state === "maintenance") return ["In maintenance: it gets no requests and no probes.", "warn"];
  if (!serves(backend)) {
    const checked = lastCheck(backend.last_check, clock);
    return [[backend.reason ?? "Reason unknown", `since ${time(backend.since)}`, checked && `last check ${checked}`].filter(Boolean).join(" · "), "bad"];
  }
  if (isDraining(backend)) return [drainProgress(backend, clock), ""];
  if (backend.failing) return [`${backend.reason} · kept in use, because the pool has no other backend to replace it`, "bad"];
  if (backend.leaving) return ["No source lists it any more: it keeps its sessions until they end.", "warn"];
  if (backend.asks_for_drain) return ["Its health answers ask for a drain.", "warn"];
  if (backend.drain?.phase === "deadline" && backend.state === "drain") return [`Its drain reached the deadline with ${plural(backend.drain.sessions, "session")} left.`, "warn"];
  if (backend.drain?.phase === "drained" && backend.state === "drain") return [`Drained ${ago(backend.drain.ended, clock)}: no session is left.`, ""];
  if (backend.last_failure && clock - backend.last_failure.time < RECENT) return [`Last failure ${ago(backend.last_failure.time, clock)}, seen by a ${backend.last_failure.by}: ${backend.last_failure.error}`, ""];
  if (backend.effective_weight < backend.weight) return [`Slow start: its weight for new sessions is ${count(backend.effective_weight)} of ${count(backend.weight)} now.`, ""];
  return ["", ""];
}

export const since = (backend, clock) => backend.state === "maintenance" || !backend.since ? "" : `for ${age(clock - backend.since)}`;

export function refused(pool) {
  const parts = Object.entries(pool.refused).filter(([, n]) => n).map(([word, n]) => `${worded(REFUSED, word) ?? word} ${count(n)}`);
  return parts.length ? `${count(Object.values(pool.refused).reduce((sum, n) => sum + n, 0))} refused (${parts.join(", ")})` : "";
}

const discovery = ({ source, ok, found, error }) => `${source}: ${ok ? plural(found, "backend") : error ?? "no result yet"}`;
export const how = pool => [pool.balance, `persistence ${pool.persistence}`, ...(pool.discover ?? []).map(discovery)].join(" · ");

// What is held of the sessions, what moved, and what was not stored or given.
function copies({ hold, sessions, bytes, memory, gives, wants, evicted, refused }) {
  const parts = [`copies (${hold}): ${plural(sessions, "session")}, ${size(bytes)} of ${size(memory)}`, `${count(gives)} given`];
  if (wants) parts.push(`${count(wants)} wanted`);
  if (evicted) parts.push(`${count(evicted)} dropped, because the memory was full`);
  for (const [reason, n] of Object.entries(refused)) parts.push(`${count(n)} ${reason.replaceAll("_", " ")}`);
  return parts.join(" · ");
}

// What a pool does besides serving.
export function notes(pool) {
  const parts = [refused(pool)];
  if (pool.queue) parts.push(`${plural(pool.queue.length, "request")} of ${count(pool.queue.size)} in the queue`);
  if (pool.rebalance) parts.push(pool.rebalance.working ? `rebalancing: ${count(pool.rebalance.moved)} moved so far` : `balanced, ${count(pool.rebalance.moved)} moved so far`);
  if (pool.copies) parts.push(copies(pool.copies));
  return parts.filter(Boolean).join(" · ");
}

export function poolTag(pool) {
  const all = pool.backends.length, up = pool.available, line = `${up} of ${all} up`;
  if (!up) return ["bad", all ? "✕ no backend is up" : "✕ no backends"];
  return pool.backends.some(isTrouble) ? ["bad", `▲ ${line}`] : up < all ? ["warn", line] : ["good", `● ${line}`];
}

export const emptySentence = pool => pool.available ? "" : pool.backends.length
  ? "No backend of this pool is available: Linchpin refuses every request." : "This pool has no backends: Linchpin refuses every request.";

// All that is wrong: how bad, where, and what.
export function problems(status, clock, certificates, renewals, reload) {
  const all = [];
  if (!status.ready) all.push(["warn", null, "This process takes no new requests: it starts, stops or is broken. /readyz says which."]);
  for (const pool of status.pools) {
    const failed = failing(ofPool(pool.name));
    if (!pool.available) all.push(["bad", pool.name, emptySentence(pool)]);
    if (failed >= 0.01) all.push([failed >= 0.05 ? "bad" : "warn", pool.name, `${share(failed)} of the requests of the last minute ended with a 5xx status.`]);
    for (const backend of pool.backends.filter(isTrouble)) {
      const [words] = why(backend, clock);
      all.push(["bad", pool.name, `${backend.name} ${backend.failing ? "is failing" : `has been ${backend.health} for ${age(clock - backend.since)}`}: ${words}`]);
    }
    for (const backend of pool.backends.filter(backend => backend.drain?.phase === "deadline" && backend.state === "drain")) all.push(["warn", pool.name, `${backend.name}: ${why(backend, clock)[0]}`]);
    for (const { source, ok, error } of pool.discover ?? []) if (!ok && error) all.push(["warn", pool.name, `${source}: ${error}. The backends of the last answer are kept.`]);
  }
  for (const { of, certificate, days } of certificates.filter(({ days }) => days < SOON)) {
    const left = days < 0 ? `expired ${plural(-days, "day")} ago` : `expires in ${plural(days, "day")}`;
    all.push([days < URGENT ? "bad" : "warn", null, `The certificate ${certificate} of ${of} ${left}.`]);
  }
  for (const { listener, name, not_after, failures, error } of renewals.filter(({ failures }) => failures > 0)) {
    const left = not_after > clock ? `the one in use is valid for ${age(not_after - clock)}` : "there is no valid one";
    all.push([not_after > clock ? "warn" : "bad", null, `${listener}: no new certificate for ${name} after ${plural(failures, "attempt")}, and ${left}: ${error}.`]);
  }
  if (reload?.last?.result === "refused") all.push(["warn", null, `The last reload was refused, and nothing has changed: ${reload.last.errors[0]?.problem ?? "see below"}.`]);
  return all.sort((one, other) => Number(other[0] === "bad") - Number(one[0] === "bad"));
}
