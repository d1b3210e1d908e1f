// Requests to the server.

import { apiKey } from "./settings.js";

/** An error that the server reports, with its code. */
export class ServerError extends Error {
  constructor(message, code = "", status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

function headers() {
  const key = apiKey();
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

/** Fetch JSON; ServerError for an error, TypeError if nobody answers. */
export async function getJson(path, signal) {
  const response = await fetch(path, { headers: headers(), signal });
  if (!response.ok) throw await failure(response);
  return response.json();
}

/**
 * Ask for an answer.
 * @yields {{comment: string}|{data: object}} parts of the stream.
 */
export async function* streamChat(body, signal) {
  const options = { method: "POST", headers: headers(), body: JSON.stringify(body), signal };
  const response = await reached(fetch("v1/chat/completions", options));
  if (!response.ok) throw await failure(response);
  for await (const event of events(response)) {
    const error = event.data?.error;
    if (error) throw new ServerError(error.message, error.code);
    yield event;
  }
}

/** Wait for the network; ServerError if it fails, AbortError if it was given up. */
async function reached(promise) {
  try { return await promise; }
  catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("the server cannot be reached", "offline");
  }
}

async function failure(response) {
  let error = {};
  try { error = (await response.json()).error ?? {}; } catch { /* no JSON */ }
  const message = error.message ?? `the server returned status ${response.status}`;
  return new ServerError(message, error.code ?? "", response.status);
}

/** Read server-sent events up to [DONE]. */
async function* events(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reached(reader.read());
    rest += decoder.decode(value, { stream: !done });
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      if (part.startsWith("data: ")) yield { data: JSON.parse(part.slice(6)) };
      else if (part.startsWith(": ")) yield { comment: part.slice(2) };
    }
    if (done) throw new ServerError("the connection ended before the answer did", "cut");
  }
}
