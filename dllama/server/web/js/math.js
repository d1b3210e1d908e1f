// Formulas between $ or $$, \( \) or \[ \], as rules of markdown-it, and how KaTeX draws them.

import "../vendor/katex/katex.min.js";
import { element } from "./dom.js";

const PAIRS = [["$$", "$$", true], ["\\[", "\\]", true], ["\\(", "\\)", false], ["$", "$", false]];
const OPTIONS = { strict: "ignore", trust: false, maxSize: 30, maxExpand: 300 };

/** Teach a parser formulas. */
export function addMath(parser) {
  parser.inline.ruler.before("escape", "math", inlineRule);
  parser.block.ruler.before("fence", "math_block", blockRule,
    { alt: ["paragraph", "reference", "blockquote", "list"] });
}

/** Draw a formula; one that KaTeX does not understand stays text. */
export function formula(text, display) {
  const drawn = element(display ? "div" : "span", { className: display ? "formula" : "" });
  if (display) drawn.tabIndex = 0;
  try { globalThis.katex.render(text, drawn, { ...OPTIONS, displayMode: display }); }
  catch (error) { drawn.replaceChildren(element("code", { title: error.message }, text.trim())); }
  return drawn;
}

function inlineRule(state, silent) {
  const pair = PAIRS.find(([open]) => state.src.startsWith(open, state.pos));
  if (!pair) return false;
  const [open, close, display] = pair;
  const begin = state.pos + open.length;
  const end = closing(state, begin, close);
  const content = end < 0 ? "" : state.src.slice(begin, end);
  if (!content.trim() || (open === "$" && isMoney(content, state.src[end + 1]))) return false;
  if (!silent) push(state, "math", content, display);
  state.pos = end + close.length;
  return true;
}

/** Find the end of a formula, -1 if there is none; `state` remembers that, for texts with many beginnings. */
function closing(state, begin, close) {
  state.unclosed ??= new Set();
  if (state.unclosed.has(close)) return -1;
  let end = state.src.indexOf(close, begin);
  while (close.startsWith("$") && state.src[end - 1] === "\\") end = state.src.indexOf(close, end + 1);
  if (end < 0) state.unclosed.add(close);
  return end;
}

/** Whether single dollars are no marks of a formula: it has no spaces inside them, and no digit follows. */
function isMoney(content, next = "") {
  return /^\s|\s$/.test(content) || /[0-9]/.test(next);
}

/** Lines from one that begins with $$ or \[ to one that ends with the counterpart. */
function blockRule(state, first, last, silent) {
  const line = (number) => state.src.slice(state.bMarks[number] + state.tShift[number], state.eMarks[number]);
  const begin = line(first);
  const pair = PAIRS.find(([open, , display]) => display && begin.startsWith(open));
  if (!pair || state.sCount[first] - state.blkIndent >= 4) return false;
  const [open, close] = pair;
  const lines = [begin.slice(open.length)];
  let next = first + 1;
  while (!lines.at(-1).trimEnd().endsWith(close)) {
    if (next >= last) return false;
    lines.push(line(next++));
  }
  if (silent) return true;
  const token = push(state, "math_block", lines.join("\n").trimEnd().slice(0, -close.length), true);
  token.map = [first, next];
  state.line = next;
  return true;
}

function push(state, type, content, display) {
  const token = state.push(type, "", 0);
  Object.assign(token, { content, meta: { display }, block: type === "math_block" });
  return token;
}
