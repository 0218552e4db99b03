// Making and changing elements. Text gets in as text alone, so that nothing a record holds can be markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Make an element: `make("p", {class: "note"}, "text", child)`; properties that begin with `on` are listeners. */
export function make(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Make an element of a drawing. */
export function makeSvg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else setAttribute(element, name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an attribute, or remove it where `value` is null or false; untouched where nothing changes. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
}

/** Set an element's text; untouched where nothing changes, so that a selection stays. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an element's text to a name, which may be broken behind its dots, dashes and underscores. */
export function setName(element, name) {
  if (element.textContent === name) return;
  const parts = name.split(/(?<=[._/-])(?=[^._/-])/);
  element.replaceChildren(...parts.flatMap((part, index) => (index ? [document.createElement("wbr"), part] : [part])));
}

/** Set a state's text and tone: ok, warn, bad or idle. */
export function setState(element, { text, tone }) {
  setText(element, text);
  setAttribute(element, "data-tone", tone);
}

/**
 * Make the children of `parent` those of `items`, in order: `create(item)` makes one, `update(element, item)` changes
 * it. Elements are kept by key, so that what is open, focused or selected stays so.
 */
export function keep(parent, items, keyOf, create, update) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const key = keyOf(item);
    let element = before.get(key);
    before.delete(key);
    if (!element) {
      element = create(item);
      element.dataset.key = key;
    }
    update(element, item);
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
  for (const gone of before.values()) gone.remove();
}

/** Draw numbers as a line with its area, from zero up, into a drawing of 120 by 28; nothing for fewer than two. */
export function drawLine(svg, values, most) {
  if (values.length < 2) {
    svg.replaceChildren();
    return;
  }
  const top = Math.max(...values, Number.EPSILON);
  const step = 120 / (most - 1);
  const left = 120 - (values.length - 1) * step;
  const points = values.map((value, i) => `${(left + i * step).toFixed(1)},${(26 - (value / top) * 24).toFixed(1)}`);
  const line = `M${points.join("L")}`;
  if (!svg.firstChild) svg.append(makeSvg("path", { class: "area" }), makeSvg("path"));
  svg.children[0].setAttribute("d", `${line}L120,28L${left.toFixed(1)},28Z`);
  svg.children[1].setAttribute("d", line);
}
