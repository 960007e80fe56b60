// The form that asks for an API key, shown whenever the service refuses one.
import { key, useKey } from "./api.js";
import { find } from "./dom.js";

export function askForKeys(given) {
  const form = find("key-form");
  addEventListener("key-refused", () => {
    form.hidden = false;
    find("key-note").textContent = key() ? "This key is not known here." : "";
    find("key").focus();
  });
  form.onsubmit = (event) => {
    event.preventDefault();
    useKey(find("key").value.trim());
    find("key").value = "";
    form.hidden = true;
    given();
  };
}
