// Numbers, times and sizes as text.
const whole = new Intl.NumberFormat("en");

export const count = n => whole.format(n);
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
export const rate = value => value > 0 && value < 9.95 ? value.toFixed(value < 0.095 ? 2 : 1) : count(Math.round(value));
export const share = value => `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %`;

export function millis(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 9950) return `${Math.round(ms / 1000)} s`;
  if (ms >= 995) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

export function size(bytes) {
  const at = bytes < 1024 ? 0 : Math.min(3, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 1024 ** at).toLocaleString("en", { maximumFractionDigits: 1 })} ${["B", "KiB", "MiB", "GiB"][at]}`;
}

export function age(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}

// Times of this computer's zone. A time of another day has its date.
export function time(seconds) {
  const at = new Date(seconds * 1000);
  const clock = at.toLocaleTimeString("sv-SE");
  return at.toDateString() === new Date().toDateString() ? clock : `${at.toLocaleDateString("sv-SE")} ${clock}`;
}
