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
 * A handler gets `key`, `lags` (the entries of its groups: one, and one more behind a repartition), `behind` (their lag
 * together), `delay` (of its watermark, in seconds), `places` (its processes) and `health` ({text, tone}).
 */
export function combine(status, topology, lag) {
  const groups = new Map((lag?.groups ?? []).map((group) => [nameOf(group), group]));
  const handlers = topology.handlers.map((each) => {
    const handler = withHop(each, status);
    const own = groups.get(nameOf(handler)) ?? groups.get(nameOf({ ...handler, handler: null }));
    const lags = [own, ...[...groups.values()].filter((group) => isHopOf(group, handler))].filter(Boolean);
    const places = status.processes.filter((process) => isFor(process, handler));
    const behind = lags.length && lags.every((group) => isKnown(group.lag)) ? lags.reduce((sum, group) => sum + group.lag, 0) : null;
    return {
      ...handler,
      key: nameOf(handler),
      lags,
      behind,
      delay: most(lags.map((group) => group.watermark_delay_seconds)),
      places,
      health: asFarAsKnown(healthOf(handler, places), behind, status),
    };
  });
  const total = handlers.reduce((sum, handler) => sum + (handler.rate ?? 0), 0);
  note("", total);
  for (const handler of handlers) note(handler.key, handler.rate ?? 0);
  return {
    status,
    topology,
    handlers,
    rate: total,
    lag: lag?.lag ?? null,
    lagSeconds: lag?.lag_seconds ?? null,
    delay: most(handlers.map((handler) => handler.delay)),
    hasWindows: handlers.some((handler) => handler.window !== null),
  };
}

const isKnown = (value) => value !== null && value !== undefined;

/** The largest of the numbers that are known, null where none is. */
function most(values) {
  const known = values.filter(isKnown);
  return known.length ? Math.max(...known) : null;
}

/** Whether an entry is of the hop by which a windowed handler brings records to the partition of their key. */
const isHopOf = (entry, { topic, group, handler }) =>
  entry.topic.endsWith(".repartition") && entry.topic !== topic && entry.group === group && entry.handler === handler;

/** Return a handler with what it does behind its hop, where it has one; the hop itself is no topic of the app's. */
function withHop(handler, status) {
  const behind = status.processes.flatMap((each) => each.subscriptions).filter((each) => isHopOf(each, handler));
  const sum = (name) => behind.reduce((total, each) => total + (each[name] ?? 0), handler[name] ?? 0);
  const counts = Object.fromEntries(["rate", "processed", "failed", "dead"].map((name) => [name, sum(name)]));
  const hops = behind.map((each) => each.topic);
  return { ...handler, ...(behind.length ? counts : {}), emits: handler.emits.filter((topic) => !hops.includes(topic)) };
}

function isFor(process, handler) {
  const place = process.place.slice(0, process.place.lastIndexOf("#"));
  return place === "in-process" || place === `${handler.topic}/${handler.group}`;
}

const TONES = { running: "ok", starting: "warn", draining: "warn", paused: "warn", stalled: "bad", crashing: "bad" };
const WORST_FIRST = ["crashing", "stalled", "starting", "draining", "paused", "running"];
const LONG_MS = 10_000;

/** How a process is, in a word. */
export const healthOfProcess = (process, status) =>
  asFarAsKnown({ text: process.state, tone: TONES[process.state] ?? "idle" }, 0, status);

/** What looks well is shown as well only where the broker answers and the lag is known. */
export function asFarAsKnown(health, lag, status) {
  if (health.tone !== "ok") return health;
  if (status.broker?.connected === false) return { text: "waits for the broker", tone: "warn" };
  return isKnown(lag) ? health : { ...health, tone: "idle" };
}

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
