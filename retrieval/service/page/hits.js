// A hit as a card: what was found, how near it is, and a click to search with it.
import { media } from "./api.js";
import { make } from "./dom.js";

const SIDE = 480; // pixels of a thumbnail: twice of what is shown, for fine screens
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
  const label = `Similar to ${hit.id}`;
  const similar = make("button", { type: "button", className: "similar", textContent: "Similar", label });
  similar.onclick = () => search(hit.id);
  return make(
    "li",
    { className: hit.modality, title: hit.id },
    shown,
    make(
      "div",
      { className: "body" },
      ...(text && hit.modality !== "text" ? [make("p", { className: "caption", textContent: text })] : []),
      make("p", { className: "id", textContent: hit.id.split("/").at(-1) || hit.id }), // all of it is in the title
      make(
        "div",
        { className: "foot" },
        make("span", { className: "score", textContent: hit.score.toFixed(3), title: "cosine similarity" }),
        similar,
      ),
    ),
  );
}

function words(shown, hit, index, text) {
  shown.append(make("p", { textContent: text ?? hit.id }));
}

function picture(shown, hit, index, text) {
  const image = make("img", { alt: text ?? hit.id });
  shown.append(image);
  wanted.set(image, async () => {
    try {
      const blob = await media(index, hit.id, SIDE);
      if (image.isConnected) image.src = URL.createObjectURL(blob);
    } catch {
      image.replaceWith(make("p", { className: "gone", textContent: "The picture cannot be shown." }));
    }
  });
  watcher.observe(image);
}

// A sound may be large, so it comes only when it is to be heard.
function player(shown, hit, index) {
  const play = make("button", { type: "button", className: "play", textContent: "▶", label: `Play ${hit.id}` });
  play.onclick = async () => {
    play.disabled = true;
    try {
      const blob = await media(index, hit.id, SIDE);
      if (!play.isConnected) return;
      const sound = make("audio", { controls: true, autoplay: true, src: URL.createObjectURL(blob), label: hit.id });
      play.replaceWith(sound);
      sound.focus();
    } catch {
      play.replaceWith(make("p", { className: "gone", textContent: "The sound cannot be played." }));
    }
  };
  shown.append(play);
}
