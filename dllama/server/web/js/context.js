// Which messages the model sees: when the context is full, the oldest turns are left out.

const CHARACTERS = 3; // of a token, as long as no answer has told
const KEPT = 0.5; // of the context after turns were left out: the next ones need not go at once

/** Return how many characters of these messages the model sees. */
export function sizeOf(messages, system) {
  return messages.reduce((sum, { content }) => sum + content.length, system.length);
}

/** Learn how many characters a token has from what the server counted. */
export function learn(chat, size, tokens) {
  if (size > 0 && tokens > 0) chat.perToken = Math.min(8, Math.max(0.5, size / tokens));
}

/**
 * Move `chat.from` on so that there is room for an answer.
 * @param {number} context tokens that it holds; 0 if unknown.
 * @param {number} room tokens that an answer takes; 0 for a usual one.
 */
export function fit(chat, system, context, room) {
  if (!context) return;
  const tokens = () => sizeOf(chat.messages.slice(chat.from), system) / (chat.perToken ?? CHARACTERS);
  const wanted = Math.min(room || context / 4, context / 2);
  if (tokens() <= context - wanted) return;
  while (tokens() > context * KEPT && dropTurn(chat));
}

/** Leave out the oldest turn; false if only the last one is left. */
export function dropTurn(chat) {
  const next = chat.messages.findIndex(({ role }, index) => index > chat.from && role === "user");
  if (next < 0) return false;
  chat.from = next;
  return true;
}
