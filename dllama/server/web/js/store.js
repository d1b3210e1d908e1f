// Conversations in the browser's database.

const SHELF = "conversations";
const UNFINISHED = "dllama.unfinished";
let opening;

function database() {
  opening ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open("dllama", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(SHELF, { keyPath: "id" });
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
  return opening;
}

async function run(mode, act) {
  const transaction = (await database()).transaction(SHELF, mode);
  const asked = act(transaction.objectStore(SHELF));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

export const readOne = (id) => run("readonly", (shelf) => shelf.get(id));
export const write = (chat) => run("readwrite", (shelf) => shelf.put(chat));
export const erase = (id) => run("readwrite", (shelf) => shelf.delete(id));

/** Return all conversations, with those that a closed page had no time to write. */
export async function readAll() {
  for (const chat of takeUnfinished()) await write(chat);
  return run("readonly", (shelf) => shelf.getAll());
}

/** Keep conversations while the page is being closed: the database may be too slow then. */
export function writeAtOnce(chats) {
  try { localStorage.setItem(UNFINISHED, JSON.stringify(chats)); } catch { /* what was written last stays */ }
}

function takeUnfinished() {
  try {
    const found = localStorage.getItem(UNFINISHED);
    localStorage.removeItem(UNFINISHED);
    return found ? JSON.parse(found) : [];
  } catch { return []; }
}
