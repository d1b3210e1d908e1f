// Where the user writes.

import { isRunning, say, stopChat } from "./conversation.js";
import { $, fitHeight } from "./dom.js";
import { samplingFields } from "./settings.js";

export function startComposer() {
  const box = $("prompt");
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  box.addEventListener("input", () => fitHeight(box));
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("stop").addEventListener("click", () => stopChat());
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !event.defaultPrevented) stopChat(); });
}

/** Show whether an answer is being generated. */
export function showRunning() {
  const running = isRunning();
  $("stop").hidden = !running;
  $("send").hidden = running;
  $("talk").setAttribute("aria-busy", String(running));
}

function send() {
  const box = $("prompt");
  const text = box.value.trim();
  if (!text || isRunning() || !samplingFields()) return;
  box.value = "";
  fitHeight(box);
  say(text);
}
