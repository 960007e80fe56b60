// Which of the user's own words fits a picture or a sound best.
import { post } from "./api.js";
import { bar, find, make, notices, refill } from "./dom.js";
import { base64, kindOf, reason } from "./files.js";
import { recordBy } from "./recorder.js";

let tell;
let file = null;
let running = new AbortController();

export function choose(given) {
  const kind = kindOf(given);
  if (!kind) return tell(`${given.name} is neither a picture nor a sound.`, { wrong: true });
  file = given;
  const src = URL.createObjectURL(file);
  const media =
    kind === "image" ? make("img", { src, alt: "" }) : make("audio", { src, controls: true, label: file.name });
  media.onerror = () => media.remove(); // it may be a format that this browser does not show, and the service reads
  refill(find("preview"), media, make("figcaption", { textContent: file.name, title: file.name }));
  refill(find("scores"));
  return tell("");
}

function score({ label, probability }) {
  const share = `${(100 * probability).toFixed(1)} %`;
  const name = make("span", { className: "label", textContent: label });
  return make("li", {}, name, make("span", { className: "share", textContent: share }), bar(probability));
}

async function classify() {
  const labels = [...new Set(find("labels").value.split(/[,\n]/).map((label) => label.trim()).filter(Boolean))];
  const template = find("template").value.trim() || "{}";
  if (!file) return tell("Choose a picture or a sound first.", { wrong: true });
  if (labels.length < 2) return tell("Write two labels or more.", { wrong: true });
  if (!template.includes("{}")) return tell("The sentence needs {} where the label goes.", { wrong: true });
  running.abort();
  const mine = (running = new AbortController());
  tell("Classifying …");
  try {
    const input = { [kindOf(file)]: await base64(file) };
    const { data } = await post("/v1/classify", { input, labels, templates: [template] }, mine.signal);
    if (mine !== running) return;
    refill(find("scores"), ...data[0].labels.map(score));
    tell(`Likeliest: ${data[0].labels[0].label}`);
  } catch (error) {
    if (mine !== running) return;
    refill(find("scores"));
    tell(reason(error, [file.name]), { wrong: true, again: error.passing && classify });
  }
}

export function start() {
  tell = notices("classify");
  find("classified").onchange = (event) => {
    if (event.target.files[0]) choose(event.target.files[0]);
    event.target.value = "";
  };
  recordBy(find("record-classified"), choose, (why) => tell(why, { wrong: true }));
  find("classify").onsubmit = (event) => {
    event.preventDefault();
    classify();
  };
}
