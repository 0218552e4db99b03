// Dead letters: why they died, what they hold, and a new start for them.

import { get, post, withQuery } from "./api.js";
import { byId, keep, make, setAttribute, setText } from "./dom.js";
import { ago, count, countOf, time } from "./format.js";
import { facts } from "./sheet.js";
import { doing } from "./toast.js";

const PAGE = 50;
const CHIPS = 8;

let chosen = null; // one of `by_error`, or null for all of them
let limit = PAGE;

const narrowed = () => (chosen === null ? {} : { topic: chosen.topic, handler: chosen.handler, error: chosen.error_type });
const nameOf = (error) => JSON.stringify([error.topic, error.handler, error.error_type]);

/** Ask for the dead letters and show them; how many there are goes to `told(total)`. */
export async function refreshLetters(told) {
  const found = await get(withQuery("/dlq", { ...narrowed(), limit }));
  // The errors of all letters, also while only one kind is listed.
  const all = chosen === null ? found : await get(withQuery("/dlq", { limit: 1 }));
  if (chosen !== null && !all.by_error.some((error) => nameOf(error) === nameOf(chosen))) {
    chosen = null;
    return refreshLetters(told);
  }
  show(found, all, told);
  told(all.total);
}

/** Say why there is nothing to show. */
export function missLetters(why) {
  if (byId("letters-list").children.length === 0) setText(byId("letters-empty"), why);
}

function show(found, all, told) {
  setText(byId("letters-count"), all.total ? count(all.total) : "");
  keep(
    byId("letters-errors"),
    all.by_error.length > 1 || chosen !== null ? mostOf(all.by_error) : [],
    nameOf,
    (error) => createChip(error, told),
    (chip, error) => {
      setText(chip.firstChild, `${count(error.count)} ×`);
      setAttribute(chip, "aria-pressed", chosen !== null && nameOf(error) === nameOf(chosen) ? "true" : "false");
    },
  );
  const replay = byId("replay-all");
  replay.hidden = found.total === 0;
  setText(replay, chosen === null ? `Replay all ${count(found.total)}` : `Replay these ${count(found.total)}`);
  replay.onclick = () => replayAll(replay, told);
  const empty = byId("letters-empty");
  empty.hidden = found.dead_letters.length > 0;
  setText(empty, "No dead letters. A record that its handler gives up on is kept here, with the error and the payload.");
  keep(
    byId("letters-list"),
    found.dead_letters,
    (letter) => `${letter.topic} ${letter.id}`,
    (letter) => createLetter(letter, told),
    (element, letter) => setText(element.querySelector(".when"), ago(letter.dead_at_ms, Date.now())),
  );
  const more = byId("letters-more");
  more.hidden = found.total <= found.dead_letters.length;
  more.onclick = () => {
    limit += PAGE;
    refreshLetters(told).catch((error) => missLetters(error.message));
  };
}

/** The errors that most records died of, and the chosen one in any case. */
const mostOf = (errors) => errors.filter((error, index) => index < CHIPS || (chosen !== null && nameOf(error) === nameOf(chosen)));

function createChip(error, told) {
  const what = shortName(error.error_type);
  return make(
    "button",
    { class: "chip", type: "button", title: `${what} in ${error.handler} of ${error.topic}`, onclick: () => choose(error, told) },
    make("b"),
    make("span", {}, what),
    make("span", { class: "where" }, `in ${error.handler}`),
  );
}

const shortName = (errorType) => errorType.slice(errorType.lastIndexOf(".") + 1);

function choose(error, told) {
  chosen = chosen !== null && nameOf(error) === nameOf(chosen) ? null : error;
  limit = PAGE;
  refreshLetters(told).catch((trouble) => missLetters(trouble.message));
}

async function replayAll(button, told) {
  const body = chosen === null ? { all: true } : narrowed();
  await replay(button, body, told);
}

async function replay(button, body, told) {
  await doing(button, async () => {
    const { replayed, left } = await post("/dlq/replay", body);
    const rest = left ? `, ${count(left)} are left` : "";
    return replayed ? `${countOf(replayed, "record")} replayed${rest}` : "It is not there any more";
  });
  await refreshLetters(told).catch((error) => missLetters(error.message));
}

function createLetter(letter, told) {
  const body = make("div", { class: "body" }, make("p", { class: "muted" }, "Reading it"));
  const summary = make(
    "summary",
    {},
    make("span", { class: "error", title: letter.error }, make("b", {}, shortName(letter.error_type)), ` ${letter.error}`),
    make("span", { class: "from" }, `${letter.handler} · ${letter.topic}`),
    make("span", { class: "when", title: time(letter.dead_at_ms) }),
  );
  const details = make("details", {}, summary, body);
  details.addEventListener("toggle", () => {
    if (details.open && !body.dataset.full) open(letter, body, told);
  });
  return make("li", { class: "letter" }, details);
}

async function open(letter, body, told) {
  let whole;
  try {
    whole = await get(`/dlq/${encodeURIComponent(letter.topic)}/${encodeURIComponent(letter.id)}`);
  } catch (error) {
    body.replaceChildren(make("p", { "data-tone": "bad" }, error.message));
    return;
  }
  body.dataset.full = "yes";
  const headers = Object.entries(whole.headers ?? {});
  const button = make("button", { class: "primary small", type: "button" }, "Replay");
  button.onclick = () => replay(button, { topic: letter.topic, ids: [letter.id] }, told);
  const section = (title, text) => make("section", {}, make("h3", {}, title), make("pre", { tabindex: "0" }, text));
  body.replaceChildren(
    facts({
      record: `${whole.topic}/${whole.original_id}`,
      key: whole.key ?? "none",
      group: whole.group,
      attempts: count(whole.attempts),
      "given up": time(whole.dead_at_ms),
    }),
    section("Error", `${whole.error_type}: ${whole.error}`),
    section("Payload", whole.raw === undefined ? JSON.stringify(whole.event, null, 2) : `${whole.raw}\n(no JSON; its bytes in base64)`),
    headers.length ? section("Headers", headers.map(([name, value]) => `${name}: ${value}`).join("\n")) : null,
    whole.traceback ? section("Traceback", whole.traceback) : null,
    make("div", {}, button),
  );
}
