// What is searched for: words, pictures, sounds and an item of the store, each with a weight. Or what is asked: words.
import { find, make, release } from "./dom.js";

const SIGNS = { text: "Aa", image: "▣", audio: "♪", like: "≈" };
const words = { kind: "text", name: "", weight: 1 };
let parts = []; // {kind: image | audio | like, name, content: base64 or id, weight, file, sign: its element}
let changed = () => {}; // runs when weights or parts change here

export function start(whenChanged) {
  changed = whenChanged;
  find("words").oninput = show;
}

export function add(part) {
  setMode("search");
  parts.push({ weight: 1, ...part });
  show();
}

export function clear() {
  set({ text: "", weight: 1, parts: [], kind: kind(), mode: mode() });
}

export function kind() {
  return document.querySelector("[name=kind]:checked").value;
}

// "search" or "ask".
export function mode() {
  return document.querySelector("[name=mode]:checked").value;
}

// Show or hide the choice between searching and asking.
export function offerAsking(asks) {
  find("modes").hidden = !asks;
  if (!asks) setMode("search");
}

function setMode(chosen) {
  document.querySelector(`[name=mode][value="${chosen}"]`).checked = true;
  show();
}

const copy = (part) => ({ ...part, sign: null });

// For going back: what `set` takes.
export function get() {
  return { text: find("words").value, weight: words.weight, parts: parts.map(copy), kind: kind(), mode: mode() };
}

export function set(query) {
  find("words").value = query.text;
  words.weight = query.weight;
  parts = query.parts.map(copy);
  document.querySelector(`[name=kind][value="${query.kind}"]`).checked = true;
  setMode(find("modes").hidden ? "search" : query.mode); // another store may not be one to ask
}

// The names of the files.
export function files() {
  return parts.filter((part) => part.file).map((part) => part.name);
}

function all() {
  words.name = find("words").value.trim();
  return [...(words.name ? [words] : []), ...parts];
}

export function show() {
  const list = all();
  const asks = mode() === "ask"; // with words alone
  find("go").textContent = asks ? "Ask" : "Search";
  find("words").placeholder = asks ? "What comes after the dog?" : "What are you looking for?";
  document.querySelector("[for=words]").textContent = asks ? "What to ask" : "Words to search for";
  document.querySelector("#search .tools").hidden = asks;
  find("parts").hidden = asks || !parts.length;
  const rows = list.map((part) => row(part, list.length > 1));
  release(find("parts")); // of parts that are gone
  find("parts").replaceChildren(...rows);
}

// A part's picture, or a letter for its kind; made once, as typing shows all parts anew.
function sign(part) {
  const letter = () => make("span", { className: "sign", textContent: SIGNS[part.kind] });
  if (part.kind !== "image") return (part.sign ??= letter());
  return (part.sign ??= make("img", {
    src: URL.createObjectURL(part.file),
    alt: "",
    onerror: ({ target }) => {
      URL.revokeObjectURL(target.src);
      part.sign = letter();
      target.replaceWith(part.sign);
    },
  }));
}

function row(part, weighed) {
  const name = make("span", { className: "name", textContent: part.name, title: part.name });
  const item = make("li", {}, sign(part), name);
  if (weighed) {
    const weight = make("input", { type: "range", min: -1, max: 1, step: 0.1, label: `Weight of ${part.name}` });
    weight.value = part.weight;
    const told = make("output", { textContent: part.weight.toFixed(1) });
    weight.oninput = () => {
      part.weight = Number(weight.value);
      told.textContent = part.weight.toFixed(1);
    };
    weight.onchange = () => changed();
    item.append(weight, told);
  }
  const label = `Leave out ${part.name}`;
  const remove = make("button", { type: "button", className: "remove", textContent: "×", label });
  remove.onclick = () => {
    if (part === words) find("words").value = "";
    else parts = parts.filter((other) => other !== part);
    show();
    find("words").focus();
    changed();
  };
  item.append(remove);
  return item;
}

// The query as /v1/search or /v1/ask takes it, or null when there is none.
export function request() {
  const list = all();
  if (mode() === "ask") return words.name ? { text: words.name } : null;
  // The weight of a single part means nothing.
  const weighed =
    list.length > 1 ? list.filter((part) => part.weight !== 0) : list.map((part) => ({ ...part, weight: 1 }));
  if (!weighed.length) return null;
  const content = weighed.map(({ kind, name, content, weight }) => {
    if (kind === "like") return { type: "item", id: content, weight };
    return { type: kind, [kind]: kind === "text" ? name : content, weight };
  });
  const once = !find("once").hidden && find("once").ariaPressed === "true";
  return { query: { content }, ...(kind() && { where: `modality=${kind()}` }), ...(once && { group_by: "uri" }) };
}
