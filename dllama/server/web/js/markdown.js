// Markdown as elements. What a model writes is never parsed as HTML: markdown-it gives tokens, and
// each kind of token becomes an element that this file makes.

import "../vendor/markdown-it/markdown-it.umd.min.js";
import { codeBlock } from "./code.js";
import { element } from "./dom.js";
import { addMath, formula } from "./math.js";

const parser = globalThis.markdownit({ html: false, linkify: true, breaks: false });
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
addMath(parser);

const SAFE = /^(https?|mailto):/i;
const ALIGN = /^text-align:(left|center|right)$/;

/** Show a text that grows: only blocks that changed are made again. */
export class Markdown {
  constructor(target) {
    this.target = target;
    this.sources = [];
  }

  show(text) {
    const lines = text.split("\n");
    const blocks = topLevel(parser.parse(text, {}));
    blocks.forEach((tokens, index) => {
      const [first, last] = tokens[0].map ?? [0, lines.length];
      const source = lines.slice(first, last).join("\n");
      if (this.sources[index] === source) return;
      this.sources[index] = source;
      const made = build(tokens, document.createDocumentFragment());
      const block = element("div", { className: "block" }, made);
      const old = this.target.children[index];
      if (old) old.replaceWith(block);
      else this.target.append(block);
    });
    this.sources.length = blocks.length;
    while (this.target.children.length > blocks.length) this.target.lastChild.remove();
  }
}

/** Split tokens into blocks. */
function topLevel(tokens) {
  const blocks = [];
  let depth = 0;
  for (const token of tokens) {
    if (depth === 0) blocks.push([]);
    blocks.at(-1).push(token);
    depth += token.nesting;
  }
  return blocks;
}

/** Append what tokens stand for. */
function build(tokens, root) {
  const open = [root];
  for (const token of tokens) {
    const parent = open.at(-1);
    if (token.nesting === 1) open.push(opened(token, parent));
    else if (token.nesting === -1) open.pop();
    else leaf(token, parent);
  }
  return root;
}

/** Append the element of an opening token, and return where its content goes. */
function opened(token, parent) {
  if (token.hidden) return parent;
  if (token.type === "link_open") return link(token.attrGet("href"), token.attrGet("title"), parent);
  const made = element(tagOf(token));
  if (token.type === "heading_open") made.className = `level${token.tag.slice(1)}`;
  if (token.type === "ordered_list_open") made.start = Number(token.attrGet("start") ?? 1);
  const align = ALIGN.exec(token.attrGet("style") ?? "");
  if (align) made.style.textAlign = align[1];
  if (token.type === "table_open") {
    parent.append(element("div", { className: "table", tabIndex: 0 }, made));
  } else parent.append(made);
  return made;
}

/** Headings of an answer come below those of the page. */
function tagOf(token) {
  return token.type === "heading_open" ? `h${Math.min(6, Number(token.tag.slice(1)) + 2)}` : token.tag;
}

/** Append a link if it leads where links may lead, else only its text. */
function link(address, title, parent) {
  const made = SAFE.test(address ?? "")
    ? element("a", { href: address, title: title ?? "", target: "_blank", rel: "noopener noreferrer" })
    : element("span");
  parent.append(made);
  return made;
}

const LEAVES = {
  inline: (token, parent) => { build(tasked(token, parent), parent); },
  text: (token, parent) => parent.append(token.content),
  softbreak: (token, parent) => parent.append("\n"),
  hardbreak: (token, parent) => parent.append(element("br")),
  hr: (token, parent) => parent.append(element("hr")),
  code_inline: (token, parent) => parent.append(element("code", {}, token.content)),
  code_block: (token, parent) => parent.append(codeBlock(token.content.replace(/\n$/, ""), "")),
  fence: (token, parent) => {
    const language = token.info.trim().split(/\s/)[0].toLowerCase();
    parent.append(codeBlock(token.content.replace(/\n$/, ""), language));
  },
  math: (token, parent) => parent.append(formula(token.content, token.meta.display)),
  math_block: (token, parent) => parent.append(formula(token.content, true)),
  // An image would be fetched from the network, and tell others of the conversation.
  image: (token, parent) => link(token.attrGet("src"), token.attrGet("title"), parent)
    .append(`image: ${token.content || token.attrGet("src")}`),
};

function leaf(token, parent) {
  (LEAVES[token.type] ?? LEAVES.text)(token, parent);
}

/** The parts of a text; `[ ]` and `[x]` at the beginning of a list item become a box. */
function tasked(token, parent) {
  const [first, ...rest] = token.children;
  const found = parent.nodeName === "LI" && /^\[([ xX])\] /.exec(first?.content ?? "");
  if (!found) return token.children;
  const checked = found[1] !== " ";
  parent.append(element("input", { type: "checkbox", disabled: true, checked,
    attributes: { "aria-label": checked ? "done" : "to do" } }), " ");
  first.content = first.content.slice(4);
  return [first, ...rest];
}
