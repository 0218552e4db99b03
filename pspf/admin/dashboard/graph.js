// The topology: topics and handlers in columns, from where events come in to where they go out.

import { byId, drawLine, keep, make, makeSvg, setAttribute, setName, setState, setText } from "./dom.js";
import { count, countOf, NOT_KNOWN, rate, roughly, seconds, span } from "./format.js";
import { MOST_RATES, ratesOf } from "./model.js";

const NARROW_PX = 640;
const WIDE_PX = 900;
const MANY_IN_A_COLUMN = 6;

const targetsOf = (handler) => [...new Set([...(handler.to === null ? [] : [handler.to]), ...handler.emits])];

const topicsOf = (handler) => handler.topics ?? [handler.topic];

/** Return the nodes in columns and the edges between them. A topic's dead letters and late records are no nodes. */
export function arrange(handlers, topics) {
  const nodes = new Map();
  const edges = [];
  const isAside = new Set(topics.filter((each) => each.role === "dlq" || each.role === "late").map((each) => each.topic));
  const known = new Map(topics.map((each) => [each.topic, each]));
  const topicNode = (topic) => {
    const key = `t:${topic}`;
    if (!nodes.has(key)) nodes.set(key, { key, topic: known.get(topic) ?? { topic, partitions: null, records: null } });
    return key;
  };
  for (const handler of handlers) {
    const key = `h:${handler.key}`;
    const sources = topicsOf(handler).map(topicNode); // before their handler: where a circle is cut open
    nodes.set(key, { key, handler });
    for (const source of sources) edges.push({ from: source, to: key, isLive: handler.rate > 0 });
    for (const target of targetsOf(handler)) {
      if (!isAside.has(target)) edges.push({ from: key, to: topicNode(target), isLive: handler.rate > 0 });
    }
  }
  const ranks = rank([...nodes.keys()], edges);
  const columns = [];
  for (const node of nodes.values()) (columns[ranks.get(node.key)] ??= []).push(node);
  return { columns: order(columns.filter(Boolean), edges), edges };
}

/** Return each node's column: one behind the last that leads to it. What leads back in a circle does not count. */
function rank(keys, edges) {
  const forth = withoutCircles(keys, edges);
  const ranks = new Map();
  const visit = (key) => {
    if (!ranks.has(key)) {
      const before = forth.filter((edge) => edge.to === key).map((edge) => visit(edge.from));
      ranks.set(key, Math.max(-1, ...before) + 1);
    }
    return ranks.get(key);
  };
  keys.forEach(visit);
  return ranks;
}

/** Return the edges but those that lead back to where a walk from the sources has come from. */
function withoutCircles(keys, edges) {
  const [open, done, forth] = [new Set(), new Set(), []];
  const walk = (key) => {
    open.add(key);
    for (const edge of edges.filter((each) => each.from === key)) {
      if (open.has(edge.to)) continue;
      forth.push(edge);
      if (!done.has(edge.to)) walk(edge.to);
    }
    open.delete(key);
    done.add(key);
  };
  const targets = new Set(edges.map((edge) => edge.to));
  for (const key of [...keys.filter((each) => !targets.has(each)), ...keys]) {
    if (!done.has(key)) walk(key);
  }
  return forth;
}

/** Put the nodes of each column in the order of what leads to them, so that few edges cross. */
function order(columns, edges) {
  const place = new Map();
  for (const column of columns) {
    const weight = (node) => {
      const places = edges.filter(({ to, from }) => to === node.key && place.has(from)).map(({ from }) => place.get(from));
      return places.length ? places.reduce((sum, each) => sum + each, 0) / places.length : 0;
    };
    const weights = new Map(column.map((node) => [node.key, weight(node)]));
    column.sort((one, other) => weights.get(one.key) - weights.get(other.key) || (one.key < other.key ? -1 : 1));
    column.forEach((node, index) => place.set(node.key, (index + 0.5) / column.length));
  }
  return columns;
}

let shown = { edges: [] };

/** Show the topology; `open(handler)` is called when one is chosen. */
export function showGraph(model, open) {
  const { handlers, topology } = model;
  byId("graph").hidden = handlers.length === 0;
  const empty = byId("graph-empty");
  empty.hidden = handlers.length > 0;
  if (handlers.length === 0) {
    setText(empty, "This app has no handlers. Decorate a function with @stream.subscribe, and start the worker again.");
    return;
  }
  const { columns, edges } = arrange(handlers, topology.topics);
  const byTopic = new Map(topology.topics.map((each) => [each.topic, each]));
  const absent = model.status.broker.connected === false ? "not known" : "not there yet";
  setAttribute(byId("graph"), "data-dense", Math.max(...columns.map((nodes) => nodes.length)) > MANY_IN_A_COLUMN);
  const numbered = columns.map((nodes, index) => ({ nodes, key: String(index) }));
  keep(
    byId("graph").querySelector(".columns"),
    numbered,
    (column) => column.key,
    () => make("div", { class: "column" }),
    (element, { nodes }) =>
      keep(
        element,
        nodes,
        (node) => node.key,
        (node) => (node.handler ? makeHandler(open) : makeTopic()),
        (child, node) => (node.handler ? updateHandler(child, node.handler) : updateTopic(child, node.topic, byTopic, absent)),
      ),
  );
  shown = { edges };
  layOut();
}

