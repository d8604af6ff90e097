// Elements from the templates of the page. Values from the API become text, never markup.
export const find = id => document.getElementById(id);

export function text(element, value) {
  if (element.textContent !== String(value)) element.textContent = value;
}

export function tag(element, [kind, word]) {
  const name = `tag ${kind}`;
  if (element.className !== name) element.className = name;
  text(element, word);
}

export function attribute(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// Returns a copy of a template, and its elements by their data-field.
export function stamp(id) {
  const root = find(id).content.firstElementChild.cloneNode(true), fields = {};
  for (const element of [root, ...root.querySelectorAll("[data-field]")]) if (element.dataset.field) fields[element.dataset.field] = element;
  return { root, fields };
}

export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

export function drawing(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// Only the token decides whether this page may change something.
let mayAct = false;
export const allowActs = may => { mayAct = may; acts(document); };
export function acts(root) {
  for (const element of root.querySelectorAll("[data-act]")) {
    element.disabled = !mayAct;
    element.title = mayAct ? "" : "This token only reads: enter the content of token_file to change something";
  }
}

// A list of facts: pairs of a term and what is known of it; empty ones are left out.
export const facts = pairs => make("dl", { className: "facts-list" }, ...pairs.filter(([, what]) => what !== "" && what !== null && what !== undefined)
  .flatMap(([term, what]) => [make("dt", {}, term), make("dd", {}, String(what))]));
