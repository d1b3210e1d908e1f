// The settings: how to sample, the system prompt and the key. Numbers are checked as typed.

import { $, element } from "./dom.js";

// `api` is the field of a request. Limits are those of the server.
export const NUMBERS = [
  { id: "temperature", api: "temperature", label: "Temperature", least: 0, most: 2 },
  { id: "top_p", api: "top_p", label: "Top-p", least: 0, most: 1, above: true },
  { id: "top_k", api: "top_k", label: "Top-k", least: 0, most: 2 ** 31, whole: true },
  { id: "min_p", api: "min_p", label: "Min-p", least: 0, most: 1 },
  { id: "penalty", api: "repetition_penalty", label: "Repetition penalty", least: 0, most: 100, above: true },
  { id: "seed", api: "seed", label: "Seed", least: 0, most: Number.MAX_SAFE_INTEGER, whole: true, hint: "random" },
  { id: "limit", api: "max_completion_tokens", label: "Longest answer (tokens)", least: 1, most: 2 ** 31,
    whole: true, hint: "as the context allows" },
];
const NAMES = ["system", ...NUMBERS.map((one) => one.id)];
let changed = () => {};

/** Return what is wrong with a number as typed; "" if nothing is. */
export function wrongNumber({ least, most, whole, above }, text) {
  if (text === "") return "";
  const value = Number(text.replace(",", "."));
  const fits = Number.isFinite(value) && value <= most && (above ? value > least : value >= least);
  if (fits && (!whole || Number.isInteger(value))) return "";
  const from = above ? `above ${least}` : `from ${least}`;
  const range = most >= 2 ** 31 ? from : `${from} ${above ? "and at most" : "to"} ${most}`;
  return whole ? `a whole number ${range}` : `a number ${range}`;
}

/** Return the fields of a request, or null (and show the settings) if one is wrong. */
export function samplingFields() {
  const wrong = NUMBERS.find((one) => check(one));
  if (wrong) {
    openSettings(true, wrong.id);
    return null;
  }
  const given = NUMBERS.filter((one) => $(one.id).value.trim() !== "");
  return Object.fromEntries(given.map((one) => [one.api, Number($(one.id).value.replace(",", "."))]));
}

export const systemPrompt = () => $("system").value.trim();
export const apiKey = () => $("key")?.value.trim() ?? "";

export function openSettings(open, focused = "system") {
  $("settings").hidden = !open;
  $("tune").setAttribute("aria-expanded", String(open));
  if (open) $(focused).focus();
}

/** Build the form, fill it with what was kept, and call `whenChanged` after a change of the key. */
export function startSettings(whenChanged) {
  changed = whenChanged;
  $("fields").append(systemField(), ...NUMBERS.map(numberField), keyField());
  for (const name of NAMES) $(name).value = kept(localStorage, name);
  $("key").value = kept(sessionStorage, "key"); // a key is forgotten with the tab
  NUMBERS.forEach(check);
  $("tune").addEventListener("click", () => openSettings($("settings").hidden));
  $("settings").addEventListener("submit", (event) => { event.preventDefault(); openSettings(false); });
  $("settings").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault(); // it does not stop the answer too
    openSettings(false);
    $("tune").focus();
  });
}

function systemField() {
  const box = element("textarea", { id: "system", rows: 2, on: { input: () => keep(localStorage, "system") } });
  return element("label", { className: "wide" }, "System prompt", box);
}

function numberField(one) {
  const attributes = { inputmode: one.whole ? "numeric" : "decimal", "aria-describedby": `${one.id}-wrong` };
  const input = element("input", { id: one.id, autocomplete: "off", attributes,
    placeholder: one.hint ?? "server default",
    on: { input: () => { check(one); keep(localStorage, one.id); } } });
  const wrong = element("span", { id: `${one.id}-wrong`, className: "wrong", attributes: { role: "alert" } });
  return element("label", {}, one.label, input, wrong);
}

function keyField() {
  const input = element("input", { id: "key", type: "password", autocomplete: "off", placeholder: "none",
    on: { change: () => { keep(sessionStorage, "key"); changed(); } } });
  return element("label", {}, "API key", input);
}

/** Show what is wrong with a field, and return it. */
function check(one) {
  const wrong = wrongNumber(one, $(one.id).value.trim());
  $(one.id).setAttribute("aria-invalid", String(wrong !== ""));
  $(`${one.id}-wrong`).textContent = wrong && `expected ${wrong}`;
  return wrong;
}

function keep(storage, name) {
  try { storage.setItem(`dllama.${name}`, $(name).value); } catch { /* not kept */ }
}

function kept(storage, name) {
  try { return storage.getItem(`dllama.${name}`) ?? ""; } catch { return ""; }
}
