"""Opening what a user hands in: pictures, sounds and texts, from wherever they lie.

Limits are checked before anything is decoded, and whatever cannot be read ends in the one typed error, `MediaError`.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np
import PIL.Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

if TYPE_CHECKING:
    from torch import Tensor

    FileSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Mapping[str, Any]
    ImageSource: TypeAlias = FileSource | PIL.Image.Image | np.ndarray | Tensor
    AudioSource: TypeAlias = FileSource | np.ndarray | Tensor | list[float] | tuple[float, ...]

MediaKind: TypeAlias = Literal["image", "audio", "text"]
Size: TypeAlias = tuple[int, int]  # width and height in pixels


class _Jpeg(JpegImageFile):
    """PIL's JPEG reader, less its search for a resolution: that parses all of EXIF and warns of each broken tag."""

    def _read_dpi_from_exif(self) -> None:
        pass


_SUFFIXES: dict[str, MediaKind] = {
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"), "image"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".opus", ".oga", ".mp3", ".m4a", ".aac"), "audio"),
    **dict.fromkeys((".txt", ".csv", ".jsonl"), "text"),
}

# How a file of each picture format begins. Opening by our own list, and not by PIL's, keeps out formats that start
# other programs (EPS), and leaves the size limit to us: PIL's own is global and speaks through warnings.
_IMAGE_READERS: dict[re.Pattern[bytes], type[ImageFile]] = {
    re.compile(rb"\xff\xd8\xff"): _Jpeg,
    re.compile(rb"\x89PNG\r\n\x1a\n"): PngImageFile,
    re.compile(rb"RIFF....WEBP", re.DOTALL): WebPImageFile,
    re.compile(rb"GIF8[79]a"): GifImageFile,
    re.compile(rb"BM"): BmpImageFile,
    re.compile(rb"II[*+]\0|MM\0[*+]"): TiffImageFile,
}

# Sounds that libsndfile does not know, with FFmpeg's name of the format. Only these reach FFmpeg, and under that name:
# left to guess, it also opens play lists, and whatever addresses they hold.
_FFMPEG_FORMATS = {
    re.compile(rb"....ftyp", re.DOTALL): "mov",
    re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"): "aac",
    re.compile(rb"\x1aE\xdf\xa3"): "matroska",
}

_AUDIO_START = re.compile(rb"RIFF....WAVE|fLaC|OggS|ID3|\xff[\xf2\xf3\xfa\xfb\xf0\xf1\xf8\xf9]|....ftypM4A", re.DOTALL)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", re.IGNORECASE)

_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = range(5, 9)  # orientations whose width is the upright picture's height
_ORIENTATION = 0x0112  # the EXIF tag

_SOUND_WAY_OUT = "it is damaged, or none of wav, flac, ogg, opus, mp3, m4a"
_BLOCK_SAMPLES = 1 << 18  # decoded at a time, all channels together
_MOST_CHANNELS = 64  # of a sound; a matrix with more on its shorter side is something else
_LOUDEST = 1e10  # full scale is 1; far beyond it squares overflow in float32


