from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from training_data import load
from training_model import MODEL

from encoders.modality import Modality
from onepeace.model.config import ModelConfig
from onepeace.model.onepeace import OnePeace
from onepeace.training.augment import AugmentConfig
from onepeace.training.data import StreamConfig
from onepeace.training.datamodule import ContrastiveData
from onepeace.training.losses import even_targets, fits, positives
from onepeace.training.mixing import Origin, draw_partners
from onepeace.training.rows import SourceConfig

NOTES = SourceConfig(source="notes", positives="label")
HALF = StreamConfig(modality="audio", batch_size=8, sources=[NOTES], mix=0.5)
ALL = dataclasses.replace(HALF, mix=1.0)


def words(pack: Path, ids_L: torch.Tensor) -> list[str | None]:
    """Return a text's words, unknown ones included."""
    tokenizer = Tokenizer.from_file(str(pack / "tokenizer.json"))
    return [tokenizer.id_to_token(int(id_)) for id_ in ids_L if id_ not in (0, 2)]


def test_a_medium_fits_a_text_when_it_shows_all_that_the_text_says() -> None:
    dog, rain, mix = [0, 0], [1, 1], [0, 1]
    media_B2, text_N2 = torch.tensor([dog, rain, mix, [1, 0]]), torch.tensor([dog, rain, mix])
    expected = [[True, False, False], [False, True, False], [True, True, True], [True, True, True]]
    assert fits(media_B2, text_N2).tolist() == expected
    assert even_targets(fits(media_B2, text_N2))[2].tolist() == pytest.approx([1 / 3] * 3)


def test_without_mixes_fitting_is_having_the_same_concept() -> None:
    media_B, text_N = torch.tensor([0, 1, 1, 5]), torch.tensor([1, 0, 2, 1, 7])
    assert torch.equal(even_targets(fits(media_B, text_N)), positives(media_B, text_N))
    assert torch.equal(even_targets(fits(media_B, text_N).T), positives(text_N, media_B))
    pairs = even_targets(fits(media_B[:, None].expand(-1, 2), text_N[:, None].expand(-1, 2)))
    assert torch.equal(pairs, positives(media_B, text_N))


def test_a_share_of_the_sounds_is_mixed_with_another_concept_and_says_both(small_pack: Path) -> None:
    steps = load(small_pack, HALF)
    mixed = 0
    for step in range(20):
        pair = steps[step].pairs[0]
        assert pair.media_concepts.shape == pair.text_concepts.shape == (8, 2)
        for ids_L, (one, other) in zip(pair.ids, pair.media_concepts.tolist(), strict=True):
            said = words(small_pack, ids_L)
            notes = ["low", "high"]
            expected = ["a", notes[one], "note"]
            if one != other:
                mixed += 1
                expected += ["[UNK]", "a", notes[other], "note"]  # "and" is no word of this vocabulary
            assert said == expected
    assert mixed / 160 == pytest.approx(0.5, abs=0.12)


def test_a_mixed_batch_is_a_function_of_its_step_and_is_divided_among_processes(small_pack: Path) -> None:
    whole, again = load(small_pack, HALF), load(small_pack, HALF)
    again[4]
    one, same = whole[2].pairs[0], again[2].pairs[0]
    torch.testing.assert_close(one.media, same.media, rtol=0, atol=0)
    for rank in (0, 1):
        part = load(small_pack, HALF, rank, 2)[2].pairs[0]
        assert part.media_concepts.tolist() == one.media_concepts[rank::2].tolist()
        length = part.media[0].shape[1]
        torch.testing.assert_close(part.media[0], one.media[0][rank::2, :length], rtol=0, atol=0)
        assert torch.equal(part.ids[:, : one.ids.shape[1]], one.ids[rank::2, : part.ids.shape[1]])


def test_the_teacher_of_joined_captions_lies_between_those_of_each(small_pack: Path) -> None:
    bank = load(small_pack, ALL).bank
    bank.lessons = {0: torch.randn(len(bank), 6)}
    features_BF = bank.lessons_of([[0], [0, 1]])[0]
    torch.testing.assert_close(features_BF, torch.stack([bank.lessons[0][0], bank.lessons[0][:2].mean(dim=0)]))


def test_pictures_are_not_mixed() -> None:
    with pytest.raises(ValueError, match=r"streams\.mix mixes sounds: leave it out of the image stream"):
        dataclasses.replace(ALL, modality="image")


def test_partners_show_something_else_can_be_read_and_come_from_sources_by_weight() -> None:
    concepts = [["dog"] * 500 + ["cat"] * 500, ["rain"] * 10]
    readable = [np.ones(1000, bool), np.array([True] * 5 + [False] * 5)]
    readable[0][:400] = False
    drawn = draw_partners(concepts, readable, [3.0, 1.0], 0.8, 0, seed=1, view=2)
    assert drawn == draw_partners(concepts, readable, [3.0, 1.0], 0.8, 0, seed=1, view=2)
    assert drawn != draw_partners(concepts, readable, [3.0, 1.0], 0.8, 0, seed=1, view=3)
    partners = [(row, partner) for row, partner in enumerate(drawn) if partner]
    assert len(partners) == pytest.approx(800, abs=40)
    assert all(concepts[partner.source][partner.row] != concepts[0][row] for row, partner in partners)
    assert all(readable[partner.source][partner.row] for _, partner in partners)
    # A dog is mixed with a cat of (3 of 4) x (5 of 6) draws, or with rain of 1 of 4.
    of_dogs = Counter(partner.source for row, partner in partners if row < 500)
    assert of_dogs[1] / of_dogs.total() == pytest.approx(0.25 / (0.25 + 0.75 * 5 / 6), abs=0.06)


