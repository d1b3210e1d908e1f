// Conversations as files.

import { download } from "./dom.js";
import { partsOf } from "./thinking.js";

/** Save a conversation as Markdown. */
export function exportChat(chat, model) {
  const parts = chat.messages.map((message) => {
    const who = message.role === "user" ? "You" : message.model || model || "Answer";
    const end = message.cut ? `\n\n*(${message.cut})*` : "";
    return `## ${who}\n\n${partsOf(message).text}${end}\n`;
  });
  download(`${fileName(chat.title)}.md`, "text/markdown", `# ${chat.title}\n\n${parts.join("\n")}`);
}

/** Save all conversations as JSON. */
export function exportAll(chats) {
  const day = new Date().toISOString().slice(0, 10);
  download(`dllama-${day}.json`, "application/json", JSON.stringify(chats, null, 1));
}

function fileName(title) {
  return title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation";
}
