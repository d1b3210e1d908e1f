// Blocks of code, with their colours and a button that copies them.

import hljs from "../vendor/highlight/highlight.min.js";
import { copyButton, element } from "./dom.js";

const MOST = 40000; // characters that are coloured: more would make streams slow
const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'" };

/** Make a block of code; the language may be empty or unknown. */
export function codeBlock(text, language) {
  const code = element("code");
  if (hljs.getLanguage(language) && text.length < MOST) code.append(coloured(text, language));
  else code.append(text);
  const head = element("div", { className: "code-head" },
    element("span", {}, language), copyButton(() => text, "quiet"));
  const attributes = { role: "region", "aria-label": `code ${language}`.trim() };
  const box = element("pre", { tabIndex: 0, attributes }, code);
  return element("div", { className: "code" }, head, box);
}

/** Turn the spans of highlight.js into elements. Its output has no other tags. */
function coloured(text, language) {
  const { value } = hljs.highlight(text, { language, ignoreIllegals: true });
  const open = [document.createDocumentFragment()];
  for (const part of value.split(/(<span class="[^"]*">|<\/span>)/)) {
    if (part === "</span>") open.pop();
    else if (part.startsWith("<span ")) {
      const span = element("span", { className: part.slice(13, -2) });
      open.at(-1).append(span);
      open.push(span);
    } else open.at(-1).append(part.replace(/&(?:amp|lt|gt|quot|#x27);/g, (name) => ENTITIES[name]));
  }
  return open[0];
}
