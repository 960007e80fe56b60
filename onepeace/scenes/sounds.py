"""Scenes of a few noises one after the other, and how they sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onepeace.scenes.combinations import Combination

RATE = 16_000  # Hz
HERTZ = {
    "deep": (110.0, 140.0),
    "low": (240.0, 300.0),
    "middle": (520.0, 650.0),
    "high": (1150.0, 1400.0),
    "shrill": (2500.0, 3000.0),
}
LENGTH = (0.6, 1.5)  # seconds of a noise
GAP = 0.35  # seconds between noises at least, and to either end
FADE = 0.02  # seconds
HUM = 0.002  # standard deviation of what is heard beneath


@dataclass(frozen=True)
class Event:
    """A noise and when it is heard."""

    what: Combination
    start: float  # seconds
    end: float


@dataclass(frozen=True)
class SoundScene:
    """Noises in their order, none of which overlap."""

    seconds: float
    events: tuple[Event, ...]


def timed(whats: Sequence[Combination], rng: np.random.Generator) -> SoundScene:
    """Return the noises in their order at random times, in a sound of 4 to 10 seconds."""
    lengths = rng.uniform(*LENGTH, len(whats))
    needed = lengths.sum() + GAP * (len(whats) + 1)
    seconds = round(float(max(rng.uniform(4.0, 9.9), needed)), 2)
    shares = rng.dirichlet(np.ones(len(whats) + 1)) * (seconds - needed)
    events, now = [], 0.0
    for what, length, share in zip(whats, lengths, shares[:-1], strict=True):
        now += GAP + share
        events.append(Event(what, round(now, 3), round(now + length, 3)))
        now += length
    return SoundScene(seconds, tuple(events))


def heard(scene: SoundScene, rng: np.random.Generator) -> np.ndarray:
    """Return the samples, float32 in -1..1 at 16 kHz."""
    samples = HUM * rng.normal(size=round(scene.seconds * RATE))
    for event in scene.events:
        first = round(event.start * RATE)
        time = np.arange(min(round((event.end - event.start) * RATE), len(samples) - first)) / RATE
        wave = NOISE[event.what.noun](time, rng.uniform(*HERTZ[event.what.adjective]), rng)
        fade = np.minimum(1.0, np.minimum(time, time[-1] - time) / FADE)
        samples[first : first + len(time)] += rng.uniform(0.15, 0.35) * fade * wave / np.abs(wave).max()
    return samples.clip(-1.0, 1.0).astype(np.float32)


def _tone(hertz: np.ndarray) -> np.ndarray:
    """Return a sine of changing pitch."""
    out: np.ndarray = np.sin(2 * np.pi * np.cumsum(hertz) / RATE)
    return out


def _beep(time: np.ndarray, hertz: float, rng: np.random.Generator) -> np.ndarray:
    return _tone(np.full(len(time), hertz))


def _buzz(time: np.ndarray, hertz: float, rng: np.random.Generator) -> np.ndarray:
    """Return a sawtooth without what the rate cannot hold."""
    out: np.ndarray = sum(
        (np.sin(2 * np.pi * n * hertz * time) / n for n in range(1, int(0.45 * RATE / hertz) + 1)), np.zeros(len(time))
    )
    return out


def _warble(time: np.ndarray, hertz: float, rng: np.random.Generator) -> np.ndarray:
    return _tone(hertz * (1 + 0.25 * np.sin(2 * np.pi * rng.uniform(5, 8) * time)))


def _rise(time: np.ndarray, hertz: float, rng: np.random.Generator) -> np.ndarray:
    return _tone(hertz * 2 ** (1.4 * time / time[-1] - 0.7))


def _fall(time: np.ndarray, hertz: float, rng: np.random.Generator) -> np.ndarray:
    return _tone(hertz * 2 ** (0.7 - 1.4 * time / time[-1]))


def _pulse(time: np.ndarray, hertz: float, rng: np.random.Generator) -> np.ndarray:
    out: np.ndarray = _beep(time, hertz, rng) * (np.sin(2 * np.pi * rng.uniform(6, 9) * time) > 0)
    return out


def _hiss(time: np.ndarray, hertz: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise of an octave and a half."""
    spectrum = np.fft.rfft(rng.normal(size=len(time)))
    frequency = np.fft.rfftfreq(len(time), 1 / RATE)
    spectrum[(frequency < hertz / 2**0.75) | (frequency > hertz * 2**0.75)] = 0
    out: np.ndarray = np.fft.irfft(spectrum, len(time))
    return out


def _rattle(time: np.ndarray, hertz: float, rng: np.random.Generator) -> np.ndarray:
    """Return knocks that die away quickly."""
    since = time % (1 / rng.uniform(9, 13))
    out: np.ndarray = np.exp(-since * max(60.0, hertz / 8)) * np.sin(2 * np.pi * hertz * since)
    return out


NOISE: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "beep": _beep,
    "buzz": _buzz,
    "warble": _warble,
    "rising tone": _rise,
    "falling tone": _fall,
    "pulsing tone": _pulse,
    "hiss": _hiss,
    "rattle": _rattle,
}