class MediaError(ValueError):
    """A picture, sound or text that cannot be read: which one, why, and what to do.

    >>> open_image("gone.jpg")
    Traceback (most recent call last):
    MediaError: cannot read image 'gone.jpg': No such file or directory; check the path and its permissions
    """


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is refused before it costs memory or time.

    >>> open_image("dog.jpg", Limits(max_pixels=1_000))
    Traceback (most recent call last):
    MediaError: cannot read image 'dog.jpg': ... is more than the limit of 1,000 pixels; shrink it or raise the limit
    """

    max_bytes: int = 1 << 30  # of one file
    max_pixels: int = 178_000_000  # width x height, read from the header
    max_seconds: float = 7_200.0  # of one sound
    max_characters: int = 1_000_000  # of one text

    def __post_init__(self) -> None:
        """Refuse limits that let nothing through."""
        for name in ("max_bytes", "max_pixels", "max_seconds", "max_characters"):
            if not getattr(self, name) > 0:
                raise ValueError(f"limits.{name} must be positive, got {getattr(self, name)}")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, eq=False, repr=False)
class Image:
    """A picture: a path, encoded bytes, a binary file, a PIL image, an array or a tensor. C: 1, 3 or 4 channels.

    A `str` is a path. A numpy array is (H, W) or (H, W, C). A tensor is (H, W), (C, H, W) or (H, W, C), whichever its
    shape says; one that could be both, such as (3, 4, 3), is refused. Whole numbers count to 255 or 65,535, real
    numbers to 1. A dict is read as the `datasets` library writes it: {"bytes": ..., "path": ...}. Nothing is opened
    before it is embedded, and what cannot be read raises MediaError then.

    >>> Image("dog.jpg"), Image(np.zeros((4, 6, 3), np.uint8))
    (Image('dog.jpg'), Image(<ndarray (4, 6, 3) uint8>))
    """

    source: ImageSource

    def __repr__(self) -> str:
        """Name the source in a few words, never in full."""
        return f"Image({_name(self.source)})"

    def _repr_html_(self) -> str:
        from encoders.display import media_html

        return media_html(self)


@dataclass(frozen=True, eq=False, repr=False)
class Audio:
    """A sound: a path, encoded bytes, a binary file, or samples (N,), (C, N) or (N, C) with a `sampling_rate` in Hz.

    A `str` is a path. The shorter side of a matrix of samples is its channels, 64 at most; a square is refused. A dict
    is read as the `datasets` library writes it: {"array": ..., "sampling_rate": ...} or {"bytes": ..., "path": ...}; so
    are its audio decoders (torchcodec): anything whose `get_all_samples()` has `data` (C, N) and `sample_rate`. Whole
    numbers count to their type's end, real numbers to 1. Nothing is opened before it is embedded, and what cannot be
    read raises MediaError then.

    >>> Audio("rain.ogg"), Audio(np.zeros(8_000), sampling_rate=16_000)
    (Audio('rain.ogg'), Audio(<ndarray (8000,) float64>, sampling_rate=16000))
    """

    source: AudioSource
    sampling_rate: float | None = None

    def __repr__(self) -> str:
        """Name the source in a few words, never in full."""
        rate = "" if self.sampling_rate is None else f", sampling_rate={self.sampling_rate}"
        return f"Audio({_name(self.source)}{rate})"

    def _repr_html_(self) -> str:
        from encoders.display import media_html

        return media_html(self)


@dataclass(frozen=True, repr=False)
class Text:
    """A text, whatever it looks like: what a plain str is too, for where a wrapper is wanted.

    >>> Text("dog.jpg")
    Text('dog.jpg')
    """

    text: str

    def __repr__(self) -> str:
        """Name the source in a few words, never in full."""
        return f"Text({_name(self.text)})"


def media_kind(path: str | os.PathLike[str]) -> MediaKind | None:
    """Tell what a file holds, from its extension, or from its first bytes where it has none; None if neither says.

    >>> [media_kind(name) for name in ("dog.jpg", "rain.ogg", "notes.txt", "model.bin")]
    ['image', 'audio', 'text', None]
    """
    path = Path(path)
    if path.suffix:
        return _SUFFIXES.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return None
    return kind_of_content(start)


def kind_of_content(start: bytes) -> MediaKind | None:
    """Tell what encoded bytes hold, of which the first 16 are enough: "image", "audio", or None."""
    if any(pattern.match(start) for pattern in _IMAGE_READERS):
        return "image"
    return "audio" if _AUDIO_START.match(start) else None


def open_text(source: str | Text, limits: Limits = DEFAULT_LIMITS) -> str:
    """Return the text as a str that has a UTF-8 form.

    Raises:
        MediaError: not a text, too long, or with half of a surrogate pair in it.

    >>> open_text("a dog")
    'a dog'
    """
    text = source.text if isinstance(source, Text) else source
    if not isinstance(text, str):
        raise _error("text", text, f"it is of type {type(text).__name__}", "pass a str")
    if len(text) > limits.max_characters:
        why = f"it has {len(text):,} characters, the limit is {limits.max_characters:,}"
        raise _error("text", text, why, "cut it into parts")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        why = f"the character at {error.start} is half of a surrogate pair"
        raise _error("text", text, why, "decode the bytes it came from as UTF-8") from error
    return text


def open_image(
    source: ImageSource | Image, limits: Limits = DEFAULT_LIMITS, draft_size: int | None = None
) -> PIL.Image.Image:
    """Return a picture as RGB: upright, transparent parts over white, 16 bits scaled to 8, the first frame of several.

    With `draft_size`, a JPEG may be decoded at a half, quarter or eighth of its size, as long as each side keeps that
    many pixels: several times faster, with slightly different pixels.

    Raises:
        MediaError: missing, damaged, cut short, beyond the limits, or not a picture.

    >>> open_image("dog.jpg").mode
    'RGB'
    """
    return open_sized_image(source, limits, draft_size)[0]


def open_sized_image(
    source: ImageSource | Image, limits: Limits = DEFAULT_LIMITS, draft_size: int | None = None
) -> tuple[PIL.Image.Image, Size]:
    """Return the picture of `open_image`, and its width and height when it stands upright and is decoded whole.

    Raises:
        MediaError: as `open_image` does.

    >>> picture, size = open_sized_image("dog.jpg", draft_size=32)
    >>> picture.size < size
    True
    """
    if isinstance(source, Image):
        source = source.source
    name = _name(source)
    with _telling("image", name):
        if isinstance(source, PIL.Image.Image):
            with _turn(source):
                picture = _upright_rgb(source, limits)
            return picture, picture.size
        array = _array(source)
        if array is not None:
            picture = _upright_rgb(_image_of_array(array, either_way=not isinstance(source, np.ndarray)), limits)
            return picture, picture.size
        with _opened(source, limits) as file:
            return _decode_image(file, limits, draft_size)


def open_audio(
    source: AudioSource | Audio, sample_rate: int, limits: Limits = DEFAULT_LIMITS, max_seconds: float | None = None
) -> np.ndarray:
    """Return a sound as mono float32 samples (N,) at `sample_rate` Hz, full scale at 1.

    Channels are averaged, then resampled (soxr, high quality), block by block. Decoding stops once `max_seconds` are
    there; what comes back is then exactly the beginning of the whole result.

    Raises:
        MediaError: missing, damaged, empty, beyond the limits, with samples that are no numbers, or not a sound.

    >>> open_audio("rain.ogg", 16_000, max_seconds=1.5).shape
    (24000,)
    """
    audio = source if isinstance(source, Audio) else Audio(source)
    blocks_of_source = closing(_audio_blocks(audio.source, audio.sampling_rate, limits))
    with _telling("audio", _name(audio.source), _SOUND_WAY_OUT), blocks_of_source as blocks:
        return _resample(blocks, sample_rate, limits, max_seconds)


def audio_parts(source: AudioSource | Audio, sample_rate: int, limits: Limits = DEFAULT_LIMITS) -> Iterator[np.ndarray]:
    """Yield what `open_audio` returns, part after part, as it is decoded: memory does not grow with the length.

    Raises:
        MediaError: as `open_audio` does.

    >>> sum(len(part) for part in audio_parts("rain.ogg", 16_000)) == len(open_audio("rain.ogg", 16_000))
    True
    """
    audio = source if isinstance(source, Audio) else Audio(source)
    blocks_of_source = closing(_audio_blocks(audio.source, audio.sampling_rate, limits))
    with _telling("audio", _name(audio.source), _SOUND_WAY_OUT), blocks_of_source as blocks:
        yield from _resampled(blocks, sample_rate, limits)


def image_size(source: ImageSource | Image, limits: Limits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Return the (width, height) that `open_image` gives without `draft_size`; of a file, only the header is read.

    Raises:
        MediaError: missing, damaged, beyond the limits, or not a picture.

    >>> image_size(np.zeros((4, 6, 3), np.uint8))
    (6, 4)
    """
    if isinstance(source, Image):
        source = source.source
    if isinstance(source, PIL.Image.Image) or _array(source) is not None:
        return open_image(source, limits).size
    name = _name(source)
    with _telling("image", name), _opened(source, limits) as file, _reader_of(file)(file) as image:
        _check_pixels(image, limits)
        if isinstance(image, PngImageFile):
            image.load()  # a PNG may state how it is turned behind its pixels
        # Turned by a quarter; of a TIFF, PIL has turned the size already.
        lying = not isinstance(image, TiffImageFile) and _orientation(image) >= 5
        return (image.height, image.width) if lying else (image.width, image.height)


