// Formulas between $ or $$, \( \) or \[ \], as rules of markdown-it, and how KaTeX draws them.

import "../vendor/katex/katex.min.js";
import { element } from "./dom.js";

const PAIRS = [["$$", "$$", true], ["\\[", "\\]", true], ["\\(", "\\)", false], ["$", "$", false]];
const OPTIONS = { throwOnError: false, strict: "ignore", trust: false, maxSize: 30, maxExpand: 300 };

/** Teach a parser formulas. */
export function addMath(parser) {
  parser.inline.ruler.before("escape", "math", inlineRule);
  parser.block.ruler.before("fence", "math_block", blockRule,
    { alt: ["paragraph", "reference", "blockquote", "list"] });
}

/** Draw a formula. */
export function formula(text, display) {
  const drawn = element(display ? "div" : "span", { className: display ? "formula" : "" });
  if (display) drawn.tabIndex = 0;
  globalThis.katex.render(text, drawn, { ...OPTIONS, displayMode: display });
  return drawn;
}

function inlineRule(state, silent) {
  const rest = state.src.slice(state.pos);
  const pair = PAIRS.find(([open]) => rest.startsWith(open));
  if (!pair) return false;
  const [open, close, display] = pair;
  const end = closing(rest, open, close);
  if (end < 0) return false;
  if (!silent) push(state, "math", rest.slice(open.length, end), display);
  state.pos += end + close.length;
  return true;
}

/** Find the end of a formula; -1 if the text is none. A single $ may also be money. */
function closing(text, open, close) {
  let at = open.length;
  for (;;) {
    const end = text.indexOf(close, at);
    if (end < 0) return -1;
    at = end + close.length;
    if (close.startsWith("$") && text[end - 1] === "\\") continue;
    const content = text.slice(open.length, end);
    if (!content.trim()) return -1;
    if (open !== "$") return end;
    const tight = !/^\s|\s$|\n\n/.test(content);
    return tight && !/[0-9]/.test(text[at] ?? "") ? end : -1;
  }
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
