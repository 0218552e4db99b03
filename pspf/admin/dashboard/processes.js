// The worker's processes: what each is at, with a button that pauses it or lets it go on.

import { post } from "./api.js";
import { byId, keep, make, setState, setText } from "./dom.js";
import { ago, count, countOf, rate, span } from "./format.js";
import { healthOfProcess } from "./model.js";
import { doing } from "./toast.js";

const LONG_MS = 10_000;

/** Show the processes; `soon()` is called after a command to one of them. */
export function showProcesses(status, soon) {
  const found = status.processes;
  const empty = byId("processes-empty");
  empty.hidden = found.length > 0;
  if (!found.length) setText(empty, status.state === "draining" ? "The worker stops." : "No process runs.");
  keep(
    byId("processes"),
    found,
    (process) => process.place,
    (process) => create(process.place, soon),
    (element, process) => update(element, process, status),
  );
}

function create(place, soon) {
  const figure = (label) => make("span", {}, make("b"), ` ${label}`);
  const act = make("button", { class: "small button", type: "button" });
  act.addEventListener("click", async () => {
    const path = act.dataset.act;
    await doing(act, async () => `${place}: ${(await post(path, { process: place })).ok}`);
    soon();
  });
  return make(
    "li",
    { class: "process" },
    make("div", {}, make("p", { class: "place" }, place), make("p", { class: "who" })),
    make("span", { class: "state" }),
    make("div", { class: "figures" }, figure("/s"), figure("processed"), make("span"), make("span")),
    act,
    make("p", { class: "why" }),
  );
}

function update(element, process, status) {
  const [names, state, figures, act, why] = element.children;
  setText(names.children[1], [process.worker, process.pid === null ? null : `pid ${process.pid}`].filter(Boolean).join(" · "));
  setState(state, healthOfProcess(process, status));
  const subscriptions = process.subscriptions;
  const sum = (name) => subscriptions.reduce((total, each) => total + (each[name] ?? 0), 0);
  const held = [...new Set(subscriptions.flatMap((each) => each.partitions))].sort((one, other) => one - other);
  const committed = Math.max(...subscriptions.map((each) => each.last_commit_ms ?? 0), 0);
  [rate(sum("rate")), count(sum("processed"))].forEach((text, index) => setText(figures.children[index].firstChild, text));
  setText(figures.children[2], partitionsOf(held));
  setText(figures.lastChild, committed ? `committed ${ago(committed, Date.now())}` : "nothing committed yet");
  figures.style.visibility = subscriptions.length ? "visible" : "hidden";
  showAct(act, process);
  setText(why, remarks(process));
  why.hidden = why.textContent === "";
  why.dataset.tone = process.state === "running" ? "warn" : healthOfProcess(process, status).tone;
}

/** partition 0; partitions 0–3, 6; 16 partitions */
function partitionsOf(held) {
  if (held.length === 0) return "no partition";
  const runs = [];
  for (const partition of held) {
    const run = runs.at(-1);
    if (run && run.at(-1) === partition - 1) run.push(partition);
    else runs.push([partition]);
  }
  if (runs.length > 3) return countOf(held.length, "partition");
  const texts = runs.map((run) => (run.length > 2 ? `${run[0]}–${run.at(-1)}` : run.join(", ")));
  return `${held.length === 1 ? "partition" : "partitions"} ${texts.join(", ")}`;
}

function showAct(act, process) {
  const resumes = process.state === "paused" || process.state === "crashing";
  act.hidden = process.place.startsWith("in-process#"); // it has no supervisor that could
  act.dataset.act = resumes ? "/resume" : "/pause";
  setText(act, process.state === "paused" ? "Resume" : resumes ? "Start now" : "Pause");
}

function remarks(process) {
  const found = process.state === "paused" ? [] : [process.why];
  if (process.next_try_ms) found.push(`next try in ${span(Math.max(0, process.next_try_ms - Date.now()))}`);
  if (process.restarts) found.push(countOf(process.restarts, "restart"));
  for (const each of process.busy.filter((busy) => busy.for_ms >= LONG_MS)) {
    found.push(`${each.handler} has been at ${countOf(each.records, "record")} of ${each.topic} for ${span(each.for_ms)}`);
  }
  return found.filter(Boolean).join(" · ");
}