_TURN_LOCKS = [threading.Lock() for _ in range(64)]


def _turn(source: object) -> threading.Lock:
    """Return a lock for a source that has a state, such as a file's position: several threads may be given the same."""
    return _TURN_LOCKS[id(source) // 16 % len(_TURN_LOCKS)]


class _Refusal(Exception):  # noqa: N818 - never leaves this file
    """Why a source is refused and the way out; the opener adds what it was and makes it a MediaError."""

    def __init__(self, why: str, way_out: str) -> None:
        super().__init__(why)
        self.why = why
        self.way_out = way_out


class _Name(str):
    """A source's name, already in its printed form."""

    __slots__ = ()


def _error(kind: str, source: object, why: str, way_out: str) -> MediaError:
    return MediaError(f"cannot read {kind} {_name(source)}: {why}; {way_out}")


@contextmanager
def _telling(kind: str, source: object, way_out: str = "it is damaged or cut short: replace it") -> Iterator[None]:
    """Make whatever goes wrong a MediaError that names the source; `way_out` is for what a decoder raises."""
    try:
        yield
    except _Refusal as refusal:
        raise _error(kind, source, refusal.why, refusal.way_out) from refusal.__cause__
    except Exception as error:  # a decoder met with damaged data raises almost anything
        raise _error(kind, source, _reason(error), way_out) from error


def _reason(error: Exception) -> str:
    # In full, libsndfile's words name the file object too, and FFmpeg's its number and path.
    told = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    told = re.sub(r" \(\d+ bytes not processed\)", "", told)  # of a picture that is cut short: nothing to anybody
    return " ".join(told.split()).rstrip(".") or type(error).__name__


def _name(source: object) -> _Name:
    """Name a source in a few words, for messages."""
    if isinstance(source, _Name):
        return source
    if isinstance(source, str):
        return _Name(repr(source) if len(source) <= 200 else f"{source[:60]!r}... ({len(source):,} characters)")
    if isinstance(source, os.PathLike):
        return _Name(repr(os.fspath(source)))
    if isinstance(source, bytes | bytearray | memoryview):
        return _Name(f"<{len(source):,} bytes>")
    if isinstance(source, PIL.Image.Image):
        return _Name(f"<PIL image {source.mode} {source.width}x{source.height}>")
    if isinstance(source, Mapping):
        return _Name(f"<dict of {', '.join(map(str, source))}>")
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return _Name(f"<{type(source).__name__} {tuple(source.shape)} {source.dtype}>")
    return _Name(f"<{type(source).__name__}>")


@contextmanager
def _opened(source: Any, limits: Limits) -> Iterator[BinaryIO]:
    """Open a path, bytes or a binary file as a seekable file of at most `limits.max_bytes`."""
    if isinstance(source, Mapping):
        content = source.get("bytes")
        source = source.get("path") if content is None else content
        if source is None:
            raise _Refusal('the dict holds neither "bytes" nor "path"', "give it one of them")
    if isinstance(source, str | os.PathLike):
        with _open_path(source) as file:
            _check_bytes(os.fstat(file.fileno()).st_size, limits)
            yield file
        return
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
    elif hasattr(source, "read"):
        with _turn(source):
            if hasattr(source, "seekable") and source.seekable():
                source.seek(0)  # so that opening the same source twice gives the same result
            content = source.read(limits.max_bytes + 1)
        if not isinstance(content, bytes):
            raise _Refusal("the file was opened as text", 'open it with mode "rb"')
    else:
        raise _Refusal(f"a {type(source).__name__} is no source of media", "pass a path, bytes, a file or an array")
    _check_bytes(len(content), limits)
    yield BytesIO(content)


def _open_path(path: str | os.PathLike[str]) -> BinaryIO:
    text = os.fspath(path)
    if isinstance(text, str) and _URL.match(text):
        if text.lower().startswith("file:"):
            raise _Refusal("a file:// address is no path", "pass the path itself")
        if text.lower().startswith("data:"):
            raise _Refusal("a data: address is no path", "decode it and pass the bytes")
        raise _Refusal("remote fetch is off", "download it first and pass the path or the bytes")
    try:
        mode = os.stat(text).st_mode
        if not stat.S_ISREG(mode):
            raise _Refusal("a folder" if stat.S_ISDIR(mode) else "not a regular file", "pass the path of a file")
        return open(text, "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise _Refusal(why, "check the path and its permissions") from error


def _check_bytes(size: int, limits: Limits) -> None:
    if size == 0:
        raise _Refusal("it is empty", "replace it or leave it out")
    if size > limits.max_bytes:
        raise _Refusal(f"larger than the limit of {limits.max_bytes:,} bytes", "shrink it or raise the limit")


def _array(source: object) -> np.ndarray | None:
    """Return an array, a tensor or a list of numbers as an array; None for anything else."""
    if isinstance(source, np.ndarray):
        return source
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported it
    if torch is not None and isinstance(source, torch.Tensor):
        tensor: Tensor = source.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if isinstance(source, list | tuple):
        return np.asarray(source)
    return None


# Pictures


def _decode_image(file: BinaryIO, limits: Limits, draft_size: int | None) -> tuple[PIL.Image.Image, Size]:
    with _reader_of(file)(file) as image:
        _check_pixels(image, limits)  # PIL has read no more than the header
        width, height = image.size
        if draft_size is not None:
            image.draft("RGB", (draft_size, draft_size))
        picture = _upright_rgb(image, limits)
        return picture, (height, width) if _orientation(image) in _ON_ITS_SIDE else (width, height)


def _reader_of(file: BinaryIO) -> type[ImageFile]:
    start = file.read(16)
    file.seek(0)
    reader = next((reader for pattern, reader in _IMAGE_READERS.items() if pattern.match(start)), None)
    if reader is None:
        raise _Refusal("it is no JPEG, PNG, WebP, GIF, BMP or TIFF", "convert it to one of them")
    return reader


def _check_pixels(image: PIL.Image.Image, limits: Limits) -> None:
    if image.width * image.height > limits.max_pixels:
        why = f"{image.width} x {image.height} is more than the limit of {limits.max_pixels:,} pixels"
        raise _Refusal(why, "shrink it or raise the limit")


def _upright_rgb(image: PIL.Image.Image, limits: Limits) -> PIL.Image.Image:
    _check_pixels(image, limits)
    if 0 in image.size:
        raise _Refusal(f"it is {image.width} x {image.height}", "replace it or leave it out")
    image.load()
    turn = _TURNS.get(_orientation(image))  # after the pixels, because a PNG may state it behind them
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.has_transparency_data:
        white = PIL.Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    image = image.convert("RGB")
    image.info.clear()  # or opening the result again would turn it again
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scale a picture of 16-bit, 32-bit or real numbers to 8 bits.

    16 bits have a known range. The other modes have none: 0..1 (real numbers), 0..255 and 0..65,535 are taken as they
    are, anything else is stretched from its least to its greatest value.
    """
    pixels = np.asarray(image)
    if not np.isfinite(pixels).all():
        raise _Refusal("some pixels are NaN or infinite", "replace them")
    low, high = float(pixels.min()), float(pixels.max())
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65_535.0
    elif low >= 0 and high <= 65_535:
        low = 0.0
        high = 1.0 if image.mode == "F" and high <= 1 else 255.0 if high <= 255 else 65_535.0
    scaled = (pixels.astype(np.float64) - low) * (255.0 / ((high - low) or 1.0))
    return PIL.Image.fromarray(np.rint(scaled).astype(np.uint8))


def _image_of_array(array: np.ndarray, either_way: bool) -> PIL.Image.Image:
    """Return an array (H, W) or (H, W, C), or with `either_way` (C, H, W) too, as a picture. C: 1, 3 or 4."""
    if array.ndim == 2:
        array = array[:, :, None]
    elif either_way and array.ndim == 3 and array.shape[0] in (1, 3, 4):
        if array.shape[2] in (1, 3, 4):
            raise _Refusal("its channels could come first or last", "pass a numpy array (H, W, C)")
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        wanted = "(H, W), (C, H, W) or (H, W, C)" if either_way else "(H, W) or (H, W, C)"
        way_out = "pass its pictures one by one: list(batch)" if array.ndim == 4 else "transpose it"
        raise _Refusal(f"its shape is none of {wanted} with 1, 3 or 4 channels", way_out)
    if 0 in array.shape:
        raise _Refusal("it has no pixels", "leave it out")
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = np.rint(array / 257).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # NaN fails both
            raise _Refusal("real numbers must lie in 0..1", "divide by the largest value, or pass uint8")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise _Refusal(
            f"numbers of type {array.dtype} have no known range", "pass uint8, uint16 or real numbers in 0..1"
        )
    return PIL.Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def _orientation(image: PIL.Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where none is stated.

    A block of bytes is read here: PIL would parse every tag in it and warn of each broken one.
    """
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        return int(image.getexif().get(_ORIENTATION, 1))
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:  # cut short
        pass
    return 1


# Sounds


def _audio_blocks(
    source: AudioSource, sampling_rate: float | None, limits: Limits
) -> Generator[tuple[float, np.ndarray]]:
    """Yield (sampling rate, float32 block (frames, channels)) from the beginning to the end of a sound."""
    if isinstance(source, Mapping) and "array" in source:
        sampling_rate = sampling_rate or source.get("sampling_rate")
        source = source["array"]
    array = _array(source)
    if array is not None:
        if sampling_rate is None:
            raise _Refusal("samples need their rate", "pass Audio(samples, sampling_rate=...)")
        yield from _blocks_of_array(array, sampling_rate)
        return
    if callable(getattr(source, "get_all_samples", None)):
        yield from _blocks_of_decoder(source, sampling_rate, limits)
        return
    if sampling_rate is not None:
        raise _Refusal("a file states its own sampling rate", "leave sampling_rate out")
    with _opened(source, limits) as file:
        start = file.read(16)
        file.seek(0)
        ffmpeg_format = next((name for pattern, name in _FFMPEG_FORMATS.items() if pattern.match(start)), None)
        yield from _blocks_of_sndfile(file) if ffmpeg_format is None else _blocks_of_ffmpeg(file, ffmpeg_format)


def _blocks_of_decoder(decoder: Any, sampling_rate: float | None, limits: Limits) -> Iterator[tuple[float, np.ndarray]]:
    """Yield what torchcodec's AudioDecoder reads, or one of its kind."""
    if sampling_rate is not None:
        raise _Refusal("a decoder states its own sampling rate", "leave sampling_rate out")
    seconds = getattr(getattr(decoder, "metadata", None), "duration_seconds", None)
    if seconds is not None and seconds > limits.max_seconds:  # before all of it is decoded at once
        raise _Refusal(f"it lasts longer than the limit of {limits.max_seconds:g} s", "cut it or raise the limit")
    with _turn(decoder):
        samples = decoder.get_all_samples()
    array = _array(samples.data)
    if array is None or array.ndim != 2:
        raise _Refusal("get_all_samples() gave no `data` of shape (C, N)", "pass samples and their rate")
    yield float(samples.sample_rate), np.ascontiguousarray(array.T, dtype=np.float32)


def _blocks_of_array(array: np.ndarray, sampling_rate: float) -> Iterator[tuple[float, np.ndarray]]:
    if array.ndim == 2:
        if array.shape[0] == array.shape[1] > 1:
            raise _Refusal("a square of samples could be (C, N) or (N, C)", "pass one channel, (N,)")
        if min(array.shape) > _MOST_CHANNELS:
            why = f"a matrix {array.shape} is no sound of {_MOST_CHANNELS} channels at most"
            raise _Refusal(why, "pass the sounds of a batch one by one, and samples rather than a spectrogram")
        array = array.T if array.shape[0] < array.shape[1] else array
    if array.ndim == 1:
        array = array[:, None]
    if array.size == 0:
        return
    if array.ndim != 2:
        raise _Refusal(f"samples must have one or two dimensions, not {array.ndim}", "pass (N,), (C, N) or (N, C)")
    if np.issubdtype(array.dtype, np.signedinteger):
        offset, full_scale = 0, -np.iinfo(array.dtype).min
    elif array.dtype == np.uint8:
        offset, full_scale = 128, 128
    elif np.issubdtype(array.dtype, np.floating):
        offset, full_scale = 0, 1
    else:
        raise _Refusal(f"samples of type {array.dtype} have no known scale", "pass real numbers or signed integers")
    step = max(1, _BLOCK_SAMPLES // max(1, array.shape[1]))
    for first in range(0, len(array), step):
        block = array[first : first + step]
        if full_scale != 1:
            block = (block.astype(np.float64) - offset) / full_scale
        with np.errstate(over="ignore"):  # an overflow becomes infinite, and that is refused
            yield sampling_rate, block.astype(np.float32)


def _blocks_of_sndfile(file: BinaryIO) -> Iterator[tuple[float, np.ndarray]]:
    import soundfile

    with soundfile.SoundFile(file) as sound:
        step = max(1, _BLOCK_SAMPLES // sound.channels)
        while len(block := sound.read(step, dtype="float32", always_2d=True)):
            yield sound.samplerate, block


def _blocks_of_ffmpeg(file: BinaryIO, ffmpeg_format: str) -> Iterator[tuple[float, np.ndarray]]:
    try:
        import av
    except ImportError as error:
        raise _Refusal("AAC needs one more package", "pip install 'onepeace[m4a]', or convert it to FLAC") from error

    with av.open(file, mode="r", format=ffmpeg_format) as container:
        if not container.streams.audio:
            raise _Refusal("it holds no sound", "leave it out")
        to_float = av.AudioResampler(format="fltp")
        for frame in container.decode(container.streams.audio[0]):
            for part in to_float.resample(frame):
                yield part.sample_rate, part.to_ndarray().T


def _resample(
    blocks: Iterator[tuple[float, np.ndarray]], sample_rate: int, limits: Limits, max_seconds: float | None
) -> np.ndarray:
    """Average the channels of `blocks` and bring them to `sample_rate`: float32 (N,)."""
    wanted = None if max_seconds is None else round(max_seconds * sample_rate)
    produced = 0
    parts: list[np.ndarray] = []
    for part in _resampled(blocks, sample_rate, limits):
        parts.append(part)
        produced += len(part)
        if wanted is not None and produced >= wanted:
            break
    return np.concatenate(parts)[:wanted]


def _resampled(blocks: Iterator[tuple[float, np.ndarray]], sample_rate: int, limits: Limits) -> Iterator[np.ndarray]:
    """Yield the samples of `blocks` at `sample_rate`, channels averaged: float32, part after part."""
    import soxr

    stream: Any = None
    rate = 0.0
    heard = produced = 0
    for rate, block in blocks:
        if not 1 <= rate <= 10_000_000:
            raise _Refusal(f"a sampling rate of {rate} Hz is out of range", "state the rate in Hz, 1 to 10,000,000")
        if not np.abs(block).max() <= _LOUDEST:  # NaN fails this too
            raise _Refusal("some samples are NaN, infinite or absurdly large", "mend or replace it")
        heard += len(block)
        if heard > limits.max_seconds * rate:
            raise _Refusal(f"it lasts longer than the limit of {limits.max_seconds:g} s", "cut it or raise the limit")
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        if rate != sample_rate:
            stream = stream or soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
            mono = stream.resample_chunk(mono)
        produced += len(mono)
        yield mono
    if heard == 0:
        raise _Refusal("it holds no samples", "replace it or leave it out")
    if stream is not None:
        # The resampler, which lags behind until here, may end a sample early or late; a sound of n samples has
        # ceil(n * ratio), as in librosa.
        rest = stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        missing = max(0, ceil(heard * (float(sample_rate) / rate)) - produced)
        yield np.pad(rest[:missing], (0, max(0, missing - len(rest))))
