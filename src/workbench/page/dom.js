// Elements of the page. A text becomes a text node and a fixed attribute; no text becomes markup.

/** Characters that hide or reorder text, or that no font shows. */
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** The text with its hidden characters written as their codes, so that two texts never look alike. */
export function shown(text) {
  return String(text).replace(HIDDEN, (c) => `\\u{${c.charCodeAt(0).toString(16)}}`);
}

/** The beginning of a long text. */
export function brief(text, max = 120) {
  const all = [...String(text)];
  return all.length > max ? `${all.slice(0, max - 1).join("")}…` : String(text);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, action] of Object.entries(value)) node.addEventListener(event, action);
    } else if (name === "value") {
      node.value = value;
    } else {
      node.setAttribute(name, value === true ? "" : shown(value));
    }
  }
  put(node, ...children);
  return node;
}

/** Appends elements and texts; lists are flattened, null is left out. */
export function put(node, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : shown(child));
  }
  return node;
}

/** `el("p", { class: "x", on: { click } }, "text", child)`. */
export function el(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function svg(tag, properties, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

/** Replaces everything in an element. */
export function clear(node, ...children) {
  node.replaceChildren();
  return put(node, ...children);
}

/** Says a sentence to screen readers. */
export function announce(text) {
  document.getElementById("live").textContent = shown(text);
}

/** Runs `work` once `pause` milliseconds have passed without another call. */
export function settled(work, pause = 150) {
  let timer = 0;
  return (...parameters) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...parameters), pause);
  };
}
