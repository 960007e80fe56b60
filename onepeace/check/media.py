"""Whether each format that onepeace reads can be read here, and a damaged file is refused.

Small files are made at run time, so that nothing ships for this and encoders are not needed anywhere else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from encoders.media import MediaError, open_audio, open_image
from onepeace.check.finding import Finding, Outcome

SIZE = 64  # pixels a side
PICTURES: Mapping[str, tuple[str, dict[str, object]]] = {
    "jpg": ("JPEG", {"quality": 95}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 95}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
}
OFF = 12.0  # of 255, on average; what a lossy format or 256 colours may cost a smooth picture
RATE, HZ, SECONDS = 48_000, 440.0, 1.0
SOUNDS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
HEARD_AT = 16_000  # Hz
OFF_HZ, OFF_SECONDS = 4.0, 0.1  # what a codec may cost: its frames pad the ends


def pictures() -> Finding:
    """Write a smooth picture in every format, read it, and compare the pixels."""
    across = np.linspace(0, 255, SIZE, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(across, across[:, None], np.uint8(128)), axis=-1)

    def read(name: str) -> str | None:
        form, options = PICTURES[name]
        out = io.BytesIO()
        PIL.Image.fromarray(pixels).save(out, form, **options)
        off = np.abs(np.asarray(open_image(out.getvalue()), dtype=np.float64) - pixels).mean()
        return None if off <= OFF else f"pixels differ by {off:.0f} of 255"

    return _all_of(PICTURES, read, "pip install --force-reinstall Pillow")


def sounds() -> Finding:
    """Write a tone in every format, read it, and look for its pitch and length."""
    import soundfile

    def read(name: str) -> str | None:
        form, subtype = SOUNDS[name]
        out = io.BytesIO()
        soundfile.write(out, _tone(), RATE, format=form, subtype=subtype)
        return _wrong_tone(out.getvalue())

    return _all_of(SOUNDS, read, "pip install --force-reinstall soundfile (libsndfile 1.1 or newer)")


def m4a() -> Finding:
    """The same for AAC in MPEG-4, which needs an extra."""
    try:
        import av
    except ModuleNotFoundError:
        return Finding(Outcome.ABSENT, "m4a and aac are not read", "pip install 'onepeace[m4a]'")

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(_tone()[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for some in (frame, None):
            container.mux(stream.encode(some))
    wrong = _wrong_tone(out.getvalue())
    if wrong:
        return Finding(Outcome.FAILED, f"m4a: {wrong}", "pip install --force-reinstall av")
    return Finding(Outcome.OK, f"m4a, with PyAV {av.__version__}")


def damaged() -> Finding:
    """Hand in files that are cut short, empty or something else: each must be refused with a reason."""
    import soundfile

    picture, sound = io.BytesIO(), io.BytesIO()
    PIL.Image.effect_noise((SIZE, SIZE), 80).save(picture, "PNG")
    soundfile.write(sound, _tone(), RATE, format="FLAC")
    openers: dict[str, Callable[[], object]] = {
        "a picture cut short": lambda: open_image(picture.getvalue()[:600]),
        "an empty picture": lambda: open_image(b""),
        "a sound without its end": lambda: open_audio(sound.getvalue()[:30], HEARD_AT),
        "text as a sound": lambda: open_audio(b"this is no sound", HEARD_AT),
    }
    taken = []
    for name, opener in openers.items():
        try:
            opener()
            taken.append(name)
        except MediaError:
            pass
    if taken:
        return Finding(
            Outcome.FAILED, f"not refused: {', '.join(taken)}", "install onepeace, Pillow and soundfile again"
        )
    return Finding(Outcome.OK, f"refused: {', '.join(openers)}")


def _all_of(names: Mapping[str, object], read: Callable[[str], str | None], advice: str) -> Finding:
    wrong = {}
    for name in names:
        try:
            reason = read(name)
        except Exception as error:  # a library that was built without a format raises almost anything
            reason = " ".join(str(error).split()) or type(error).__name__
        if reason:
            wrong[name] = reason
    if wrong:
        return Finding(Outcome.FAILED, "; ".join(f"{name}: {reason}" for name, reason in wrong.items()), advice)
    return Finding(Outcome.OK, " ".join(names))


def _tone() -> NDArray[np.float32]:
    return (0.3 * np.sin(2 * np.pi * HZ / RATE * np.arange(round(SECONDS * RATE)))).astype(np.float32)


def _wrong_tone(content: bytes) -> str | None:
    """Return what is wrong with an encoded tone; None: nothing."""
    samples = open_audio(content, HEARD_AT)
    seconds = len(samples) / HEARD_AT
    if abs(seconds - SECONDS) > OFF_SECONDS:
        return f"it lasts {seconds:.2f} s and not {SECONDS:g}"
    hz = float(np.abs(np.fft.rfft(samples)).argmax()) / seconds
    return None if abs(hz - HZ) <= OFF_HZ else f"its pitch is {hz:.0f} Hz and not {HZ:g}"
