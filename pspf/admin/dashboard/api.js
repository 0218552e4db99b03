// Talking to the worker: the token, questions and commands.

import { askForToken } from "./token.js";

const KEPT_AS = "pspf-token";
const PATIENCE_MS = 8_000;

/** What the worker refused, or why it could not be asked (`status` 0). The message is for people. */
export class Trouble extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Take the token out of the address, so that it gets into no history, bookmark or screenshot. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  keepToken(given);
  history.replaceState(null, "", location.pathname + location.search);
}

/** Where the browser keeps nothing for pages, the token lasts as long as the page. */
let token = null;
try {
  token = sessionStorage.getItem(KEPT_AS);
} catch {
  token = null;
}

function keepToken(value) {
  token = value;
  try {
    if (value === null) sessionStorage.removeItem(KEPT_AS);
    else sessionStorage.setItem(KEPT_AS, value);
  } catch {
    token = value;
  }
}

async function request(method, path, body) {
  const headers = {};
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch {
    throw new Trouble(0, "the worker does not answer");
  }
  const answer = await response.json().catch(() => ({}));
  // /ready and /health say 503 with a whole answer; everything else that fails has an `error`.
  if (!response.ok) throw new Trouble(response.status, answer.error ?? `${path}: status ${response.status}`);
  return answer;
}

/** Ask, again with another token where the one there is does not do; who gives up gets the refusal. */
async function authorized(method, path, body) {
  for (;;) {
    const used = token;
    try {
      return await request(method, path, body);
    } catch (error) {
      if (!(error instanceof Trouble) || error.status !== 401) throw error;
      if (token !== used) continue; // another request has asked meanwhile
      const given = await askForToken(used !== null);
      if (given === null) throw error;
      keepToken(given);
    }
  }
}

export const get = (path) => authorized("GET", path);
export const post = (path, body = {}) => authorized("POST", path, body);

/** Make a path with a query; what is null or undefined is left out. */
export function withQuery(path, query) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  return pairs.length ? `${path}?${new URLSearchParams(pairs)}` : path;
}
