// The icon and title of the tab, which show trouble when another tab is in front. Their shapes differ, not only their colours.
import { find } from "./dom.js";

const SHAPES = {
  good: "<circle cx='8' cy='8' r='6' fill='none' stroke='#1f8a4c' stroke-width='3'/><circle cx='8' cy='8' r='2' fill='#1f8a4c'/>",
  warn: "<path d='M8 1 15.5 15H.5Z' fill='#e8a317'/><path d='M7 5.5h2v5H7zM7 11.5h2v2H7z' fill='#000'/>",
  bad: "<circle cx='8' cy='8' r='8' fill='#c8281e'/><path d='M4.8 4.8 11.2 11.2M11.2 4.8 4.8 11.2' stroke='#fff' stroke-width='2.4'/>",
  lost: "<circle cx='8' cy='8' r='6' fill='none' stroke='#8a8a8a' stroke-width='3' stroke-dasharray='3 3'/>",
};

export function icon(kind, problems) {
  const href = `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox='0 0 16 16'>${SHAPES[kind]}</svg>`)}`;
  if (find("icon").getAttribute("href") !== href) find("icon").setAttribute("href", href);
  find("icon").dataset.kind = kind;
  const mark = { bad: "✕ ", warn: "▲ ", lost: "? " }[kind] ?? "";
  const title = `${mark}${problems ? `${problems} ${problems === 1 ? "problem" : "problems"} · ` : ""}Linchpin`;
  if (document.title !== title) document.title = title;
}
