// The page's loop: asks the worker once a second while somebody looks, and shows what it says.

import { get, post, takeToken } from "./api.js";
import { byId, drawLine, make, setAttribute, setState, setText } from "./dom.js";
import { count, rate, roughly, seconds, span } from "./format.js";
import { layOut, showGraph } from "./graph.js";
import { missLetters, refreshLetters } from "./letters.js";
import { asFarAsKnown, combine, MOST_RATES, ratesOf } from "./model.js";
import { showProcesses } from "./processes.js";
import { closeSheet, openSheet, updateSheet } from "./sheet.js";
import { doing } from "./toast.js";

const EVERY_MS = 1_000;
const LETTERS_EVERY_MS = 2_000;
const LETTERS_AT_LEAST_MS = 30_000;
const SILENT_MS = 10_000;
const MOST_WAIT_MS = 8_000;

let model = null;
let seenMs = null;
let failures = 0;
let timer = 0;
let round = 0;
let lettersDead = null;
let lettersMs = 0;
let isLocked = false; // nobody has the token that even looking needs

/** Ask now instead of in a while. */
function soon() {
  clearTimeout(timer);
  timer = setTimeout(turn, 0);
}

async function turn() {
  const mine = ++round;
  try {
    const [status, topology, lag] = await Promise.all([get("/status"), get("/topology"), get("/lag").catch(() => null)]);
    if (mine !== round) return;
    model = combine(status, topology, lag);
    seenMs = Date.now();
    failures = 0;
    isLocked = false;
    show();
  } catch (error) {
    if (mine !== round) return;
    failures += 1;
    isLocked = error.status === 401;
    showTrouble(error);
  }
  if (!document.hidden && !isLocked) timer = setTimeout(turn, Math.min(EVERY_MS * 2 ** Math.min(failures, 3), MOST_WAIT_MS));
}

function show() {
  const { status, topology } = model;
  setText(byId("app"), status.app);
  document.title = `${status.app} · PSPF`;
  setText(byId("where"), `${status.broker.name} · ${status.worker}`);
  setText(byId("version"), `PSPF ${status.version}`);
  showState(status);
  showBanner(status);
  showButtons(status);
  showTiles();
  showGraph(model, (key) => openSheet(key, model));
  showProcesses(status, soon);
  updateSheet(model);
  // What is null is a topic that is not there yet only where the broker answers.
  const isNew = status.broker.connected === true && topology.topics.every((each) => !each.records);
  if (isNew && model.handlers.length) setText(byId("lag-note"), "no events yet: pspf emit TOPIC '{...}'");
}

const IN_TROUBLE = ["crashing", "stalled"];

function showState(status) {
  const states = status.processes.map((each) => each.state);
  const isPaused = states.length > 0 && states.every((state) => state === "paused");
  const isPartlyPaused = states.includes("paused") && states.every((state) => state === "paused" || state === "running");
  const state = byId("state");
  if (status.state === "draining") setState(state, { text: "stopping", tone: "warn" });
  else if (isPaused) setState(state, { text: "paused", tone: "warn" });
  else if (isPartlyPaused) setState(state, { text: "partly paused", tone: "warn" });
  else if (status.ready) setState(state, asFarAsKnown({ text: "running", tone: "ok" }, model.lag, status));
  else setState(state, { text: "not ready", tone: "bad" });
  setAttribute(state, "title", status.why.join("\n") || null);
}

function showBanner(status) {
  const banner = byId("banner");
  let text = "";
  if (status.broker.connected === false) {
    const why = status.broker.error ? `: ${status.broker.error}` : "";
    text = `The broker does not answer${why}. Workers wait for it; nothing is lost.`;
  } else if (status.age_ms > SILENT_MS) {
    text = `The worker has not reported for ${span(status.age_ms)}. What is shown is as old.`;
  } else if (status.processes.some((each) => IN_TROUBLE.includes(each.state))) {
    text = `Not ready: ${status.why.join("; ")}.`;
  }
  setText(banner, text);
  setAttribute(banner, "data-tone", status.broker.connected === false ? "bad" : null);
  banner.hidden = text === "";
  setAttribute(byId("main"), "data-stale", status.age_ms > SILENT_MS);
}

function showTrouble(error) {
  const banner = byId("banner");
  const seen = seenMs === null ? "" : ` It was last seen ${span(Date.now() - seenMs)} ago.`;
  setText(banner, error.status ? `The worker refuses: ${error.message}` : `The worker does not answer.${seen} Asking again.`);
  if (isLocked) banner.append(" ", make("button", { type: "button", onclick: soon }, "Enter the token"));
  setAttribute(banner, "data-tone", "bad");
  banner.hidden = false;
  setState(byId("state"), { text: "not reached", tone: "bad" });
  setAttribute(byId("main"), "data-stale", model !== null);
  byId("pause").disabled = byId("resume").disabled = true;
}

function showButtons(status) {
  const states = status.processes.map((each) => each.state);
  const isAlone = status.processes.some((each) => each.place.startsWith("in-process#"));
  const isPaused = states.length > 0 && states.every((state) => state === "paused");
  byId("pause").hidden = isPaused || isAlone;
  byId("resume").hidden = !states.includes("paused") || isAlone;
  byId("pause").disabled = byId("resume").disabled = status.state === "draining";
}

function showTiles() {
  setText(byId("rate"), rate(model.rate));
  drawLine(byId("rate-line"), ratesOf(null), MOST_RATES);
  setText(byId("lag"), roughly(model.lag));
  setText(byId("lag-note"), model.lag === null ? "not known" : model.lag ? `oldest ${seconds(model.lagSeconds)}` : "all caught up");
  setText(byId("delay"), seconds(model.delay));
  setText(byId("delay-note"), model.hasWindows ? "behind the clock" : "this app has no windows");
}

function showDead(total) {
  const figure = byId("dead");
  setText(figure, count(total));
  setAttribute(figure, "data-tone", total ? "bad" : null);
  setText(byId("dead-note"), total ? "look at them" : "");
}

/** How many dead letters each topic has, as text; the broker counts them without reading them. */
const deadNow = () =>
  JSON.stringify((model?.topology.topics ?? []).filter((each) => each.role === "dlq").map((each) => each.records));

/**
 * Ask for the dead letters, apart from the rest: all of them are read for it, so only where their number has changed,
 * else now and then, and seldom where it takes long.
 */
async function turnLetters() {
  const begunMs = Date.now();
  const dead = deadNow();
  const isDue = dead !== lettersDead || begunMs - lettersMs > LETTERS_AT_LEAST_MS;
  if (!document.hidden && !isLocked && isDue) {
    try {
      await refreshLetters(showDead);
      [lettersDead, lettersMs] = [dead, begunMs];
    } catch (error) {
      missLetters(`The dead letters are not known: ${error.message}`);
    }
  }
  setTimeout(turnLetters, Math.max(LETTERS_EVERY_MS, 10 * (Date.now() - begunMs)));
}

function command(button, path) {
  button.addEventListener("click", async () => {
    await doing(button, async () => `All processes: ${(await post(path)).ok}`);
    soon();
  });
}

takeToken();
command(byId("pause"), "/pause");
command(byId("resume"), "/resume");
byId("handler").addEventListener("close", closeSheet);
byId("handler").addEventListener("click", (event) => {
  if (event.target === byId("handler")) byId("handler").close(); // beside the sheet
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) soon();
});
addEventListener("hashchange", takeToken);
new ResizeObserver(layOut).observe(byId("graph").parentElement);
turn();
turnLetters();
