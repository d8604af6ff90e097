// The admin API: requests with the token of this tab, and the stream of events.
const TOKEN = "linchpin-admin-token", PATIENCE = 4000;

// Storage may be disabled; the page then asks for the token again.
let token = null;
try { token = sessionStorage.getItem(TOKEN); } catch {}

export const hasToken = () => token !== null;
export function keepToken(value) {
  token = value;
  try { value === null ? sessionStorage.removeItem(TOKEN) : sessionStorage.setItem(TOKEN, value); } catch {}
}

export class Refused extends Error {
  constructor(status, why) { super(why); this.status = status; }
}

async function request(path, options = {}) {
  const headers = { ...options.headers, ...token === null ? {} : { Authorization: `Bearer ${token}` } };
  const response = await fetch(path, { cache: "no-store", ...options, headers });
  if (!response.ok) throw new Refused(response.status, (await response.text()).trim() || `The response has status ${response.status}.`);
  return response;
}

// Returns the data, Linchpin's clock in seconds, and the ETag. Paths are relative, so that the page may be published below a prefix.
export async function read(path) {
  const response = await request(path, { signal: AbortSignal.timeout(PATIENCE) });
  const clock = Math.floor(Date.parse(response.headers.get("date")) / 1000);
  return { data: await response.json(), clock, etag: response.headers.get("etag") };
}

export async function send(method, path, body, etag) {
  const headers = { "Content-Type": "application/json", ...etag ? { "If-Match": etag } : {} };
  const response = await request(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(2 * PATIENCE) });
  return response.json();
}

export const backendPath = (pool, backend) => `api/v1/pools/${encodeURIComponent(pool)}/backends/${encodeURIComponent(backend)}`;

// Reads events until the stream or the signal ends. EventSource can't send a token.
export async function follow(since, signal, take) {
  const headers = since === null ? {} : { "Last-Event-ID": since };
  const response = await request("api/v1/events?last=100", { headers, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "";;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map(line => /^(\w+): ?(.*)$/.exec(line)).filter(Boolean).map(([, name, value]) => [name, value]));
      if (fields.data) take(JSON.parse(fields.data), fields.id ?? null);
    }
  }
}
