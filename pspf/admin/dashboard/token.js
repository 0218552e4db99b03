// The dialog that asks for the token, once for all requests that need it.

import { byId, setText } from "./dom.js";

let asking = null;

/** Return what was typed, null where nothing was; all who ask at the same time get the same answer. */
export function askForToken(wasWrong) {
  asking ??= ask(wasWrong).finally(() => {
    asking = null;
  });
  return asking;
}

function ask(wasWrong) {
  const dialog = byId("ask");
  const input = byId("ask-token");
  setText(byId("ask-title"), wasWrong ? "That is not this worker's token" : "This needs the worker's token");
  input.value = "";
  return new Promise((resolve) => {
    let answer = null;
    byId("ask-form").onsubmit = (event) => {
      event.preventDefault();
      answer = input.value.trim() || null;
      dialog.close();
    };
    byId("ask-cancel").onclick = () => dialog.close();
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
    input.focus();
  });
}
