// The conversation on the screen.

import { answer, runningIn, startAnswers, stopAnswer } from "./answer.js";
import { getChat, newChat, saveChat } from "./chats.js";
import { $, element } from "./dom.js";
import { AnswerView, userView } from "./message_view.js";
import { toast } from "./toast.js";

const NEAR = 80; // pixels from the end within which the view follows a growing answer
const LAST = "dllama.current";
let chat = newChat();
let views = new Map(); // message -> AnswerView
let drawing = false;
let changed = () => {};

export const currentId = () => chat.id;
export const isRunning = () => Boolean(runningIn(chat));
export const stop = () => stopAnswer(chat);

/** Show the conversation that was shown last in this tab; call `whenChanged` when another is shown. */
export function startConversation(whenChanged) {
  changed = whenChanged;
  startAnswers({ grew, ended });
  let id = null;
  try { id = sessionStorage.getItem(LAST); } catch { /* not kept */ }
  show(getChat(id) ?? newChat());
}

export function openChat(id) {
  const found = getChat(id);
  if (found) show(found);
}

export function beginChat() {
  show(newChat());
  $("prompt").focus();
}

/** Show again what another window changed. */
export function refreshChat(id) {
  if (id !== chat.id || runningIn(chat)) return;
  const found = getChat(id);
  if (found) show(found);
  else beginChat();
}

/** Send a message of the user. */
export function say(text) {
  chat.messages.push({ role: "user", content: text });
  saveChat(chat);
  remember();
  answer(chat);
}

function show(given) {
  chat = given;
  remember();
  draw();
  toEnd();
}

function remember() {
  try { sessionStorage.setItem(LAST, chat.id); } catch { /* not kept */ }
}

/** Show all messages. */
function draw() {
  views = new Map();
  const items = chat.messages.map((message, index) => {
    const item = message.role === "user"
      ? userView(message, (text) => edit(index, text))
      : answerItem(message, index === chat.messages.length - 1);
    if (index < chat.from) item.classList.add("left-out");
    return index === chat.from && index > 0 ? [leftOut(index), item] : [item];
  });
  $("log").replaceChildren(...items.flat());
  $("empty").hidden = chat.messages.length > 0;
  changed();
}

function answerItem(message, last) {
  const view = new AnswerView(message, { regenerate, goOn });
  views.set(message, view);
  const job = runningIn(chat);
  if (job?.message === message) view.show(true, job.status);
  else view.finish(last);
  return view.item;
}

function leftOut(count) {
  const what = count === 1 ? "1 message" : `${count} messages`;
  return element("li", { className: "divider" }, `The context is full: the ${what} above are left out`);
}

/** Draw a growing answer, at most once in each frame. */
function grew(where, message) {
  if (where !== chat) return;
  if (!views.has(message)) { draw(); toEnd(); }
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const job = runningIn(chat);
    if (!job || !views.has(job.message)) return;
    const follow = nearEnd();
    views.get(job.message).show(true, job.status);
    if (follow) toEnd();
  });
}

function ended(where) {
  if (where !== chat) return;
  const follow = nearEnd();
  draw();
  if (follow) toEnd();
}

function edit(index, text) {
  replace(index + 1, "The messages after it were replaced", () => {
    chat.messages[index] = { role: "user", content: text };
  });
}

function regenerate() {
  const last = chat.messages.length - 1;
  replace(last, chat.messages[last].content && "The answer was replaced", () => {});
}

/** Drop the messages from `index` on and answer again; `note` offers to undo that. */
async function replace(index, note, change) {
  const before = [...chat.messages];
  const where = chat;
  stopAnswer(chat);
  await idle(where);
  change();
  where.messages = where.messages.slice(0, index);
  if (index <= where.from) where.from = 0;
  answer(where);
  if (note && before.length > index) toast(note, "Undo", () => undo(where, before));
}

async function undo(where, before) {
  stopAnswer(where);
  await idle(where);
  where.messages = before;
  saveChat(where);
  if (where === chat) draw();
}

/** Wait until a stopped answer has ended. */
async function idle(where) {
  while (runningIn(where)) await new Promise((resolve) => { setTimeout(resolve, 10); });
}

function goOn() {
  answer(chat, chat.messages.at(-1));
}

function nearEnd() {
  const box = $("scroll");
  return box.scrollHeight - box.scrollTop - box.clientHeight < NEAR;
}

function toEnd() { $("scroll").scrollTop = $("scroll").scrollHeight; }
