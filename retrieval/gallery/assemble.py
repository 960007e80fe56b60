"""Make the gallery's pictures and sounds again from the places they came from.

`gallery.jsonl` is written by hand and says what each item is; this script follows its `origin` column:

- `openclipart/...`: drawings of Debian's openclipart-svg, rendered with rsvg-convert;
- `tuxpaint/...`: pictures of Debian's tuxpaint-stamps-default;
- `skimage/data/...`: photographs inside the PyPI package scikit-image;
- every sound: the training pack, whose manifests also prove that no item is from a train split.

    python retrieval/gallery/assemble.py --pack ../shared/data \\
        --drawings /usr/share/openclipart/svg --stamps /usr/share/tuxpaint/stamps
"""

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
import typer
from PIL import Image

GALLERY = Path(__file__).parent
LONG_SIDE = 256  # pixels
MAX_SECONDS = 5.0
PEAK = 0.7  # of full scale, so that a clock is heard beside a chainsaw
MAX_GAIN = 10.0
MAX_RATIO = 1.6  # of the sides of a cut-out; a bassoon gets empty space beside it
SILENCE = 10 ** (-45 / 20)  # of the loudest sample; quieter ends are cut
NIGHT = "#14213d"
BACKGROUNDS = {"picture/bolt-lightning-dark": NIGHT}  # a white bolt cannot be seen on white


def assemble(
    pack: Annotated[Path, typer.Option(help="Folder with manifest-{val,test}.parquet and their shards.")],
    drawings: Annotated[Path, typer.Option(help="Folder `svg` of Debian's openclipart-svg.")],
    stamps: Annotated[Path, typer.Option(help="Folder `stamps` of Debian's tuxpaint-stamps-default.")],
) -> None:
    """Write pictures/ and sounds/ beside this script."""
    held_out = {
        row["id"]: row
        for split in ("val", "test")
        for row in pq.read_table(pack / f"manifest-{split}.parquet").to_pylist()
    }
    total = 0
    for line in (GALLERY / "gallery.jsonl").read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        target = GALLERY / item["file"]
        target.parent.mkdir(exist_ok=True)
        if item["split"] != "none" and held_out[item["origin"]]["split"] != item["split"]:
            raise ValueError(f"{item['id']} says split {item['split']}, the manifest says otherwise")
        if item["modality"] == "image":
            picture = open_picture(item, drawings, stamps)
            tile(picture, BACKGROUNDS.get(item["id"], "white")).save(target, quality=82, method=6)
        else:
            samples, rate = read_member(pack, held_out[item["origin"]]["audio"])
            soundfile.write(target, level(trim(samples, rate)), rate, format="OGG", subtype="OPUS")
        total += target.stat().st_size
    typer.echo(f"{total / 1e6:.2f} MB")


def open_picture(item: dict[str, Any], drawings: Path, stamps: Path) -> Image.Image:
    """The largest version of a picture that its source offers; SVG before PNG."""
    source, path = item["origin"].split("/", 1)
    if source == "skimage":
        import skimage

        return Image.open(Path(skimage.__file__).parent / path)
    stem = {"openclipart": drawings, "tuxpaint": stamps}[source] / path
    vector = stem.with_name(stem.name + ".svg")
    if vector.exists():
        command = ["rsvg-convert", "--height", str(4 * LONG_SIDE), "--keep-aspect-ratio", str(vector)]
        rendered = subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603
        return Image.open(io.BytesIO(rendered))
    return Image.open(stem.with_name(stem.name + ".png"))


def tile(picture: Image.Image, background: str) -> Image.Image:
    """Lay a picture on a plain background, even out its borders, and make its long side LONG_SIDE at most."""
    picture = picture.convert("RGBA")
    flat = Image.new("RGBA", picture.size, background)
    flat.alpha_composite(picture)
    pixels = np.asarray(flat.convert("RGB"), dtype=np.int16)
    plain = np.asarray(Image.new("RGB", (1, 1), background), dtype=np.int16)
    rows, columns = np.where(np.abs(pixels - plain).max(axis=2) > 8)
    margin = max(picture.size) // 50
    box = (
        max(columns.min() - margin, 0),
        max(rows.min() - margin, 0),
        min(columns.max() + 1 + margin, picture.width),
        min(rows.max() + 1 + margin, picture.height),
    )
    cut = flat.convert("RGB").crop(box)
    short_side = round(max(cut.size) / MAX_RATIO)
    padded = Image.new("RGB", (max(cut.width, short_side), max(cut.height, short_side)), background)
    padded.paste(cut, ((padded.width - cut.width) // 2, (padded.height - cut.height) // 2))
    padded.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    return padded


def read_member(pack: Path, reference: str) -> tuple[np.ndarray, int]:
    """Decode `SHARD.tar/MEMBER` to mono samples, and their rate in Hz."""
    shard, member = reference.split("/", 1)
    with tarfile.open(pack / shard) as archive:
        file = archive.extractfile(member)
        assert file is not None
        samples, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate


def trim(samples: np.ndarray, rate: int) -> np.ndarray:
    """Cut silent ends and what is longer than MAX_SECONDS, and fade both ends."""
    heard = np.flatnonzero(np.abs(samples) > SILENCE * np.abs(samples).max())
    margin = rate // 10
    start, stop = max(heard[0] - margin, 0), heard[-1] + margin
    samples = samples[start : min(stop, start + int(MAX_SECONDS * rate))].copy()
    fade_in, fade_out = rate // 200, min(rate // 10, len(samples) // 8)
    samples[:fade_in] *= np.linspace(0, 1, fade_in)
    samples[-fade_out:] *= np.linspace(1, 0, fade_out)
    return samples


def level(samples: np.ndarray) -> np.ndarray:
    """Bring the loudest sample to PEAK, by MAX_GAIN at most."""
    return samples * min(PEAK / np.abs(samples).max(), MAX_GAIN)


if __name__ == "__main__":
    typer.run(assemble)
