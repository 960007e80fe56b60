// A store in two dimensions; near items are alike.
import { get, media } from "./api.js";
import { find, make, notices, refill } from "./dom.js";

const REACH = 14; // pixels from the pointer to an item
const MARGIN = 24; // pixels around the outermost items
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
let tell;
let points = [];
const bounds = {}; // of the points: {x: [least, most], y}
let index = null;
let chosen = -1;
let openItem = () => {};

// Asks anew each time: items may have come and gone.
export async function show({ name, items }) {
  if (index !== name) {
    points = [];
    tell("Drawing the map …");
  }
  choose(-1);
  draw();
  try {
    const map = await get(`/v1/indexes/${encodeURIComponent(name)}/map`);
    [points, index] = [map.points, name];
    for (const axis of ["x", "y"]) {
      const values = points.map((point) => point[axis]);
      bounds[axis] = [Math.min(...values), Math.max(...values)];
    }
    const some = points.length < items ? `${points.length} of ${items}` : points.length;
    const share = (100 * map.explained).toFixed(0);
    tell(points.length ? `${some} items in the two directions in which they differ most (${share} % of their variance).`
      : "This store is empty.");
    draw();
  } catch (error) {
    tell(error.message, { wrong: true, again: error.passing && (() => show({ name, items })) });
  }
}

function place(point) {
  const { clientWidth: width, clientHeight: height } = find("map");
  const share = (axis) => {
    const [least, most] = bounds[axis];
    return most > least ? (point[axis] - least) / (most - least) : 0.5;
  };
  return [MARGIN + (width - 2 * MARGIN) * share("x"), height - MARGIN - (height - 2 * MARGIN) * share("y")];
}

// Each modality has a shape as well as a colour.
function outline(context, modality, x, y, size) {
  context.beginPath();
  if (modality === "image") context.arc(x, y, size, 0, 2 * Math.PI);
  else if (modality === "audio") context.rect(x - 0.9 * size, y - 0.9 * size, 1.8 * size, 1.8 * size);
  else {
    context.moveTo(x, y - 1.2 * size);
    context.lineTo(x + 1.1 * size, y + 0.8 * size);
    context.lineTo(x - 1.1 * size, y + 0.8 * size);
    context.closePath();
  }
}

function draw() {
  const canvas = find("map");
  const ratio = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`);
  const size = points.length > 500 ? 4 : 6;
  const dot = (point, scale, edge) => {
    outline(context, point.modality, ...place(point), scale * size);
    context.fillStyle = colour(point.modality);
    context.fill();
    context.strokeStyle = colour(edge);
    context.stroke();
  };
  context.globalAlpha = 0.8;
  for (const point of points) dot(point, 1, "card");
  context.globalAlpha = 1;
  context.lineWidth = 2;
  if (chosen >= 0) dot(points[chosen], 1.7, "ink");
}

async function choose(number) {
  if (number === chosen) return;
  chosen = number;
  draw();
  const tip = find("map-tip");
  tip.classList.toggle("shown", number >= 0);
  if (number < 0) return refill(tip);
  const point = points[number];
  const picture = point.modality === "image" ? [make("img", { alt: "" })] : [];
  const kind = { audio: "sound", text: "text", image: "picture" }[point.modality] ?? point.modality;
  refill(tip, ...picture, make("span", { textContent: point.text || point.id }), make("small", { textContent: kind }));
  keepInside(tip, point);
  if (!picture.length) return;
  const blob = await media(index, point.id, 300).catch(() => null);
  if (blob && chosen === number) picture[0].src = URL.createObjectURL(blob);
}

function keepInside(tip, point) {
  const [x, y] = place(point);
  const { clientWidth: width, clientHeight: height } = find("map-frame");
  const beside = x + 14 + tip.offsetWidth > width ? x - 14 - tip.offsetWidth : x + 14;
  tip.style.left = `${Math.max(4, Math.min(beside, width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, height - tip.offsetHeight - 4))}px`;
}

function nearest(x, y, reach) {
  let best = -1;
  let least = reach;
  points.forEach((point, number) => {
    const [px, py] = place(point);
    const distance = Math.hypot(px - x, py - y);
    if (distance < least) [best, least] = [number, distance];
  });
  return best;
}

function pointed(event) {
  const box = find("map").getBoundingClientRect();
  return nearest(event.clientX - box.left, event.clientY - box.top, REACH);
}

// The nearest item in a direction, at first the one in the middle; what lies aside counts twice as far.
function next([right, down]) {
  if (chosen < 0) return nearest(find("map").clientWidth / 2, find("map").clientHeight / 2, Infinity);
  const [x, y] = place(points[chosen]);
  let best = chosen;
  let least = Infinity;
  points.forEach((point, number) => {
    const [dx, dy] = [place(point)[0] - x, place(point)[1] - y];
    const ahead = dx * right + dy * down;
    const far = ahead + 2 * Math.abs(dx * down) + 2 * Math.abs(dy * right);
    if (number !== chosen && ahead > 0 && far < least) [best, least] = [number, far];
  });
  return best;
}

export function start(open) {
  tell = notices("map");
  openItem = open;
  const canvas = find("map");
  canvas.onpointermove = (event) => event.pointerType === "mouse" && choose(pointed(event));
  canvas.onpointerleave = (event) => event.pointerType === "mouse" && choose(-1);
  canvas.onblur = () => choose(-1);
  canvas.onclick = (event) => {
    const number = pointed(event);
    // A finger cannot point: its first touch shows the item, its second searches.
    if (number >= 0 && (number === chosen || event.pointerType === "mouse")) openItem(points[number].id);
    else choose(number);
  };
  canvas.onkeydown = (event) => {
    if (event.key === "Enter" && chosen >= 0) openItem(points[chosen].id);
    if (event.key === "Escape") choose(-1);
    if (!ARROWS[event.key] || !points.length) return;
    event.preventDefault();
    choose(next(ARROWS[event.key]));
  };
  new ResizeObserver(() => {
    if (!find("panel-map").hidden) draw();
  }).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
