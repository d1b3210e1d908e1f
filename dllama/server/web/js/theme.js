// Dark or light: as the system is, until the button was used.

import { $ } from "./dom.js";

const NAME = "dllama.theme";

export function startTheme() {
  try { paint(localStorage.getItem(NAME)); } catch { /* not kept */ }
  $("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const next = (document.documentElement.dataset.theme ?? dark) === "dark" ? "light" : "dark";
    paint(next);
    try { localStorage.setItem(NAME, next); } catch { /* not kept */ }
  });
}

function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}
