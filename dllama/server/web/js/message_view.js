// How one message looks.

import { button, copyButton, element, fitHeight } from "./dom.js";
import { Markdown } from "./markdown.js";
import { partsOf } from "./thinking.js";

/** Make the view of a message of the user; `edited(text)` is called with a new text. */
export function userView(message, edited) {
  const text = element("div", { className: "text" }, message.content);
  const foot = element("div", { className: "foot" },
    button("Edit", () => edit(message, text, foot, edited), "quiet"),
    copyButton(() => message.content, "quiet"));
  return element("li", { className: "user" }, element("h2", { className: "unseen" }, "You"), text, foot);
}

function edit(message, text, foot, edited) {
  const box = element("textarea", { value: message.content, attributes: { "aria-label": "Edit the message" } });
  const close = () => { form.remove(); text.hidden = foot.hidden = false; };
  const save = () => {
    const typed = box.value.trim();
    close();
    if (typed) edited(typed);
  };
  const form = element("div", { className: "editor" }, box, element("div", { className: "foot" },
    button("Send", save, "primary"), button("Cancel", close, "quiet")));
  box.addEventListener("input", () => fitHeight(box));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); close(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); save(); }
  });
  text.hidden = foot.hidden = true;
  text.after(form);
  fitHeight(box);
  box.focus();
}

const BLOCKS = ".block, p, ul, ol, li, blockquote, h3, h4, h5, h6, .code, pre, pre > code";

/** Return the last block in the last block, and so on. */
function endOf(box) {
  const last = box.lastElementChild;
  return last?.matches(BLOCKS) ? endOf(last) : box;
}

/** The view of an answer, which may still be growing. */
export class AnswerView {
  /** `actions` are {regenerate(), goOn()}. */
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.thoughts = element("div", { className: "text" });
    this.summary = element("summary", {}, "Thinking");
    this.details = element("details", { className: "thinking", hidden: true }, this.summary, this.thoughts);
    this.text = element("div", { className: "text" });
    this.status = element("p", { className: "status", attributes: { role: "status" } });
    this.error = element("div", { className: "error", hidden: true, attributes: { role: "alert" } });
    this.foot = element("div", { className: "foot" });
    this.item = element("li", { className: "assistant" },
      element("h2", { className: "who" }, message.model || "Answer"),
      this.details, this.text, this.status, this.error, this.foot);
    this.markdown = new Markdown(this.text);
    this.thinking = new Markdown(this.thoughts);
  }

  /** Show the message as it is now; `status` says what a growing one waits for. */
  show(growing, status = "") {
    const { thoughts, text, thinking } = partsOf(this.message);
    this.item.classList.toggle("growing", growing);
    this.item.setAttribute("aria-busy", String(growing));
    this.details.hidden = !thoughts;
    const { thought } = this.message; // seconds, 0 if all came at once
    const done = thought === undefined ? "Thoughts" : `Thought for ${thought.toFixed(1)} s`;
    this.summary.textContent = growing && thinking ? "Thinking…" : done;
    this.thinking.show(thoughts);
    this.markdown.show(text);
    this.end?.classList.remove("end");
    if (growing) (this.end = endOf(this.text)).classList.add("end"); // where the caret is
    this.status.textContent = growing ? status : "";
    this.error.hidden = growing || !this.message.error;
    this.error.textContent = this.message.error ?? "";
    if (growing) this.foot.replaceChildren();
  }

  /** Show a message that has ended. */
  finish() {
    // Links may be defined at the end of a text, so all of it is made again.
    this.markdown = new Markdown(this.text);
    this.text.replaceChildren();
    this.show(false);
  }

  /** Show what can be done with a message; only the last one can go on or be made again. */
  settle(last) {
    const { cut, note, error, content } = this.message;
    this.foot.replaceChildren();
    if (this.item.classList.contains("growing")) return;
    if (content) this.foot.append(copyButton(() => partsOf(this.message).text, "quiet"));
    const { text, thinking } = partsOf(this.message);
    if (last && cut && cut !== "running" && text.trim() && !thinking) {
      this.foot.append(button("Continue", this.actions.goOn, "quiet"));
    }
    if (last) this.foot.append(button(error && !content ? "Try again" : "Regenerate", this.actions.regenerate, "quiet"));
    const elsewhere = cut === "running" ? "growing in another window" : cut;
    const notes = [elsewhere, note].filter(Boolean).join(" · ");
    if (notes) this.foot.append(element("span", { className: "note" }, notes));
  }
}
