import { get } from "./api.js";
import * as classify from "./classify.js";
import { find, make } from "./dom.js";
import { askForKeys } from "./key.js";
import * as map from "./map.js";
import * as query from "./query.js";
import * as search from "./search.js";

const TABS = ["search", "classify", "map"];
const NAMES = { image: "pictures", audio: "sounds", text: "texts" };
const past = []; // queries to go back to, by step; a reload forgets them, since files cannot be kept
let step = history.state ?? 0;
let indexes = [];

const openTab = () => TABS.find((tab) => `#${tab}` === location.hash) ?? "search";
const chosenIndex = () => indexes.find(({ name }) => name === find("index").value);

function show() {
  for (const tab of TABS) {
    const chosen = tab === openTab();
    find(`tab-${tab}`).setAttribute("aria-selected", chosen);
    find(`tab-${tab}`).tabIndex = chosen ? 0 : -1;
    find(`panel-${tab}`).hidden = !chosen;
  }
  if (openTab() === "map" && chosenIndex()) map.show(chosenIndex());
}

function go(tab) {
  past.length = step + 1;
  past.push(past[step]);
  step += 1;
  history.pushState(step, "", `#${tab}`);
  show();
}

function about({ items, modalities }) {
  const kinds = Object.keys(NAMES).filter((kind) => modalities[kind]);
  const counts = kinds.map((kind) => `${modalities[kind].toLocaleString("en")} ${NAMES[kind]}`);
  return items ? `This store holds ${counts.join(", ")}.` : "This store is empty.";
}

function useIndex() {
  const index = chosenIndex();
  const told = index ? about(index) : "No store is served: start with --index NAME=STORE.";
  const hasParts = index?.fields.some((field) => ["start", "page"].includes(field));
  search.useIndex(index?.name, told, hasParts, index?.asks);
  show();
}

async function load() {
  try {
    indexes = (await get("/v1/indexes")).data;
  } catch (error) {
    if (error.status !== 401) search.fail(error, load);
    return;
  }
  find("index").replaceChildren(...indexes.map(({ name }) => make("option", { value: name, textContent: name })));
  find("index-choice").hidden = indexes.length < 2;
  useIndex();
  // A finger's keyboard would cover the page.
  if (openTab() === "search" && matchMedia("(pointer: fine)").matches) find("words").focus();
}

function take(files) {
  if (!files.length) return;
  if (openTab() === "classify") classify.choose(files[0]);
  else search.addFiles(files);
}

TABS.forEach((tab, number) => {
  find(`tab-${tab}`).onclick = () => tab !== openTab() && go(tab);
  find(`tab-${tab}`).onkeydown = (event) => {
    const next = { ArrowRight: number + 1, ArrowLeft: number - 1, Home: 0, End: -1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const other = find(`tab-${TABS.at(next % TABS.length)}`);
    other.click();
    other.focus();
  };
});
find("index").onchange = useIndex;
addEventListener("popstate", () => {
  const before = past[step];
  step = history.state ?? 0;
  show();
  if (past[step] && past[step] !== before) search.restore(past[step]);
});
addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  document.body.classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  take([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => take([...event.clipboardData.files]));

history.replaceState(step, "");
askForKeys(load);
search.start({ begun: () => go("search"), asked: () => (past[step] = query.get()) });
classify.start();
map.start(search.searchLike);
show();
load();