def cached_data(pack: Path, cache: Path, stream: StreamConfig, augment: AugmentConfig) -> tuple[ContrastiveData, Any]:
    """Set up data whose features are cached, as training does, without a trainer."""
    adapters = MODEL["adapters"] | {"audio": {"kind": "log_mel_cnn", "width_multiplier": 0.1}}
    torch.manual_seed(0)
    model = OnePeace(ModelConfig.from_dict(MODEL | {"adapters": adapters}))
    backbone = model.adapters[Modality.AUDIO].backbone
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # one batch of noise brings what an untrained network makes of sounds to a usual size
    backbone.train()(torch.randn(4, 64_000))
    module = SimpleNamespace(
        distillations=[],
        model=model,
        tokenizer=Tokenizer.from_file(str(pack / "tokenizer.json")),
        device=torch.device("cpu"),
        trainer=SimpleNamespace(global_rank=0, world_size=1),
    )
    data = ContrastiveData([stream], root=pack, manifest=Path("manifest.jsonl"), cache=cache, augment=augment)
    data.trainer = SimpleNamespace(lightning_module=module)  # type: ignore[assignment]
    data.setup("fit")
    return data, model.adapters[Modality.AUDIO]


def test_cached_views_are_mixed_when_they_are_built_and_their_texts_say_both(small_pack: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(NOTES, where={"label": "low"}, views=2, weight=0.5)
    stream = dataclasses.replace(ALL, sources=[dataclasses.replace(NOTES, views=3), other])
    augment = AugmentConfig(time_masks=1, frequency_masks=1)
    data, adapter = cached_data(small_pack, tmp_path, stream, augment)
    assert data.steps is not None
    (training,) = data.steps.streams
    source = training.sources[0]
    assert [sum(partner is not None for partner in view) for view in source.partners] == [0, 12, 12]
    reader = source.reader
    for row in (0, 5):  # as one would compute it by hand
        partner = source.partners[2][row]
        assert partner is not None
        assert training.concepts[partner.source][partner.row] != training.concepts[0][row]
        rng = np.random.default_rng([data.seed, 2, row])
        first = reader(source.shards.read(source.rows[row].media), rng)
        second = reader(source.shards.read(training.sources[partner.source].rows[partner.row].media), rng)
        item = reader.masked(reader.mix(first, second, rng), rng)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            (expected,) = adapter.features(*reader.collate([item]))
        assert source.views[2][row].shape == expected.shape
        plain = source.views[0][row].float()
        assert plain.shape != expected.shape or not torch.allclose(plain, expected.float())
        error = (source.views[2][row].float() - expected.float()).norm() / expected.float().norm()
        assert float(error) < 0.02  # bfloat16, in other batches
    seen = Counter()
    for step in range(12):
        pair = data.steps[step].pairs[0]
        for ids_L, (one, two) in zip(pair.ids, pair.media_concepts.tolist(), strict=True):
            said = words(small_pack, ids_L)
            assert len(said) == (3 if one == two else 7)
            seen[one == two] += 1
    assert seen[True] / seen.total() == pytest.approx(1 / 3, abs=0.15)  # the plain views


def test_caches_of_plain_views_stay_good_where_sounds_are_mixed(small_pack: Path, tmp_path: Path) -> None:
    stream = dataclasses.replace(HALF, mix=0.0, sources=[dataclasses.replace(NOTES, views=2)])
    cached_data(small_pack, tmp_path, stream, AugmentConfig())
    before = {path.name for path in tmp_path.iterdir()}
    cached_data(small_pack, tmp_path, dataclasses.replace(stream, mix=0.5), AugmentConfig())
    new = {path.name for path in tmp_path.iterdir()} - before
    assert [name.rsplit("-", 1)[0] for name in new] == ["notes-manifest-view1"]


def test_mixing_without_a_view_to_mix_in_is_refused(small_pack: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"streams\.mix: .*set sources\.views to 2 or more, or leave data\.cache out"):
        cached_data(small_pack, tmp_path, HALF, AugmentConfig())
    assert not list(tmp_path.iterdir())


def test_what_is_left_out_of_a_cache_is_told_and_nothing_is_mixed_with_it(small_pack: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    for name in ("tokenizer.json", "audio.tar"):
        (pack / name).write_bytes((small_pack / name).read_bytes())
    manifest = (small_pack / "manifest.jsonl").read_text().replace("audio.tar/3.wav", "audio.tar/missing.wav")
    (pack / "manifest.jsonl").write_text(manifest)
    stream = dataclasses.replace(ALL, sources=[dataclasses.replace(NOTES, views=2)])
    data, _ = cached_data(pack, tmp_path / "cache", stream, AugmentConfig())
    assert data.steps is not None
    assert data.steps[0].skipped.keys() == {"sound-3"}
    assert not data.steps[1].skipped
    (source,) = data.steps.streams[0].sources
    assert 3 not in source.members
    assert all(partner != Origin(0, 3) for partner in source.partners[1])
