// Asking the service. The key stays in this tab.
export function key() {
  return sessionStorage.getItem("onepeace-key") ?? "";
}

export function useKey(given) {
  sessionStorage.setItem("onepeace-key", given);
}

// Why there is no answer; `passing` when the same request may well succeed a little later.
export class Refusal extends Error {
  constructor(status, message, param = null) {
    super(message);
    this.status = status;
    this.param = param;
    this.passing = status === 0 || status === 429 || status >= 500;
  }
}

async function refusal(response) {
  const error = (await response.json().catch(() => null))?.error;
  const { status } = response;
  if (status === 401) {
    dispatchEvent(new Event("key-refused"));
    return new Refusal(status, "This service asks for an API key.");
  }
  if (status === 413) return new Refusal(status, `This is too large: ${error?.message ?? "send less at once"}.`);
  if (status === 429) return new Refusal(status, "The service is busy just now.");
  return new Refusal(status, error?.message ?? `The service answered ${status}.`, error?.param);
}

async function asked(path, options = {}) {
  const headers = { ...options.headers, ...(key() && { Authorization: `Bearer ${key()}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The service does not answer. Is it running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export async function get(path) {
  return (await asked(path)).json();
}

export async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return (await asked(path, { method: "POST", headers, body: JSON.stringify(body), signal })).json();
}

const path = (index, id) => [index, ...id.split("/")].map(encodeURIComponent).join("/");

// Pictures need the key too, so they are fetched rather than named in an address.
export async function media(index, id, size) {
  return (await asked(`/v1/media/${path(index, id)}?size=${size}`)).blob();
}

// Sounds and videos may be large: players read the parts that they need, from an address with a ticket in it.
export async function address(index, id) {
  return (await get(`/v1/address/${path(index, id)}`)).address;
}
