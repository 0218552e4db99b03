// Numbers, spans and times for people. What is not known is a dash.

const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const TENTH = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });
const SHORT = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

export const NOT_KNOWN = "–";

const isKnown = (value) => value !== null && value !== undefined;

/** 1,204 */
export const count = (value) => (isKnown(value) ? WHOLE.format(value) : NOT_KNOWN);

/** 1,204 up to a hundred thousand, then 1.2M */
export const roughly = (value) => (isKnown(value) ? (value < 100_000 ? WHOLE : SHORT).format(value) : NOT_KNOWN);

/** 0.4, 12.5, 1,204: events a second */
export const rate = (value) => (isKnown(value) ? (value < 100 ? TENTH : value < 100_000 ? WHOLE : SHORT).format(value) : NOT_KNOWN);

/** 5 records, 1 record */
export const countOf = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;

/** 812 ms, 3.2 s, 5 min, 2.0 h, 7 d */
export function span(ms) {
  if (!isKnown(ms)) return NOT_KNOWN;
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${(ms / 3_600_000).toFixed(1)} h`;
  return `${WHOLE.format(ms / 86_400_000)} d`;
}

/** The same of seconds. */
export const seconds = (value) => span(isKnown(value) ? value * 1_000 : null);

/** 3 s ago; the clocks of the two machines may differ, so never in the future. Coarse, to keep the page calm. */
export function ago(atMs, nowMs) {
  if (!isKnown(atMs)) return NOT_KNOWN;
  const ms = Math.max(0, nowMs - atMs);
  if (ms < 2_000) return "just now";
  return `${ms < 120_000 ? `${Math.round(ms / 1_000)} s` : span(ms)} ago`;
}

/** 2026-11-22 23:04:11 in the reader's own zone */
export function time(atMs) {
  const date = new Date(atMs);
  if (!isKnown(atMs) || Number.isNaN(date.getTime())) return NOT_KNOWN;
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
