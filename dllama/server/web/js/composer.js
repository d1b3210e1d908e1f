// Where the user writes.

import { isRunning, say, stopChat } from "./conversation.js";
import { $, fitHeight } from "./dom.js";
import { samplingFields } from "./settings.js";

const DRAFT = "dllama.draft";

export function startComposer() {
  const box = $("prompt");
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  box.value = kept();
  fitHeight(box);
  box.addEventListener("input", () => { fitHeight(box); keep(box.value); });
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("stop").addEventListener("click", () => stopChat());
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !event.defaultPrevented) stopChat(); });
}

// What was not sent yet is kept in the tab.
function kept() {
  try { return sessionStorage.getItem(DRAFT) ?? ""; } catch { return ""; }
}

function keep(text) {
  try { sessionStorage.setItem(DRAFT, text); } catch { /* not kept */ }
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
  keep("");
  fitHeight(box);
  say(text);
}
