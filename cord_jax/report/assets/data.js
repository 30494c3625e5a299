// Elements and data: texts only ever become text nodes, so nothing in a trace can become part of the page.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; a function is an event's listener, null and false leave an attribute out. */
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** The data of a packed element; null if the page has none of that id. */
async function unpack(id) {
  const element = document.getElementById(id);
  if (element === null) return null;
  const bytes = Uint8Array.from(atob(element.textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

const MARK = { true: "✓", false: "✗", null: "?" };
const WORD = { true: "right", false: "wrong", null: "answer unknown" };

/** ✓, ✗ or ? with the word for those who hear the page. */
function verdict(correct, whose = "") {
  const kind = { true: "right", false: "wrong", null: "unknown" }[correct];
  return make("span", { class: `verdict ${kind}`, title: whose ? `${whose}: ${WORD[correct]}` : WORD[correct] },
    make("span", { "aria-hidden": "true" }, MARK[correct]), make("span", { class: "hidden" }, WORD[correct]));
}

function digits(value, count = 3) {
  return value === null || value === undefined ? "–" : value > 1 ? String(Math.round(value * 100) / 100) : value.toFixed(count);
}

/** A phrase and a text, as a line of facts. */
function fact(name, ...value) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, ...value));
}

/** What stands behind # in the address, as names and values. */
function address() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

function remember(values) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null && value !== undefined));
  try {
    history.replaceState(null, "", `#${query}`);
  } catch {
    // a page inside another one may not have an address of its own
  }
}

/** Whether a key was meant for a field that takes text. */
function typing(event) {
  return event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
}
