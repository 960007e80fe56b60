"""Scenes of noises that suit a question, and what is asked about them; each answer is as frequent as the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onepeace.scenes.combinations import EVENTS, PITCHES, Combination, Split, asked_in_turn, one_of
from onepeace.scenes.sounds import SoundScene, timed

Cells = dict[str, Any]  # of a row, but for its media

TIMES = ("never", "once", "twice", "three times")
CHOICES = 4

# What is asked, and how often the asked noise is heard.
PLAN: tuple[tuple[str, int], ...] = (
    *(("count", count) for count in (0, 1, 2, 3)),
    *(("heard", count) for count in (1, 1, 2, 1)),
    *(("first", 1), ("last", 1), ("first", 1), ("last", 1)),
    *(("after", 1), ("before", 1), ("after", 1), ("before", 1)),
    *(("count", count) for count in (0, 1, 2, 3)),
)


@dataclass(frozen=True)
class AskedScene:
    """Noises, and the combination that is asked about."""

    asked: Combination
    count: int
    question: str  # of PLAN
    sound: SoundScene


def sound_scene(number: int, split: Split, rng: np.random.Generator) -> AskedScene:
    """Return the scene of a number: combinations and questions come in turn, the rest is at random."""
    question, count = PLAN[number % len(PLAN)]
    asked = asked_in_turn(number, len(PLAN), EVENTS.own[split])
    others = [what for what in EVENTS.shown(split) if what != asked]
    alike = [what for what in others if what.shares(asked)]
    whats: list[Combination] = []
    for _ in range(int(rng.integers(1, 3)) + (count == 0) + (question in ("first", "last", "after", "before"))):
        left = [what for what in (alike if rng.random() < 0.6 else others) if what not in whats]
        whats.append(one_of(left, rng))
    for _ in range(count):
        last = len(whats)
        first = {"last": last, "before": 1}.get(question, 0)
        whats.insert(int(rng.integers(first, {"first": 0, "after": last - 1}.get(question, last) + 1)), asked)
    return AskedScene(asked, count, question, timed(whats, rng))


def chosen(sound: SoundScene, question: str, asked: Combination, split: Split, rng: np.random.Generator) -> Cells:
    """Return a question on one of the noises, its choices in random order, and the right one."""
    order = [event.what for event in sound.events]
    if question == "count":
        return {
            "text": f"how often is the {asked.phrase} heard?",
            "choices": [TIMES[i] for i in rng.permutation(len(TIMES))],
            "label": TIMES[order.count(asked)],
        }
    wrong: list[Combination] = []
    match question:
        case "heard":
            text, right = "which of these is heard?", asked
        case "first" | "last":
            text, right, wrong = f"what is heard {question}?", asked, order
        case _:
            right = order[order.index(asked) + (1 if question == "after" else -1)]
            text, wrong = f"what is heard right {question} the {asked.phrase}?", [w for w in order if w != asked]
    choices = [right, *dict.fromkeys(what for what in wrong if what != right)][:CHOICES]
    missing = [what for what in EVENTS.shown(split) if what not in order and what not in choices]
    choices += [missing[i] for i in rng.permutation(len(missing))[: CHOICES - len(choices)]]
    return {
        "text": text,
        "choices": [f"the {choices[i].phrase}" for i in rng.permutation(CHOICES)],
        "label": f"the {right.phrase}",
    }


def further(sound: SoundScene, asked: Combination, split: Split, rng: np.random.Generator) -> Cells:
    """Return another question, on a noise that a scene was not made for."""
    order = [event.what for event in sound.events]
    possible = ["heard"]
    if order.count(asked) == 1:
        possible += ["after"] * (order[-1] != asked) + ["before"] * (order[0] != asked)
    return chosen(sound, possible[-1 - int(rng.integers(min(2, len(possible))))], asked, split, rng)


def located(scene: SoundScene, what: Combination) -> Cells:
    """Return a phrase for a noise, with the spans when it is heard, which may be none."""
    spans = [[event.start, event.end] for event in scene.events if event.what == what]
    return {"text": f"the {what.phrase}", "spans": spans}


def located_by(scene: SoundScene, rng: np.random.Generator) -> Cells:
    """Return a phrase for all noises of one pitch or of one kind, with the spans when they are heard."""
    what = one_of(scene.events, rng).what
    attribute = what.adjective if rng.random() < 0.5 else what.noun
    phrase = f"any {attribute} noise" if attribute in PITCHES else f"any {attribute}"
    return {"text": phrase, "spans": [[e.start, e.end] for e in scene.events if attribute in e.what]}


def absent(scene: AskedScene, split: Split, rng: np.random.Generator) -> Combination:
    """Return a combination of the split's own that is not heard, but is like something that is, if there is one."""
    there = {event.what for event in scene.sound.events}
    missing = [what for what in EVENTS.own[split] if what not in there]
    alike = [what for what in missing if any(what.shares(other) for other in there)]
    return one_of(alike or missing, rng)
