// What an operator does: each change is confirmed before, and can be undone after.
import { backendPath, read, Refused, send } from "./api.js";
import { find, make, text } from "./dom.js";
import { plural } from "./format.js";
import { isDraining, serves } from "./reasons.js";

let poolOf = () => undefined, changed = () => {}, pending = null;

// `find_pool` returns a pool of the last status by its name; `onChange` is called once something has changed.
export function start(findPool, onChange) {
  [poolOf, changed] = [findPool, onChange];
  find("dialog-cancel").addEventListener("click", () => find("dialog").close());
  find("dialog-form").addEventListener("submit", submitted => { submitted.preventDefault(); carryOut(); });
  find("dialog").addEventListener("close", () => { pending?.opener?.focus(); pending = null; });
}

const is = (backend, words) => `${backend.name} ${words}`;
const sessions = backend => plural(backend.sessions, "session");

// What each change is called, what it means for the sessions, the request that makes it, and what is said afterwards.
const CHANGES = {
  ready: {
    title: "Make ready", text: backend => isDraining(backend) ? "The drain ends, and it gets new sessions again." : "It gets new sessions again.",
    request: () => ["POST", "state", { state: "ready" }], done: backend => is(backend, "is ready"),
  },
  drain: {
    title: "Drain", fields: ["deadline", "then"],
    text: backend => `It gets no new session. Its ${sessions(backend)} stay until they end; with a limit, idle ones move first and the rest by then, none in the middle of a request.`,
    request: () => ["POST", "drain", { ...find("deadline").value ? { deadline: find("deadline").value } : {}, then: find("then").value }],
    done: backend => is(backend, find("deadline").value ? `drains within ${find("deadline").selectedOptions[0].text}` : "drains"),
  },
  maintenance: {
    title: "Maintenance", text: backend => `It gets no requests from now on. Its ${sessions(backend)} move at their next request: without session copies, they lose what is in its memory. A drain is gentler.`,
    request: () => ["POST", "state", { state: "maintenance" }], done: backend => is(backend, "is in maintenance"),
  },
  weight: {
    title: "Change the weight", fields: ["weight"], text: backend => `Its share of new sessions; it is ${backend.weight} now. With 0 it gets none. Sessions that it has stay.`,
    request: () => ["POST", "weight", { weight: Number(find("weight").value) }], done: backend => is(backend, `has weight ${find("weight").value}`),
  },
  cancel: {
    title: "Cancel the drain", text: () => "The state from before the drain holds again. Sessions that have moved do not come back.",
    request: () => ["DELETE", "drain"], done: backend => is(backend, "drains no more"),
  },
};

// Asks whether to make a change of a backend.
export async function ask(pool, backend, kind) {
  if (kind === backend.state && !(kind === "drain" && !isDraining(backend))) return;
  const change = CHANGES[kind], opener = document.activeElement;
  pending = { pool, backend, change, kind, opener, etag: null };
  text(find("dialog-title"), `${change.title}: ${backend.name} of ${pool}`);
  text(find("dialog-text"), change.text(backend));
  text(find("dialog-do"), change.title);
  text(find("dialog-error"), "");
  for (const field of ["deadline", "then", "weight"]) {
    const isUsed = change.fields?.includes(field) ?? false;
    find(`field-${field}`).hidden = !isUsed;
    find(field).disabled = !isUsed;
  }
  find("weight").value = backend.weight;
  const warning = warn(pool, backend, kind);
  find("dialog-warning").hidden = !warning;
  text(find("dialog-warning"), warning);
  find("dialog").dataset.read = "";
  find("dialog").showModal();
  (change.fields ? find(change.fields[0]) : find("dialog-do")).focus();
  // A change by somebody else meanwhile is noticed by the ETag.
  const asked = pending;
  try {
    asked.etag = (await read(backendPath(pool, backend.name))).etag;
    if (pending === asked) find("dialog").dataset.read = "yes";
  } catch (error) {
    if (pending === asked) text(find("dialog-error"), error.message);
  }
}

function warn(pool, backend, kind) {
  const others = poolOf(pool)?.backends.filter(other => other.name !== backend.name && serves(other)) ?? [];
  if (kind === "maintenance" && !others.length) return "No other backend of this pool serves: every request will be refused.";
  if (kind === "drain" && !others.some(other => other.state === "ready")) return "No other backend of this pool is ready: new sessions still go to this one.";
  return "";
}

async function carryOut() {
  const { pool, backend, change, etag } = pending, path = backendPath(pool, backend.name);
  const [method, what, body] = change.request(), done = change.done(backend);
  find("dialog-do").disabled = true;
  try {
    await send(method, `${path}/${what}`, body, etag);
    find("dialog").close();
    toast(`${pool}: ${done}.`, () => undo(pool, backend));
    changed();
  } catch (error) {
    text(find("dialog-error"), error instanceof Refused ? error.message : "The connection failed: look whether it was changed, then try again.");
    if (error.status === 412) pending.etag = (await read(path).catch(() => ({ etag: null }))).etag;
  } finally {
    find("dialog-do").disabled = false;
  }
}

// Restores what can be set of a backend as it was before the change; `before` is its status then.
async function undo(pool, before) {
  const path = backendPath(pool, before.name), { drain } = before;
  try {
    const { data: now } = await read(path);
    if (now.weight !== before.weight) await send("POST", `${path}/weight`, { weight: before.weight });
    if (isDraining(before)) {
      const left = drain.deadline ? { deadline: `${Math.max(1, Math.round(drain.deadline - Date.now() / 1000))}s` } : {};
      if (!isDraining(now) || now.drain.begun !== drain.begun) await send("POST", `${path}/drain`, { ...left, then: drain.then, idle: `${Math.round(drain.idle * 1000)}ms` });
    } else if (isDraining(now)) await send("DELETE", `${path}/drain`);
    if (!isDraining(before) && now.state !== before.state) {
      const { data: then } = await read(path);
      if (then.state !== before.state) await send("POST", `${path}/state`, { state: before.state });
    }
    toast(`${pool}: ${before.name} is as it was before.`);
  } catch (error) {
    toast(`${pool}: ${before.name} is not as it was before. ${error.message}`);
  }
  changed();
}

// Says what was done. It stays until it is closed or something else is done, since nobody should have to be quick.
function toast(words, onUndo) {
  const close = make("button", { type: "button", ariaLabel: "Close this message" }, "×");
  close.addEventListener("click", () => find("toast").replaceChildren());
  const buttons = onUndo ? [make("button", { type: "button" }, "Undo")] : [];
  buttons[0]?.addEventListener("click", () => { buttons[0].disabled = true; onUndo(); });
  find("toast").replaceChildren(make("div", {}, make("span", {}, words), ...buttons, close));
}
