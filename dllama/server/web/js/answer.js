// Answers that are being generated: at most one in each conversation.

import { ServerError, streamChat } from "./api.js";
import { getChat, saveChat } from "./chats.js";
import { dropTurn, fit, learn, sizeOf } from "./context.js";
import { samplingFields, systemPrompt } from "./settings.js";
import { contextLength, modelName } from "./status.js";
import { writeAtOnce } from "./store.js";

const SAVE = 400; // milliseconds between two times that a growing answer is kept
const running = new Map(); // conversation id -> {chat, message, controller, status}
let listener = { grew() {}, ended() {} };

/** Call `grew(chat, message)` and `ended(chat, message)`; keep answers when the page is closed. */
export function startAnswers(given) {
  listener = given;
  addEventListener("pagehide", () => {
    if (running.size) writeAtOnce([...running.values()].map(({ chat }) => chat));
  });
}

export const runningIn = (chat) => running.get(chat.id);
export const stopAnswer = (chat) => running.get(chat.id)?.controller.abort();
export const isAnswering = (id) => running.has(id);

/**
 * Generate an answer to a conversation.
 * @param {object} chat the conversation.
 * @param {object} message its last message, if that is to be continued; else there will be a new one.
 */
export async function answer(chat, message = null) {
  const sampling = samplingFields();
  if (!sampling || running.has(chat.id)) return;
  const made = message ?? { role: "assistant", content: "", reasoning: "" };
  if (!message) chat.messages.push(made);
  fit(chat, systemPrompt(), contextLength(), sampling.max_completion_tokens ?? 0);
  Object.assign(made, { cut: "running", error: "", note: "", model: modelName() });
  const job = { chat, message: made, controller: new AbortController(), status: "", saved: 0 };
  running.set(chat.id, job);
  listener.grew(chat, made);
  try { await generate(job, sampling, message !== null); } finally { running.delete(chat.id); }
  if (getChat(chat.id) === chat) saveChat(chat); // else it was deleted meanwhile
  listener.ended(chat, made);
}

/** Receive the answer, and say why it is not whole if it is not. */
async function generate(job, sampling, goesOn) {
  const { chat, message, controller } = job;
  try { message.cut = await receive(job, sampling, goesOn); }
  catch (error) {
    message.cut = controller.signal.aborted ? "stopped" : "cut by an error";
    if (controller.signal.aborted) return;
    if (error.code === "context_length_exceeded" && dropTurn(chat)) return generate(job, sampling, goesOn);
    message.error = error.message;
    if (!(error instanceof ServerError)) throw error;
  }
}

/** Add what the server sends to the message, and return why that ends early; "" if it does not. */
async function receive(job, sampling, goesOn) {
  const { chat, message } = job;
  const system = systemPrompt();
  const messages = requestMessages(chat, system, goesOn);
  const clock = { asked: performance.now(), first: 0 };
  let usage = null;
  let reason = "";
  const body = { messages, stream: true, stream_options: { include_usage: true }, ...sampling,
    ...(goesOn && { continue_final_message: true }) };
  for await (const { comment, data } of streamChat(body, job.controller.signal)) {
    if (comment) note(job, comment);
    usage = data?.usage ?? usage;
    const choice = data?.choices?.[0];
    if (!choice) continue;
    reason = choice.finish_reason ?? reason;
    if (take(message, choice.delta)) clock.first ||= performance.now();
    if (message.content === "" && clock.first) message.thought = (performance.now() - clock.first) / 1000;
    grow(job);
  }
  if (usage) {
    learn(chat, sizeOf(messages, ""), usage.prompt_tokens);
    message.note = summary(usage, clock);
  }
  return ending(reason, usage, sampling);
}

/** The messages that the model sees. A failed answer leaves its question, and roles must alternate. */
function requestMessages(chat, system, goesOn) {
  const asked = goesOn ? chat.messages.slice(chat.from) : chat.messages.slice(chat.from, -1);
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const { role, content } of asked) {
    if (!content) continue;
    const last = messages.at(-1);
    if (last?.role === role) last.content += `\n\n${content}`;
    else messages.push({ role, content });
  }
  return messages;
}

/** Add a piece of an answer; whether there was any. */
function take(message, delta) {
  message.content += delta.content ?? "";
  message.reasoning += delta.reasoning_content ?? "";
  return Boolean(delta.content || delta.reasoning_content);
}

/** Show what a comment of the stream says. */
function note(job, comment) {
  const before = /^waiting (\d+)$/.exec(comment);
  if (before) job.status = before[1] === "0" ? "waiting (next)" : `waiting (${before[1]} before you)`;
  else if (comment === "started") job.status = "reading…";
  listener.grew(job.chat, job.message);
}

/** Show a longer answer, and keep it now and then. */
function grow(job) {
  job.status = "";
  listener.grew(job.chat, job.message);
  if (performance.now() < job.saved + SAVE || getChat(job.chat.id) !== job.chat) return;
  job.saved = performance.now();
  saveChat(job.chat);
}

function summary(usage, { asked, first }) {
  const count = usage.completion_tokens;
  const seconds = (performance.now() - first) / 1000;
  const parts = [`${count} token${count === 1 ? "" : "s"}`];
  if (count > 1 && first && seconds > 0) parts.push(`${((count - 1) / seconds).toFixed(1)} tokens/s`);
  if (first) parts.push(`first after ${((first - asked) / 1000).toFixed(2)} s`);
  return parts.join(" · ");
}

function ending(reason, usage, { max_completion_tokens: limit }) {
  if (reason !== "length") return "";
  const full = usage && (!limit || usage.completion_tokens < limit);
  return full ? "cut: the context is full" : "cut at the maximum length";
}
