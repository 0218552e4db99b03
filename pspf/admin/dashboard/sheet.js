// The sheet of one handler: its counts since the worker started, and its partitions.

import { byId, make, setName } from "./dom.js";
import { ago, count, countOf, NOT_KNOWN, rate, seconds, span } from "./format.js";
import { describe } from "./graph.js";

let shownKey = null;

/** Open the sheet of a handler. */
export function openSheet(key, model) {
  shownKey = key;
  updateSheet(model);
  if (!byId("handler").open) byId("handler").showModal();
}

/** Show the handler's present state, where the sheet is open. */
export function updateSheet(model) {
  const dialog = byId("handler");
  const handler = model.handlers.find((each) => each.key === shownKey);
  if (!handler || (!dialog.open && shownKey === null)) return;
  setName(byId("handler-title"), handler.handler);
  const body = byId("handler-body");
  const selection = getSelection();
  if (!selection.isCollapsed && body.contains(selection.anchorNode)) return; // somebody copies from it
  const scrolled = dialog.scrollTop;
  body.replaceChildren(facts(describe(handler)), counts(handler), ...partitions(handler));
  dialog.scrollTop = scrolled;
}

/** Names and values, one pair a line. */
export function facts(pairs) {
  const list = make("dl", { class: "facts" });
  for (const [name, value] of Object.entries(pairs)) list.append(make("dt", {}, name), make("dd", {}, String(value)));
  return list;
}

function counts(handler) {
  const now = Date.now();
  return make(
    "section",
    {},
    make("h3", {}, "Since the worker started"),
    facts({
      "events a second": rate(handler.rate),
      processed: count(handler.processed),
      retried: count(handler.retried),
      failed: count(handler.failed),
      dead: count(handler.dead),
      late: count(handler.late),
      batches: count(handler.batches),
      "last commit": ago(handler.last_commit_ms, now),
    }),
  );
}

function partitions(handler) {
  if (handler.lags.length) return handler.lags.map(partitionsOf);
  const note = make("p", { class: "muted" }, "The broker has reported nothing of them yet.");
  return [make("section", {}, make("h3", {}, "Partitions"), note)];
}

function partitionsOf({ topic, partitions: found }) {
  const title = make("h3", {}, `${countOf(found.length, "partition")} of ${topic}`);
  const names = ["", "committed", "lag", "pending", "watermark", "owner"];
  const isNumber = (index) => index > 0 && index < 5;
  const cell = (tag, text, index) => make(tag, { class: isNumber(index) ? "number" : null }, text);
  const head = make("tr", {}, ...names.map((name, index) => cell("th", name, index)));
  const rows = found.map((each) =>
    make(
      "tr",
      {},
      ...[
        String(each.partition),
        each.committed ?? NOT_KNOWN,
        each.lag_seconds ? `${count(each.lag)} (${seconds(each.lag_seconds)})` : count(each.lag),
        count(each.pending),
        each.watermark_ms === null ? NOT_KNOWN : `${span(Math.max(0, Date.now() - each.watermark_ms))} behind`,
        each.owner ?? NOT_KNOWN,
      ].map((text, index) => cell("td", text, index)),
    ),
  );
  return make(
    "section",
    {},
    title,
    make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))),
  );
}

/** Nothing is shown any more. */
export function closeSheet() {
  shownKey = null;
}