function makeTopic() {
  return make("div", { class: "topic" }, make("strong"), make("span"), make("span"));
}

function updateTopic(element, topic, byTopic, absent) {
  setName(element.children[0], topic.topic);
  const late = byTopic.get(`${topic.topic}-late`)?.records ?? 0;
  const aside = [];
  if (topic.partitions > 1) aside.push(`${count(topic.partitions)} partitions`);
  if (late) aside.push(`${count(late)} late`);
  setText(element.children[1], topic.records === null ? absent : `${roughly(topic.records)} ${topic.records === 1 ? "record" : "records"}`);
  setText(element.children[2], aside.join(" · "));
}

function makeHandler(open) {
  const figure = (label) => make("span", {}, make("b"), ` ${label}`);
  const element = make(
    "button",
    { class: "node", type: "button", onclick: () => open(element.dataset.handler) },
    make("span", { class: "name" }),
    make("span", { class: "group" }),
    make("span", { class: "path" }),
    make("span", { class: "figures" }, figure("/s"), figure("lag"), figure("behind")),
    makeSvg("svg", { class: "spark", viewBox: "0 0 120 28", preserveAspectRatio: "none", "aria-hidden": "true" }),
    make("span", { class: "foot" }, make("span", { class: "state" }), make("span", { class: "badge" })),
  );
  return element;
}

function updateHandler(element, handler) {
  element.dataset.handler = handler.key;
  const [name, group, path, figures, line, foot] = element.children;
  setName(name, handler.handler);
  setName(group, handler.window === null ? handler.group : `${handler.group} · ${handler.window}`);
  const targets = targetsOf(handler);
  const reads = topicsOf(handler).join(", ");
  setName(path, targets.length ? `${reads} → ${targets.join(", ")}` : `from ${reads}`);
  [rate(handler.rate), count(handler.behind), seconds(handler.delay)].forEach((text, i) => {
    setText(figures.children[i].firstChild, text);
  });
  figures.children[2].hidden = handler.delay === null;
  drawLine(line, ratesOf(handler), MOST_RATES);
  setState(foot.children[0], handler.health);
  setText(foot.children[1], handler.dead ? `${count(handler.dead)} dead` : "");
  setAttribute(foot.children[1], "data-tone", handler.dead ? "bad" : null);
}

/** Show a list of handlers instead of the drawing where that has no room, and else its edges where the nodes are now. */
export function layOut() {
  const graph = byId("graph");
  const width = document.documentElement.clientWidth;
  graph.classList.remove("is-list");
  graph.classList.toggle("is-list", width <= NARROW_PX || (width <= WIDE_PX && graph.scrollWidth > graph.parentElement.clientWidth));
  if (!graph.classList.contains("is-list")) drawEdges(graph);
}

function drawEdges(graph) {
  const svg = graph.querySelector(".edges");
  const frame = graph.getBoundingClientRect();
  const boxes = new Map();
  for (const node of graph.querySelectorAll(".column > *")) {
    boxes.set(node.dataset.key, node.getBoundingClientRect());
  }
  const drawable = shown.edges.filter(({ from, to }) => boxes.get(from)?.width && boxes.get(to)?.width);
  keep(
    svg,
    drawable,
    ({ from, to }) => `${from} ${to}`,
    () => makeSvg("path"),
    (path, { from, to, isLive }) => {
      const [source, target] = [boxes.get(from), boxes.get(to)];
      const [x1, y1] = [source.right - frame.left, source.top + source.height / 2 - frame.top];
      const [x2, y2] = [target.left - frame.left, target.top + target.height / 2 - frame.top];
      const bend = Math.max(24, Math.abs(x2 - x1) / 2);
      setAttribute(path, "d", `M${x1},${y1}C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`);
      setAttribute(path, "data-live", isLive);
    },
  );
}

/** What the sheet of a handler says beside its partitions. */
export const describe = (handler) => ({
  reads: topicsOf(handler).join(", "),
  emits: targetsOf(handler).join(", ") || "nothing yet",
  group: handler.group,
  ordering: handler.ordering === "key" ? "by key" : "none (shared)",
  model: handler.model ?? NOT_KNOWN,
  ...(handler.window === null ? {} : { window: handler.window }),
  processes: `${handler.running} of ${countOf(handler.processes, "process")} running`,
  "in hand": handler.busy_ms ? `a batch for ${span(handler.busy_ms)}` : "nothing",
});
