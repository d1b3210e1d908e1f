// The conversation on the screen.

import { answer, runningIn, startAnswers, stopAnswer } from "./answer.js";
import { getChat, newChat, saveChat } from "./chats.js";
import { $, element } from "./dom.js";
import { AnswerView, userView } from "./message_view.js";
import { samplingFields } from "./settings.js";
import { toast } from "./toast.js";

const NEAR = 80; // pixels from the end within which the view follows a growing answer
const LAST = "dllama.current";
let chat = newChat();
let views = new Map(); // message -> its view, which has an `item`
let drawing = false;
let cost = 0; // milliseconds that drawing a growing answer took
const divider = element("li", { className: "divider" });
let changed = () => {};

export const currentId = () => chat.id;
export const isRunning = () => Boolean(runningIn(chat));
export const stopChat = (id = chat.id) => stopAnswer({ id });

/** Show the conversation that was shown last in this tab; call `whenChanged` when another is shown. */
export function startConversation(whenChanged) {
  changed = whenChanged;
  startAnswers({ grew, ended });
  let id = null;
  try { id = sessionStorage.getItem(LAST); } catch { /* not kept */ }
  show(getChat(id) ?? newChat());
  $("scroll").addEventListener("scroll", () => { $("down").hidden = nearEnd(); });
  $("down").addEventListener("click", toEnd);
}

export function openChat(id) {
  const found = getChat(id);
  if (!found) return;
  show(found);
  if (matchMedia("(hover: hover)").matches) $("prompt").focus(); // else a keyboard would come up
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
  views = new Map();
  remember();
  draw();
  toEnd();
}

function remember() {
  try { sessionStorage.setItem(LAST, chat.id); } catch { /* not kept */ }
}

/** Show all messages; views of those that are there already stay. */
function draw() {
  const old = views;
  views = new Map();
  const items = chat.messages.flatMap((message, index) => {
    const view = old.get(message) ?? makeView(message);
    views.set(message, view);
    view.settle?.(index === chat.messages.length - 1);
    view.item.classList.toggle("left-out", index < chat.from);
    return index === chat.from && index > 0 ? [leftOut(index), view.item] : [view.item];
  });
  place($("log"), items);
  $("empty").hidden = chat.messages.length > 0;
  changed();
}

function makeView(message) {
  if (message.role === "user") return { item: userView(message, (text) => edit(message, text)) };
  const view = new AnswerView(message, { regenerate, goOn: () => answer(chat, message) });
  const job = runningIn(chat);
  if (job?.message === message) view.show(true, job.status);
  else view.finish();
  return view;
}

/** Make items the children of a list, and touch only what differs: it may be read aloud. */
function place(list, items) {
  items.forEach((item, index) => {
    const there = list.children[index];
    if (there !== item) list.insertBefore(item, there ?? null);
  });
  while (list.children.length > items.length) list.lastChild.remove();
}

function leftOut(count) {
  const what = count === 1 ? "message above is" : `${count} messages above are`;
  const text = `The context is full: the ${what} left out`;
  if (divider.textContent !== text) divider.textContent = text;
  return divider;
}

/** Draw a growing answer, at most once in each frame, and less often if drawing it takes long. */
function grew(where, message) {
  if (where !== chat) return;
  if (!views.has(message)) { draw(); toEnd(); }
  if (drawing) return;
  drawing = true;
  setTimeout(() => requestAnimationFrame(drawGrowing), 3 * cost);
}

function drawGrowing() {
  const begin = performance.now();
  drawing = false;
  const job = runningIn(chat);
  if (!job || !views.has(job.message)) return;
  const follow = nearEnd();
  views.get(job.message).show(true, job.status);
  if (follow) toEnd();
  cost = performance.now() - begin;
}

function ended(where, message) {
  if (where !== chat) return;
  const follow = nearEnd();
  views.get(message)?.finish();
  draw();
  if (follow) toEnd();
  if (document.activeElement === document.body) $("prompt").focus(); // the button that had it is gone
}

function edit(message, text) {
  const index = chat.messages.indexOf(message);
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
  if (!samplingFields()) return;
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

function nearEnd() {
  const box = $("scroll");
  return box.scrollHeight - box.scrollTop - box.clientHeight < NEAR;
}

function toEnd() { $("scroll").scrollTop = $("scroll").scrollHeight; }
