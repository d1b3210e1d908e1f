// A short message at the lower edge, with something that can be done about it.

import { $, button } from "./dom.js";

const SECONDS = 8;
let timer;

export function toast(text, label = "", action = () => {}) {
  clearTimeout(timer);
  const box = $("toast");
  const hide = () => { box.hidden = true; };
  box.replaceChildren(text);
  if (label) box.append(button(label, () => { hide(); action(); }));
  box.hidden = false;
  timer = setTimeout(hide, SECONDS * 1000);
}
