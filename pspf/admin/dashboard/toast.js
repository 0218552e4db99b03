// A line at the foot of the page that says how a command went, for some seconds.

import { byId, setText } from "./dom.js";

const SHOWN_MS = 5_000;

let timer = 0;

export function tell(text) {
  const toast = byId("toast");
  setText(toast, text);
  toast.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => {
    toast.hidden = true;
  }, SHOWN_MS);
}

/** Do something that a button stands for: the button waits, and a refusal is shown. Return whether it was done. */
export async function doing(button, act) {
  button.disabled = true;
  try {
    tell(await act());
    return true;
  } catch (error) {
    tell(error.message);
    return false;
  } finally {
    button.disabled = false;
  }
}
