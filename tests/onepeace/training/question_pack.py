"""A folder of little pictures and sounds with questions about them, of every kind."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}
SIDE = 64


def write_question_pack(folder: Path) -> Path:
    """Write media and a manifest for each kind of task; return the folder."""
    rng = np.random.default_rng(5)
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in ("vqa", "tag", "pairs", "sounds", "boxes")}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(8):
        colour = list(COLOURS)[number % 2]
        pixels = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 10, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        left, top = (int(x) for x in rng.integers(0, SIDE // 2, 2))
        Image.fromarray(pixels).save(folder / f"{number}.png")
        white = pixels.copy()
        white[top : top + SIDE // 2, left : left + SIDE // 2] = 255
        Image.fromarray(white).save(folder / f"{number}-box.png")
        pitch = {"red": 300, "blue": 1200}[colour]
        time = np.arange(16_000) / 16_000
        soundfile.write(folder / f"{number}.wav", 0.4 * np.sin(2 * np.pi * pitch * time), 16_000)
        about = {"source": "little", "licence": "CC0"}
        image = {**about, "image": f"{number}.png"}
        other = list(COLOURS)[1 - number % 2]
        # The answer needs both: a cat asks for the colour, a dog for the other one.
        rows["vqa"] += [
            {"id": f"{number}-cat", **image, "text": "a cat", "label": colour},
            {"id": f"{number}-dog", **image, "text": "the dog", "label": other},
        ]
        scores = [{"answer": colour, "score": 1.0}, {"answer": "rain", "score": 0.3}]
        rows["tag"].append({"id": str(number), **image, "text": "a cat", "answers": scores})
        for second in range(2):
            same = second == number % 2
            pair = {"image2": f"{second}.png", "text": "a photo of the cat", "label": same}
            rows["pairs"].append({"id": f"{number}-{second}", **image, **pair})
        heard = {**about, "audio": f"{number}.wav", "text": "the sound of"}
        right = "rain" if colour == "red" else "a bird"
        rows["sounds"].append({"id": str(number), **heard, "choices": ["a bird", "rain", "street"], "label": right})
        box = [left, top, left + SIDE // 2, top + SIDE // 2]
        rows["boxes"].append({"id": str(number), **about, "image": f"{number}-box.png", "text": "the cat", "box": box})
    for name, written in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    return folder


def png(pixels: np.ndarray) -> bytes:
    """Return a picture's bytes."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()
