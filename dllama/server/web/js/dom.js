// Elements made by hand. Text becomes text nodes, never HTML.

export const $ = (id) => document.getElementById(id);

/** Make an element: properties as they are, `attributes` and `on` (listeners) by name. */
export function element(tag, { attributes = {}, on = {}, ...properties } = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  made.append(...children);
  return made;
}

/** Make one of the icons that the page defines. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const made = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  made.setAttribute("aria-hidden", "true");
  made.append(use);
  return made;
}

/** Make a button with a text, which is also its name. */
export function button(text, click, className = "") {
  return element("button", { type: "button", className, on: { click } }, text);
}

/** Make a button that shows an icon and has a name. */
export function iconButton(name, label, click) {
  const attributes = { "aria-label": label, title: label };
  return element("button", { type: "button", className: "icon", attributes, on: { click } }, icon(name));
}

/** Make a text area as high as its text. */
export function fitHeight(box) {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

/** Put a text into the clipboard; browsers allow the modern way only on secure origins. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const box = element("textarea", { value: text, className: "unseen" });
  document.body.append(box);
  box.select();
  const copied = document.execCommand("copy");
  box.remove();
  if (!copied) throw new Error("this browser does not allow it");
}

/** Make a button that copies what `text()` returns. */
export function copyButton(text, className = "") {
  const made = button("Copy", async () => {
    try { await copy(text()); made.textContent = "Copied"; }
    catch { made.textContent = "Cannot copy"; }
    setTimeout(() => { made.textContent = "Copy"; }, 1500);
  }, className);
  return made;
}

/** Let the browser save a text as a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
