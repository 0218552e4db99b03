// What the page knows: the answers of the worker put together by handler, and the rates of the last minutes.

const KEPT = 60;

const nameOf = ({ topic, group, handler }) => JSON.stringify([topic, group, handler]);

const rates = new Map();

/** The last rates of a handler, or of all of them together with `null`, oldest first; `KEPT` at most. */
export const ratesOf = (handler) => rates.get(handler === null ? "" : nameOf(handler)) ?? [];
export const MOST_RATES = KEPT;

function note(key, value) {
  const line = rates.get(key) ?? [];
  line.push(value);
  rates.set(key, line.slice(-KEPT));
}

/**
 * Put the answers together; `lag` is null where the broker did not answer.
 *
 * A handler gets `key`, `lag` (its group's entry or null), `places` (its processes) and `health` ({text, tone}).
 */
export function combine(status, topology, lag) {
  const groups = new Map((lag?.groups ?? []).map((group) => [nameOf(group), group]));
  const handlers = topology.handlers.map((handler) => {
    const group = groups.get(nameOf(handler)) ?? groups.get(nameOf({ ...handler, handler: null })) ?? null;
    const places = status.processes.filter((each) => isFor(each, handler));
    return { ...handler, key: nameOf(handler), lag: group, places, health: healthOf(handler, places) };
  });
  const total = handlers.reduce((sum, handler) => sum + (handler.rate ?? 0), 0);
  note("", total);
  for (const handler of handlers) note(handler.key, handler.rate ?? 0);
  const delays = handlers.map((handler) => handler.lag?.watermark_delay_seconds ?? null).filter((each) => each !== null);
  return {
    status,
    topology,
    handlers,
    rate: total,
    lag: lag?.lag ?? null,
    lagSeconds: lag?.lag_seconds ?? null,
    delay: delays.length ? Math.max(...delays) : null,
    hasWindows: handlers.some((handler) => handler.window !== null),
  };
}

function isFor(process, handler) {
  const place = process.place.slice(0, process.place.lastIndexOf("#"));
  return place === "in-process" || place === `${handler.topic}/${handler.group}`;
}

const TONES = { running: "ok", starting: "warn", draining: "warn", paused: "warn", stalled: "bad", crashing: "bad" };
const WORST_FIRST = ["crashing", "stalled", "starting", "draining", "paused", "running"];
const LONG_MS = 10_000;

/** How a process is, in a word. */
export const healthOfProcess = (process) => ({ text: process.state, tone: TONES[process.state] ?? "idle" });

function healthOf(handler, places) {
  const states = places.map((each) => each.state);
  const worst = WORST_FIRST.find((state) => states.includes(state));
  if (worst === undefined) return { text: "no process", tone: "bad" };
  if (worst !== "running") {
    const running = states.filter((state) => state === "running").length;
    return { text: running ? `${worst}, ${running} of ${states.length} run` : worst, tone: TONES[worst] };
  }
  if (handler.busy_ms >= LONG_MS) return { text: `at a batch for ${Math.round(handler.busy_ms / 1_000)} s`, tone: "warn" };
  return { text: "running", tone: "ok" };
}
