// The list of conversations: search, rename, export and delete.

import { allChats, deleteChat, findChats, getChat, saveChat } from "./chats.js";
import { $, button, element, iconButton } from "./dom.js";
import { exportAll, exportChat } from "./export.js";
import { toast } from "./toast.js";

let actions; // {current(), open(id), create(), busy(id), stop(id), model()}
let listed = "";

export function startSidebar(given) {
  actions = given;
  $("new").addEventListener("click", () => { showSide(false); actions.create(); });
  $("search").addEventListener("input", showChats);
  $("export-all").addEventListener("click", () => exportAll(allChats()));
  $("menu").addEventListener("click", () => showSide(!document.body.classList.contains("side-open")));
  $("side-close").addEventListener("click", () => showSide(false));
  $("shade").addEventListener("click", () => showSide(false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.body.classList.contains("side-open")) {
      event.preventDefault(); // it does not stop the answer too
      showSide(false);
    }
    if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      showSide(true);
      $("search").focus();
    }
  });
}

/** Show the list again. */
export function showChats() {
  if ($("chats").querySelector("input")) return; // one is being renamed
  const found = findChats($("search").value);
  const list = JSON.stringify([actions.current(), found.map(({ id, title }) => [id, title, actions.busy(id)])]);
  if (list === listed && found.length) return; // it keeps its focus
  listed = list;
  $("chats").replaceChildren(...found.map(item));
  const searched = $("search").value.trim() !== "";
  $("no-chats").textContent = found.length ? "" : searched ? "Nothing found" : "No conversations yet";
  $("export-all").hidden = allChats().length === 0;
}

/** Open or close the list on a narrow screen; on a wide one it is always there. */
export function showSide(open) {
  document.body.classList.toggle("side-open", open);
  $("shade").hidden = !open;
  $("menu").setAttribute("aria-expanded", String(open));
  if (open) $("new").focus();
  else if ($("side").contains(document.activeElement)) $("menu").focus();
}

function item(chat) {
  const name = button(chat.title || "New chat", () => { showSide(false); actions.open(chat.id); }, "name");
  name.title = chat.title;
  const current = chat.id === actions.current();
  if (current) name.setAttribute("aria-current", "true");
  const tools = element("span", { className: "tools" },
    iconButton("rename", `Rename ${chat.title}`, () => rename(row, chat.id)),
    iconButton("export", `Export ${chat.title}`, () => exportChat(getChat(chat.id), actions.model())),
    iconButton("delete", `Delete ${chat.title}`, () => remove(chat.id)));
  const row = element("li", {}, name, tools);
  row.classList.toggle("current", current);
  row.classList.toggle("busy", actions.busy(chat.id));
  return row;
}

function rename(row, id) {
  const chat = getChat(id);
  const input = element("input", { value: chat.title, attributes: { "aria-label": "New name" } });
  let ended = false;
  const end = (keep) => {
    if (ended) return;
    ended = true;
    if (keep && input.value.trim()) chat.title = input.value.trim();
    input.remove();
    listed = "";
    saveChat(chat, false);
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    else if (event.key === "Escape") { event.stopPropagation(); end(false); }
  });
  input.addEventListener("blur", () => end(true));
  row.replaceChildren(input);
  input.select();
}

function remove(id) {
  const chat = getChat(id);
  actions.stop(id);
  deleteChat(id);
  if (actions.current() === id) actions.create();
  toast(`Deleted “${chat.title}”`, "Undo", () => {
    saveChat(chat, false);
    actions.open(id);
  });
}
