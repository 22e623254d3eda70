// Calls of the server. The token lives in this tab's sessionStorage and goes nowhere but into the Authorization header.

const KEY = "maas-rt token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** A refusal: its status, what the server said, and after how many seconds it may be asked again. */
export class Refused extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The path of a model below the server's own, each part of it encoded. */
export function path(...parts) {
  return parts.map(encodeURIComponent).join("/");
}

/** The document of an answer, and its headers. Paths are relative: the server may be behind a prefix. */
export async function call(method, where, { body, headers = {}, signal } = {}) {
  const given = token.get();
  const options = { method, headers: { ...headers }, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (given !== null) options.headers.Authorization = `Bearer ${given}`;
  if (body instanceof Blob) options.body = body;
  else if (body !== undefined) {
    options.body = typeof body === "string" ? body : JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response, text;
  try {
    response = await fetch(where, options);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer.");
  }
  let found = null;
  try { found = parsed(text); } catch { /* told below */ }
  if (!response.ok) {
    throw new Refused(response.status, found?.error ?? `The server answered ${response.status}.`, Number(response.headers.get("Retry-After")) || null);
  }
  if (found === null) throw new Refused(response.status, "The server's answer is no JSON.");
  return { found, text, headers: response.headers };
}

/** JSON, in which integers beyond 2^53 are given as text, for as numbers they would be others. */
function parsed(text) {
  const exact = (_, value, context) => (typeof value === "number" && Math.abs(value) > Number.MAX_SAFE_INTEGER && /^-?\d+$/.test(context?.source ?? "") ? context.source : value);
  return /\d{16}/.test(text) ? JSON.parse(text, exact) : JSON.parse(text);
}

export const read = async (where) => (await call("GET", where)).found;
export const change = async (where, body = {}) => (await call("POST", where, { body })).found;
