// Reads the admin API for as long as the page is open, and passes on what it says.
import { follow, hasToken, keepToken, read, Refused } from "./api.js";
import * as actions from "./actions.js";
import { allowActs, find, text } from "./dom.js";
import { icon } from "./favicon.js";
import { age } from "./format.js";
import * as panels from "./panels.js";
import * as pools from "./pools.js";
import { problems } from "./reasons.js";
import * as trends from "./trends.js";

const PERIOD = 1000, RETRY = 2000;
// What changes rarely is read again after so many periods, and when an event says that it has changed.
const RARELY = 30;

let status = null, updated = null, round = 0, timer, certificates = [], renewals = [], reload = null, isStale = true, stream = null, lastEvent = null, isLoggedOut = false, isReading = false, isWaitedFor = false;

// Reads what is due, shows it, and comes again after a period.
async function poll() {
  clearTimeout(timer);
  if (isReading) return void (isWaitedFor = true);
  isReading = true;
  await look();
  isReading = false;
  if (!isLoggedOut) timer = setTimeout(poll, isWaitedFor ? PERIOD / 10 : PERIOD);
  isWaitedFor = false;
}

async function look() {
  try {
    const { data, clock } = await read("api/v1/status");
    if (status && data.uptime_seconds < status.uptime_seconds) isStale = true;
    let isNew = false;
    if (isStale || round % 5 === 0) {
      const { data: samples } = await read(trends.path());
      trends.add(samples);
      isNew = true;
    }
    if (isStale || round % RARELY === 0) await readRest();
    round += 1;
    [status, updated] = [data, performance.now()];
    find("login").hidden = true;
    find("content").hidden = false;
    show(clock, isNew);
    listen();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return logIn();
    const since = updated === null ? "" : ` The figures below are ${age((performance.now() - updated) / 1000)} old.`;
    const why = error.name === "TimeoutError" ? "The response takes too long." : error instanceof TypeError ? "The connection failed." : error.message;
    panels.contact("bad", "✕ no contact", `${why}${since} Trying again every second.`);
    icon("lost", 0);
  }
}

async function readRest() {
  isStale = false;
  const [access, all, obtained, last] = await Promise.all(["access", "certificates", "renewals", "reload"].map(name => read(`api/v1/${name}`)));
  allowActs(access.data.may_change);
  find("read-only").hidden = access.data.may_change;
  certificates = all.data;
  renewals = obtained.data;
  reload = last.data;
  panels.certificates(certificates, renewals);
  panels.reload(reload);
}

function show(clock, isNew) {
  pools.show(status, updated, clock, isNew);
  pools.tiles(status, updated);
  trends.forget(updated);
  const all = problems(status, clock, certificates, renewals, reload), bad = all.some(([kind]) => kind === "bad");
  panels.problems(all);
  const lost = status.pools.filter(pool => !pool.available).map(pool => pool.name);
  const word = lost.length ? `✕ no backend: ${lost.join(", ")}` : bad ? "▲ live, with trouble" : status.ready ? "● live" : "not ready";
  panels.contact(bad ? "bad" : all.length ? "warn" : "good", word);
  icon(bad ? "bad" : all.length ? "warn" : "good", all.length);
  text(find("about"), `${status.version} · up ${age(status.uptime_seconds)}${reload ? ` · configuration ${reload.generation}` : ""}`);
}

// Follows the events while somebody looks: a browser opens few connections to one server, and each stream takes one of all tabs'.
async function listen() {
  if (stream || document.hidden || isLoggedOut) return;
  const mine = stream = new AbortController();
  try {
    await follow(lastEvent, stream.signal, (data, id) => {
      lastEvent = id ?? lastEvent;
      panels.event(data);
      if (["reload", "certificate", "renewal"].includes(data.kind)) isStale = true;
      soon();
    });
  } catch {}
  setTimeout(() => { if (stream === mine) stream = null; }, RETRY);
}

// Reads the status without waiting for the next period, but not once for each of many events.
function soon() {
  clearTimeout(timer);
  timer = setTimeout(poll, 100);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return soon();
  stream?.abort();
  stream = null;
});

function logIn() {
  const isWrong = hasToken();
  isLoggedOut = true;
  stream?.abort();
  stream = null;
  keepToken(null);
  panels.contact("warn", "token needed");
  pools.clear();
  find("content").hidden = true;
  find("login").hidden = false;
  text(find("wrong"), isWrong ? "This token is wrong. Enter the content of token_file or read_token_file." : "");
  find("token").focus();
}

find("login-form").addEventListener("submit", submitted => {
  submitted.preventDefault();
  keepToken(find("token").value.trim());
  find("token").value = "";
  [isStale, isLoggedOut] = [true, false];
  poll();
});
pools.start(actions.ask);
panels.start();
actions.start(name => status?.pools.find(pool => pool.name === name), soon);
poll();
