// Requests to the app. Every failure becomes an Error whose message is fit for a person.
import { locale, t } from "./i18n.js";

export class ApiError extends Error {
  constructor(error) {
    super(error.translations?.[locale] ?? [error.message, error.next_step].filter(Boolean).join(" "));
    this.code = error.code;
    this.diagnosis = error.diagnosis; // of a server that did not start, or ended
  }
}

async function failure(response) {
  if (response.status === 401) location.reload(); // the session has ended: the login form comes
  try {
    const body = await response.json();
    if (body.error) return new ApiError(body.error);
    const detail = body.detail?.[0];
    return new ApiError({ message: detail ? `${detail.loc.slice(1).join(".")}: ${detail.msg}` : response.statusText });
  } catch {
    return new ApiError({ message: `${t("http_error")} ${response.status}` });
  }
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ code: "offline", message: t("app_gone") });
  }
}

export async function call(method, path, body) {
  const response = await send(path, {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!response.ok) throw await failure(response);
  return response.headers.get("content-type")?.includes("json") ? response.json() : response.text();
}

export const get = (path) => call("GET", path);
export const post = (path, body = {}) => call("POST", path, body);
export const serverPath = (name, rest = "") => `/api/servers/${encodeURIComponent(name)}${rest}`;
export const conversationPath = (id, rest = "") => `/api/conversations/${encodeURIComponent(id)}${rest}`;
export const loadTestPath = (id, rest = "") => `/api/load-tests/${encodeURIComponent(id)}${rest}`;
export const modelPath = (name, rest = "") => `/api/models/${encodeURIComponent(name)}${rest}`;

// Posts `body` and calls `onFrame` for each line of JSON of the answer, as it comes.
export async function stream(path, body, signal, onFrame) {
  const response = await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw await failure(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) onFrame(JSON.parse(line));
  }
}
