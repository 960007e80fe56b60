"""What docs/python.md shows runs as it stands, in a folder with its three files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import PIL.Image
import soundfile

from encoders.display import BYTES, SECONDS, SIDE
from onepeace.quantization import PRECISIONS, SPREAD
from retrieval.gallery import GALLERY

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def test_the_examples(tmp_path: Path) -> None:
    with PIL.Image.open(sorted((GALLERY / "pictures").iterdir())[0]) as picture:
        picture.convert("RGB").save(tmp_path / "dog.jpg")
    for sound, name in (("dog-barking-again.ogg", "dog.flac"), ("rain-falling-steadily.ogg", "rain.ogg")):
        samples, rate = soundfile.read(GALLERY / "sounds" / sound)
        soundfile.write(tmp_path / name, samples, rate)
    script = "\n".join(re.findall(r"^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL))
    script += "\nassert found.kept == [0, 2] and 'missing.jpg' in found.failures[0][1]"
    script += "\nassert tokens.features.shape == (64, 384) and table.values.shape == (2, 2) and rows.shape == (2, 128)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_the_numbers() -> None:
    text = " ".join(DOCS.split())
    assert f"256 steps over ±{SPREAD:g}/√D" in text
    assert f"Thumbnails are {SIDE} pixels, players {SECONDS:g} s, nothing is larger than {BYTES // 2**10} KB" in text
    assert all(f'"{name}"' in text for name in PRECISIONS if name != "float32")
