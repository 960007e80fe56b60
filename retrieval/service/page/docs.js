// The interface as Swagger UI shows it, asked with the key that the page uses.
import { get, key } from "./api.js";
import { find } from "./dom.js";
import { askForKeys } from "./key.js";

async function show() {
  let spec;
  try {
    spec = await get("/openapi.json");
  } catch (error) {
    if (error.status !== 401) find("interface").textContent = error.message;
    return;
  }
  globalThis.SwaggerUIBundle({
    spec,
    domNode: find("interface"),
    validatorUrl: null, // the badge would ask another server
    requestInterceptor: (request) => {
      if (key()) request.headers.Authorization ??= `Bearer ${key()}`;
      return request;
    },
  });
}

askForKeys(show);
show();
