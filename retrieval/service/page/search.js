// Searching, and what comes of it.
import { post } from "./api.js";
import { find, notices, refill } from "./dom.js";
import { base64, kindOf, reason } from "./files.js";
import { card } from "./hits.js";
import * as query from "./query.js";
import { recordBy } from "./recorder.js";

const PAGE = 20;
let tell;
let index = null;
let shown = 0;
let running = new AbortController(); // the search whose answer counts
let heard; // begun: somebody searches anew; asked: the query is as it is now

export function useIndex(name, about, hasParts, asks) {
  index = name;
  find("once").hidden = !hasParts;
  find("asks").hidden = !asks;
  query.offerAsking(asks);
  find("about").textContent = about;
  clear();
}

export function clear() {
  query.clear();
  search();
}

export async function addFiles(files) {
  heard.begun();
  const other = files.find((file) => !kindOf(file));
  if (other) return tell(`${other.name} is neither a picture nor a sound.`, { wrong: true });
  try {
    for (const file of files) query.add({ kind: kindOf(file), name: file.name, content: await base64(file), file });
  } catch (error) {
    return fail(error);
  }
  return search();
}

export function searchLike(id) {
  heard.begun();
  query.clear();
  query.add({ kind: "like", name: id, content: id });
  scrollTo({ top: 0 });
  return search();
}

export function restore(past) {
  query.set(past);
  return search();
}

export function fail(error, again) {
  tell(reason(error, query.files()), { wrong: true, again: error.passing && again });
}

function showNothing() {
  shown = 0;
  refill(find("hits"));
  find("hits").ariaBusy = false;
  find("more").hidden = true;
  find("welcome").hidden = false;
  tell("");
}

async function search(more = false) {
  running.abort();
  heard.asked();
  const asked = query.request();
  if (!asked) return showNothing();
  const mine = (running = new AbortController());
  const offset = more ? shown : 0;
  const asks = query.mode() === "ask";
  find("welcome").hidden = true;
  find("hits").ariaBusy = true;
  tell(asks ? "Reading …" : "Searching …");
  try {
    // One more than is shown tells whether there are more.
    const { hits } = asks
      ? await post("/v1/ask", { index, ...asked, top_k: PAGE }, mine.signal)
      : await post("/v1/search", { index, ...asked, copies: false, top_k: PAGE + 1, offset }, mine.signal);
    if (mine !== running) return;
    const cards = hits.slice(0, PAGE).map((hit) => card(hit, index, searchLike));
    if (more) find("hits").append(...cards);
    else refill(find("hits"), ...cards);
    shown = offset + cards.length;
    find("more").hidden = hits.length <= PAGE;
    const what = asks ? "answer" : "hit";
    const count = `${hits.length > PAGE ? "The first " : ""}${shown} ${what}${shown === 1 ? "" : "s"}`;
    tell(shown ? count : "Nothing found.");
    if (more) cards[0]?.querySelector(".similar").focus({ preventScroll: true });
  } catch (error) {
    if (mine !== running) return;
    if (!more) refill(find("hits"));
    if (!more) find("more").hidden = true;
    fail(error, () => search(more));
  }
  find("hits").ariaBusy = false;
}

export function start(listeners) {
  tell = notices("search");
  heard = listeners;
  query.start(search);
  const form = find("search");
  form.onsubmit = (event) => {
    event.preventDefault();
    if (query.request()) heard.begun();
    search();
  };
  form.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    clear();
    find("words").focus();
  };
  find("more").onclick = () => search(true);
  for (const radio of document.querySelectorAll("[name=kind]")) radio.onchange = () => search();
  for (const radio of document.querySelectorAll("[name=mode]"))
    radio.onchange = () => {
      query.show();
      search();
    };
  find("once").onclick = ({ target }) => {
    target.ariaPressed = target.ariaPressed !== "true";
    search();
  };
  for (const id of ["picture", "sound"])
    find(id).onchange = async (event) => {
      const files = [...event.target.files];
      event.target.value = ""; // so that the same file can be chosen again
      await addFiles(files);
    };
  recordBy(find("record"), (file) => addFiles([file]), (why) => tell(why, { wrong: true }));
}
