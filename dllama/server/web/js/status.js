// How the server is, asked again and again: its state, the model, and the nodes.

import { getJson } from "./api.js";
import { $, element } from "./dom.js";
import { openSettings } from "./settings.js";

const EVERY = { alone: 2000, cluster: 500, problem: 1000 }; // milliseconds
const PATIENCE = 5000;
const BANNERS = {
  offline: "The server cannot be reached. Trying again…",
  loading: "The model is being loaded…",
  unavailable: "A node of the cluster is lost. The server waits for it…",
  stopping: "The server is stopping.",
  key: "The server wants an API key: see the settings.",
};
const STATES = { lost: "lost", unknown: "not connected" }; // of nodes, where there is more to say
let model = null; // as /v1/models lists it
let timer;
let asking = false;

export const contextLength = () => model?.context_length ?? 0;
export const modelName = () => model?.id ?? "";

export function startStatus() {
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  return look();
}

/** Ask now, and again after a while. A page that nobody sees asks nothing. */
export async function look() {
  clearTimeout(timer);
  if (asking) return;
  asking = true;
  const wait = await ask();
  asking = false;
  if (!document.hidden) timer = setTimeout(look, wait);
}

/** Ask and show what comes; return the milliseconds until the next time. */
async function ask() {
  try {
    const seen = await getJson("cluster", AbortSignal.timeout(PATIENCE));
    if (seen.status !== "ok") model = null; // it may be another one afterwards
    else if (!model) showModel((await getJson("v1/models")).data[0]);
    showState(seen.status, seen.percent);
    showNodes(seen);
    return seen.nodes.length > 1 || seen.status !== "ok" ? EVERY.cluster : EVERY.alone;
  } catch (error) {
    const wantsKey = error.status === 401;
    if (wantsKey && $("state").dataset.state !== "key") openSettings(true, "key");
    showState(wantsKey ? "key" : "offline");
    $("cluster").hidden = true;
    model = null;
    return EVERY.problem;
  }
}

function showModel(found) {
  model = found;
  $("model").textContent = found.id;
  document.title = `${found.id} · dllama`;
}

/** Show a state, and the percents of the model that are loaded, if it is being loaded. */
function showState(state, percent) {
  const name = `server status: ${state}`;
  $("state").dataset.state = state;
  $("state").setAttribute("aria-label", name);
  $("state").title = name;
  const banner = [BANNERS[state], percent === undefined ? "" : `${percent} %`].filter(Boolean).join(" ");
  if ($("banner").textContent !== banner) $("banner").textContent = banner; // else it is read aloud again
  $("banner").hidden = !banner;
}

function showNodes({ nodes, running, waiting, tokens_per_s: speed }) {
  $("nodes").replaceChildren(...nodes.map(node));
  const parts = running ? [`${running} running`] : ["idle"];
  if (speed) parts.unshift(`${speed.toFixed(1)} tokens/s`);
  if (waiting) parts.push(`${waiting} waiting`);
  $("speed").textContent = parts.join(" · ");
  $("cluster").hidden = nodes.length === 0;
}

function node({ rank, name, address, state, memory }) {
  const bytes = Object.values(memory).reduce((sum, part) => sum + part, 0);
  const label = rank ? name || (address ?? `worker ${rank}`) : "root";
  const parts = Object.entries(memory).map(([part, size]) => `${part.replace("_", " ")} ${gigabytes(size)}`);
  const made = element("li", { className: state, title: parts.join(", ") },
    element("span", { className: "dot" }), label);
  made.append(element("span", { className: "soft" }, STATES[state] ?? gigabytes(bytes)));
  return made;
}

function gigabytes(bytes) {
  return bytes < 1e8 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
