// A hit as a card: what was found, where in its file, how near it is, and a click to search with it.
import { address, media } from "./api.js";
import { bar, make, refill } from "./dom.js";

const SIDE = 480; // pixels of a thumbnail: twice of what is shown, for fine screens
const VIDEO = /\.(mp4|mov|mkv|webm)$/i;
const wanted = new WeakMap(); // what to do once a picture comes near the window

const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries)
      if (isIntersecting) {
        watcher.unobserve(target);
        wanted.get(target)();
      }
  },
  { rootMargin: "300px" },
);

export function card(hit, index, search) {
  const text = hit.metadata.text ?? hit.metadata.caption;
  const shown = make("div", { className: "media" });
  const fill = { image: picture, audio: player, text: words }[hit.modality];
  fill?.(shown, hit, index, text);
  if (hit.place && VIDEO.test(hit.uri) && hit.modality === "image") player(shown, hit, index);
  const asked = hit.probability !== undefined;
  const label = `Similar to ${hit.id}`;
  const similar = make("button", { type: "button", className: "similar", textContent: "Similar", label });
  similar.onclick = () => search(hit.id);
  return make(
    "li",
    { className: asked ? `${hit.modality} asked` : hit.modality, title: hit.id },
    shown,
    make(
      "div",
      { className: "body" },
      ...(text && hit.modality !== "text" ? [make("p", { className: "caption", textContent: text })] : []),
      make("p", { className: "id", textContent: name(hit) }), // all of it is in the title
      ...(hit.place ? [place(hit, index)] : []),
      ...(asked ? [sureness(hit)] : []),
      make(
        "div",
        { className: "foot" },
        score(hit, asked),
        similar,
      ),
    ),
  );
}

// How sure it is that this part of its file is meant.
function sureness({ probability }) {
  const sure = `${Math.round(100 * probability)} % sure`;
  return make("p", { className: "sure", textContent: sure }, bar(probability));
}

function score({ score }, asked) {
  const [textContent, title] = asked
    ? [`fit ${score.toFixed(1).replace("-", "−")}`, "how well the whole file fits, beside the others"]
    : [score.toFixed(3), "cosine similarity"];
  return make("span", { className: "score", textContent, title });
}

function name({ id, place }) {
  const file = place ? id.slice(0, id.lastIndexOf("#")) : id;
  return file.split("/").at(-1) || file;
}

// A page of a document can be read in it.
function place(hit, index) {
  if (!/\.pdf$/i.test(hit.uri)) return make("p", { className: "place", textContent: hit.place });
  const label = `Open ${name(hit)} at ${hit.place}`;
  const link = make("a", { textContent: hit.place, target: "_blank", rel: "noopener", label });
  near(link, async () => {
    try {
      link.href = `${await address(index, hit.id)}#page=${hit.metadata.page}`;
    } catch {
      link.replaceWith(hit.place);
    }
  });
  return make("p", { className: "place" }, link);
}

// Do something once an element comes near the window.
function near(element, todo) {
  wanted.set(element, todo);
  watcher.observe(element);
}

function words(shown, hit, index, text) {
  shown.append(make("p", { textContent: text ?? hit.id }));
}

function picture(shown, hit, index, text) {
  const image = make("img", { alt: text ?? hit.id });
  shown.append(image);
  near(image, async () => {
    try {
      const blob = await media(index, hit.id, SIDE);
      if (image.isConnected) image.src = URL.createObjectURL(blob);
    } catch {
      image.replaceWith(make("p", { className: "gone", textContent: "The picture cannot be shown." }));
    }
  });
}

// A sound or a video may be large, so it comes only when it is to be heard; a part of one from where it begins.
function player(shown, hit, index) {
  const tag = VIDEO.test(hit.uri) ? "video" : "audio";
  const what = hit.place ? `${name(hit)} from ${hit.place.split(" ")[0]}` : hit.id;
  const play = make("button", { type: "button", className: "play", textContent: "▶", label: `Play ${what}` });
  const fail = () => {
    const why = `The ${tag === "video" ? "video" : "sound"} cannot be played here.`;
    refill(shown, make("p", { className: "gone", textContent: why }));
  };
  play.onclick = async () => {
    play.disabled = true;
    try {
      const file = await address(index, hit.id);
      if (!play.isConnected) return;
      const src = hit.place ? `${file}#t=${hit.metadata.start}` : file;
      const made = make(tag, { controls: true, autoplay: true, src, label: what });
      made.onerror = () => made.isConnected && made.src && fail();
      refill(shown, made);
      made.focus();
    } catch {
      fail();
    }
  };
  shown.append(play);
}
