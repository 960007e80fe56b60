// Elements without a framework: text is always text, never markup.
export const find = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const { label, ...others } = properties;
  const element = Object.assign(document.createElement(tag), others);
  if (label) element.setAttribute("aria-label", label);
  element.append(...children);
  return element;
}

// A share of one as a bar, for the eyes alone: its number stands beside it.
export function bar(share) {
  const filled = make("span");
  filled.style.width = `${100 * share}%`;
  return make("span", { className: "bar", ariaHidden: true }, filled);
}

// What is no longer shown must let go of its bytes, and of what it still reads.
export function release(element) {
  for (const player of element.querySelectorAll("audio, video")) {
    player.pause();
    if (!player.src.startsWith("blob:")) player.removeAttribute("src");
  }
  for (const media of element.querySelectorAll("[src^='blob:']")) URL.revokeObjectURL(media.src);
}

export function refill(element, ...children) {
  release(element);
  element.replaceChildren(...children);
}

// Return what shows a message in a panel; `again` is tried again by a button.
export function notices(panel) {
  const notice = document.querySelector(`#panel-${panel} .notice`);
  return (message, { wrong = false, again = null } = {}) => {
    notice.classList.toggle("wrong", wrong);
    notice.replaceChildren(make("span", { textContent: message }));
    if (again) notice.append(make("button", { type: "button", textContent: "Try again", onclick: again }));
  };
}
