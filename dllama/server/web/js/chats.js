// The conversations: which there are, and what happens to them.
//
// A conversation is {id, title, updated, from, messages}. The model sees the messages from `from` on.
// A message is {role, content}; an answer may also have reasoning, note, and cut (why it is not whole).

import { erase, readAll, readOne, write } from "./store.js";

const chats = new Map();
const channel = globalThis.BroadcastChannel && new BroadcastChannel("dllama");
let listener = { changed() {}, broken() {}, busy() {} };

/**
 * Read all conversations.
 *
 * `changed(id)` is called when one changes, `broken(error)` if none are kept; `busy(id)` says whether
 * one is being answered here, so that other windows do not change it.
 */
export async function startChats(given) {
  listener = given;
  try {
    for (const chat of await readAll()) chats.set(chat.id, recovered(chat));
  } catch (error) { listener.broken(error); }
  channel?.addEventListener("message", ({ data }) => followOtherWindow(data));
  listener.changed(null);
}

export const getChat = (id) => chats.get(id);
export const allChats = () => [...chats.values()].sort((a, b) => b.updated - a.updated);

/** Return the conversations with a text in title or messages, the newest first. */
export function findChats(text) {
  const wanted = text.trim().toLowerCase();
  const has = (part) => part.toLowerCase().includes(wanted);
  return allChats().filter((chat) => has(chat.title) || chat.messages.some((one) => has(one.content)));
}

export function newChat() {
  const id = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`;
  return { id, title: "", updated: Date.now(), from: 0, messages: [] };
}

/** Keep a conversation as it is now. */
export function saveChat(chat, touch = true) {
  if (touch) chat.updated = Date.now();
  chat.title ||= titleOf(chat);
  chats.set(chat.id, chat);
  listener.changed(chat.id);
  return write(chat).then(() => channel?.postMessage(chat.id), listener.broken);
}

export function deleteChat(id) {
  chats.delete(id);
  listener.changed(id);
  return erase(id).then(() => channel?.postMessage(id), listener.broken);
}

function titleOf(chat) {
  const first = chat.messages.find((message) => message.role === "user")?.content ?? "";
  const line = first.trim().split("\n")[0];
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

/** An answer that was still coming when its page was closed is cut. */
function recovered(chat) {
  for (const message of chat.messages) {
    if (message.cut === "running") message.cut = "cut when the page was closed";
  }
  return chat;
}

async function followOtherWindow(id) {
  if (listener.busy(id)) return;
  const chat = await readOne(id);
  if (chat) chats.set(id, chat);
  else chats.delete(id);
  listener.changed(id, true);
}
