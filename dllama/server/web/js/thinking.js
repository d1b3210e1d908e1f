// What a model thinks before it answers: a field of its own, or marked in the text.

const OPEN = "<think>";
const CLOSE = "</think>";

/**
 * Split the text of an answer.
 *
 * Some chat templates open the part themselves, so that only its end is in the text.
 * @returns {{thoughts: string, text: string, open: boolean}} open: the thinking has not ended.
 */
export function splitThinking(content) {
  const begun = content.trimStart();
  const marked = begun.startsWith(OPEN);
  const end = content.indexOf(CLOSE);
  if (end < 0) {
    if (marked) return { thoughts: begun.slice(OPEN.length).trim(), text: "", open: true };
    // A stream may have brought half of the mark.
    const half = begun.length > 0 && OPEN.startsWith(begun);
    return { thoughts: "", text: half ? "" : content, open: false };
  }
  const before = content.slice(0, end);
  const thoughts = marked ? before.trimStart().slice(OPEN.length) : before;
  return { thoughts: thoughts.trim(), text: content.slice(end + CLOSE.length).trimStart(), open: false };
}

/** Return thoughts and text of a message, wherever the thoughts are. */
export function partsOf({ content, reasoning = "" }) {
  const { thoughts, text, open } = splitThinking(content);
  const all = [reasoning.trim(), thoughts].filter(Boolean).join("\n\n");
  return { thoughts: all, text, thinking: open || (reasoning !== "" && content === "") };
}
