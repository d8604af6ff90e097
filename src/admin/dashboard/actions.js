// What an operator does: each change is confirmed before, and can be undone after.
import { backendPath, read, Refused, send } from "./api.js";
import { find, make, text } from "./dom.js";
import { plural } from "./format.js";
import { isDraining, serves } from "./reasons.js";

// What the dialog asks. Nothing resets it when the dialog closes: that event comes late, when the next question may be there.
let poolOf = () => undefined, changed = () => {}, pending = null;

// `findPool` returns a pool of the last status by its name; `onChange` is called once something has changed.
export function start(findPool, onChange) {
  [poolOf, changed] = [findPool, onChange];
  find("dialog-cancel").addEventListener("click", () => find("dialog").close());
  find("dialog-form").addEventListener("submit", submitted => { submitted.preventDefault(); carryOut(); });
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
  const change = CHANGES[kind];
  pending = { pool, backend, change, etag: null };
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
  find("dialog-do").disabled = true;
  find("dialog").showModal();
  if (change.fields) find(change.fields[0]).focus();
  const asked = pending;
  try {
    // What an undo restores, and the ETag by which a change by somebody else is noticed: the page may be a second old.
    const { data, etag } = await read(backendPath(pool, backend.name));
    [asked.backend, asked.etag] = [data, etag];
    if (pending !== asked) return;
    find("dialog-do").disabled = false;
    if (!change.fields) find("dialog-do").focus();
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
  const asked = pending, { pool, backend, change, etag } = asked, path = backendPath(pool, backend.name);
  const [method, what, body] = change.request(), done = change.done(backend);
  find("dialog-do").disabled = true;
  try {
    await send(method, `${path}/${what}`, body, etag);
    find("dialog").close();
    toast(`${pool}: ${done}.`, () => undo(pool, backend, what));
    changed();
  } catch (error) {
    text(find("dialog-error"), error instanceof Refused ? error.message : "The connection failed: look whether it was changed, then try again.");
    if (error.status === 412) asked.etag = (await read(path).catch(() => ({ etag: null }))).etag;
  } finally {
    find("dialog-do").disabled = false;
  }
}

// Restores what a request to the path `what` has changed; `before` is the backend's status before it.
async function undo(pool, before, what) {
  const path = backendPath(pool, before.name);
  try {
    if (what === "weight") await send("POST", `${path}/weight`, { weight: before.weight });
    else await restoreState(path, before);
    toast(`${pool}: ${before.name} is as it was before.`);
  } catch (error) {
    toast(`${pool}: ${before.name} is not as it was before. ${error.message}`);
  }
  changed();
}

async function restoreState(path, before) {
  if (isDraining(before)) {
    const { drain } = before, left = drain.deadline ? { deadline: `${Math.max(1, Math.round(drain.deadline - Date.now() / 1000))}s` } : {};
    return send("POST", `${path}/drain`, { ...left, then: drain.then, idle: `${Math.round(drain.idle * 1000)}ms` });
  }
  const { data: now } = await read(path);
  const after = isDraining(now) ? await send("DELETE", `${path}/drain`) : now;
  if (after.state !== before.state) await send("POST", `${path}/state`, { state: before.state });
}

// Says what was done. It stays until it is closed or something else is done, since nobody should have to be quick.
function toast(words, onUndo) {
  const close = make("button", { type: "button", ariaLabel: "Close this message" }, "×");
  close.addEventListener("click", () => find("toast").replaceChildren());
  const buttons = onUndo ? [make("button", { type: "button" }, "Undo")] : [];
  buttons[0]?.addEventListener("click", () => { buttons[0].disabled = true; onUndo(); });
  find("toast").replaceChildren(make("div", {}, make("span", {}, words), ...buttons, close));
}
