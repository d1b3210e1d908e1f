// Puts the parts of the page together.

import { isAnswering } from "./answer.js";
import { startChats } from "./chats.js";
import { showRunning, startComposer } from "./composer.js";
import { beginChat, currentId, openChat, refreshChat, startConversation, stopChat } from "./conversation.js";
import { startSettings } from "./settings.js";
import { showChats, startSidebar } from "./sidebar.js";
import { look, modelName, startStatus } from "./status.js";
import { startTheme } from "./theme.js";
import { toast } from "./toast.js";

function broken(error) {
  toast(`This browser does not keep conversations: ${error.message}`);
}

function changed(id, elsewhere = false) {
  if (elsewhere) refreshChat(id);
  showChats();
}

startTheme();
startSettings(look);
startSidebar({
  current: currentId, open: openChat, create: beginChat, busy: isAnswering, stop: stopChat, model: modelName,
});
startComposer();
startStatus();
await startChats({ changed, broken, busy: isAnswering });
startConversation(() => { showRunning(); showChats(); });
