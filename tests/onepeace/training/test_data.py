from __future__ import annotations

import dataclasses
import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer
from training_data import CONFIG, load

from encoders.modality import Modality
from onepeace.manifest import ManifestError, Shards
from onepeace.training.augment import AugmentConfig, build_reader
from onepeace.training.data import StreamConfig
from onepeace.training.evaluation import EvaluationBatches, EvaluationConfig
from onepeace.training.rows import SourceConfig, load_rows
from onepeace.training.sampling import shares
from onepeace.training.texts import fill, recombine, with_article

PICTURES = StreamConfig(modality="image", batch_size=8, sources=[SourceConfig(source="colours")])


def test_rows_are_filtered_as_the_config_says(small_pack: Path) -> None:
    def ids(**filters: object) -> list[str]:
        config = SourceConfig(source="colours", **filters)  # type: ignore[arg-type]
        return [row.id for row in load_rows(config, Modality.IMAGE, small_pack / "manifest.jsonl")]

    assert len(ids()) == 24
    assert len(ids(where={"label": ["red", "blue"]})) == 12
    assert len(ids(exclude={"label": "red"})) == 18
    assert set(ids(where={"label": "red"}, exclude={"id": "picture-0"})) == {f"picture-{i}" for i in range(4, 24, 4)}


def test_a_column_that_is_not_there_is_named(small_pack: Path) -> None:
    with pytest.raises(ManifestError, match="colour"):
        load_rows(SourceConfig(where={"colour": "red"}), Modality.IMAGE, small_pack / "manifest.jsonl")


def test_a_csv_with_columns_image_and_text_is_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("image,text\na.png,a red picture\nb.png,a blue picture\n")
    rows = load_rows(SourceConfig(), Modality.IMAGE, tmp_path / "mine.csv")
    assert [(row.media, row.texts) for row in rows] == [("a.png", ("a red picture",)), ("b.png", ("a blue picture",))]


def test_templates_are_filled_with_the_label(small_pack: Path) -> None:
    config = SourceConfig(source="notes", own_texts=0, templates=("{}", "the sound of {}"), articles=True)
    (row, *_) = load_rows(config, Modality.AUDIO, small_pack / "manifest.jsonl")
    assert row.texts == ("low", "a low", "the sound of low", "the sound of a low")


@pytest.mark.parametrize(("name", "expected"), [("owl", "an owl"), ("dog", "a dog"), ("the sea", "the sea")])
def test_articles(name: str, expected: str) -> None:
    assert with_article(name) == expected
    assert fill(["{}!"], name, articles=False) == [f"{name}!"]


def test_every_row_is_drawn_once_before_any_is_drawn_again(small_pack: Path) -> None:
    (stream,) = load(small_pack, PICTURES).streams
    (source,) = stream.sources
    draws = source.draws(0, 48, seed=1)
    assert sorted(draws[:24]) == sorted(draws[24:]) == list(range(24))
    assert draws[:24] != draws[24:]
    assert source.draws(10, 20, seed=1) == draws[10:30]
    assert stream.pass_steps == 3


def test_a_step_gives_the_same_batch_whenever_it_is_asked_for(small_pack: Path) -> None:
    once, again = load(small_pack, PICTURES), load(small_pack, PICTURES)
    for step in (5, 0, 2):
        again[step]
    a, b = once[3].pairs[0], again[3].pairs[0]
    torch.testing.assert_close(a.media, b.media, rtol=0, atol=0)
    torch.testing.assert_close(a.ids, b.ids, rtol=0, atol=0)
    assert not torch.equal(a.media[0], once[4].pairs[0].media[0])


def test_two_processes_divide_the_batch_of_one(small_pack: Path) -> None:
    whole = load(small_pack, PICTURES, distilled=6)[2]
    parts = [load(small_pack, PICTURES, rank, 2, distilled=6)[2] for rank in (0, 1)]
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part.pairs[0].media[0], whole.pairs[0].media[0][rank::2], rtol=0, atol=0)
        assert part.pairs[0].media_concepts.tolist() == whole.pairs[0].media_concepts[rank::2].tolist()
        assert part.ids is not None
        assert len(part.ids) == 3


def test_a_batch_that_cannot_be_divided_is_refused(small_pack: Path) -> None:
    with pytest.raises(ValueError, match="batch_size 8 cannot be divided among 3"):
        load(small_pack, PICTURES, 0, 3)


def test_sources_are_mixed_by_weight() -> None:
    assert shares([3, 1], 8) == [6, 2]
    assert shares([1, 1, 1], 8) in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    with pytest.raises(ValueError, match="without a row"):
        shares([1000, 1], 8)


def test_one_text_of_every_label_joins_the_keys(small_pack: Path) -> None:
    stream = StreamConfig(
        modality="audio", batch_size=2, every_label=True, sources=[SourceConfig(source="notes", positives="label")]
    )
    pair = load(small_pack, stream)[0].pairs[0]
    assert len(pair.media_concepts) == 2
    assert len(pair.ids) == len(pair.text_concepts) == 4
    assert sorted(pair.text_concepts[2:].tolist()) == [0, 1]


def test_a_file_that_cannot_be_read_is_reported_and_the_next_takes_its_place(
    small_pack: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("manifest.jsonl", "tokenizer.json", "image.tar"):
        (tmp_path / name).write_bytes((small_pack / name).read_bytes())
    manifest = (tmp_path / "manifest.jsonl").read_text().replace("image.tar/5.png", "image.tar/missing.png")
    (tmp_path / "manifest.jsonl").write_text(manifest)
    steps = load(tmp_path, PICTURES)
    with caplog.at_level("WARNING"):
        batches = [steps[step] for step in range(6)]  # two passes over all rows
    assert all(len(batch.pairs[0].media[0]) == 8 for batch in batches)
    assert list(steps.streams[0].sources[0].skipped) == ["picture-5"]
    assert Counter("picture-5" in record.message for record in caplog.records)[True] == 1


def test_plain_and_altered_media_are_what_the_model_takes(small_pack: Path, rng: np.random.Generator) -> None:
    shards = Shards(small_pack)
    for modality, reference in ((Modality.IMAGE, "image.tar/0.png"), (Modality.AUDIO, "audio.tar/0.wav")):
        reader = build_reader(CONFIG, modality, AugmentConfig())
        data = shards.read(reference)
        plain, same = reader(data), reader(data)
        altered = reader(data, np.random.default_rng(3))
        torch.testing.assert_close(plain, same, rtol=0, atol=0)
        torch.testing.assert_close(altered, reader(data, np.random.default_rng(3)), rtol=0, atol=0)
        assert altered.shape != plain.shape or not torch.equal(altered, plain)
        assert torch.isfinite(altered).all()


def test_an_evaluation_set_holds_every_medium_and_every_text_once(small_pack: Path) -> None:
    steps = load(small_pack, PICTURES)
    config = EvaluationConfig(name="colours", modality="image", sources=[PICTURES.sources[0]], batch_size=10)
    batches = EvaluationBatches(0, config, steps.streams[0].sources, steps.bank)
    assert [len(batch.media_concepts) for batch in batches] == [10, 10, 4]
    assert [concept for batch in batches for concept in batch.media_concepts.tolist()] == list(range(24))
    texts = Counter(concept for batch in batches for concept in batch.text_concepts.tolist())
    assert texts == dict.fromkeys(range(24), 3)


def test_recombined_captions_are_new_distinct_and_repeatable() -> None:
    captions = ["a dog is running in the snow", "a man is sitting on a bench", "two birds are flying over water"]
    made = recombine(captions, ["zebra", "owl"], 30, seed=1)
    assert len(made) == len(set(made)) == 30
    assert made == recombine(captions, ["zebra", "owl"], 30, seed=1)
    assert any("zebra" in text for text in made)


COLOURS = ("red", "green", "blue", "white")
PROMPTED = SourceConfig(source="colours", templates=("the picture of {}", "{} on paper"))


def texts_of(folder: Path, config: SourceConfig, steps: int = 30) -> list[tuple[str, ...]]:
    """Return the words of every text of the first steps."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    batches = load(folder, dataclasses.replace(PICTURES, sources=[config]))
    return [
        tuple(tokenizer.id_to_token(int(id_)) for id_ in ids_L if id_ not in (0, 2))
        for step in range(steps)
        for ids_L in batches[step].pairs[0].ids
    ]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_prompts_take_the_place_of_a_share_of_the_captions(small_pack: Path, share: float) -> None:
    drawn = texts_of(small_pack, dataclasses.replace(PROMPTED, caption_dropout=share))
    prompts = [text for text in drawn if text[:3] == ("the", "picture", "of") or text[1:] == ("on", "paper")]
    # Three captions and two prompts a row, each as likely; then the share.
    assert len(prompts) / len(drawn) == pytest.approx(0.4 + 0.6 * share, abs=0.09)


def test_words_are_left_out_of_captions_and_prompts_stay_whole(small_pack: Path) -> None:
    drawn = texts_of(small_pack, dataclasses.replace(PROMPTED, word_dropout=0.3))
    prompts = {text for colour in COLOURS for text in (("the", "picture", "of", colour), (colour, "on", "paper"))}
    captions = [text for text in drawn if text not in prompts]
    lengths = Counter(map(len, captions))
    assert set(lengths) == {1, 2, 3, 4}
    # Captions have 3, 4 and 3 words.
    assert sum(map(len, captions)) / len(captions) == pytest.approx(0.7 * 10 / 3, abs=0.3)
    assert sum(text in prompts for text in drawn) / len(drawn) == pytest.approx(0.4, abs=0.09)


def test_the_teacher_says_what_the_whole_caption_means(small_pack: Path) -> None:
    whole, dropped = (
        load(small_pack, dataclasses.replace(PICTURES, sources=[dataclasses.replace(PROMPTED, word_dropout=share)]))
        for share in (0.0, 0.5)
    )
    whole.bank.lessons = dropped.bank.lessons = {2: torch.randn(len(whole.bank), 4)}
    one, other = whole[3].pairs[0], dropped[3].pairs[0]
    assert list(one.text_lessons) == [2]
    torch.testing.assert_close(one.text_lessons, other.text_lessons, rtol=0, atol=0)
    assert not torch.equal(one.ids, other.ids)
    torch.testing.assert_close(one.media, other.media, rtol=0, atol=0)


def test_draws_are_balanced_as_the_source_says(small_pack: Path) -> None:
    config = SourceConfig(source="colours", exclude={"id": ["picture-0", "picture-4", "picture-8", "picture-12"]})
    sources = [dataclasses.replace(config, balance=balance, positives="label") for balance in (0.0, 1.0)]
    for source, expected in zip(sources, (2 / 20, 1 / 4), strict=True):
        steps = load(small_pack, dataclasses.replace(PICTURES, sources=[source]))
        drawn = [concept for step in range(25) for concept in steps[step].pairs[0].media_concepts.tolist()]
        red = steps.streams[0].concepts[0][[row.label for row in steps.streams[0].sources[0].rows].index("red")]
        assert Counter(drawn)[red] / 200 == pytest.approx(expected, abs=0.01)


def test_balance_needs_a_label_in_every_row(tmp_path: Path, small_pack: Path) -> None:
    for name in ("tokenizer.json", "image.tar"):
        (tmp_path / name).write_bytes((small_pack / name).read_bytes())
    manifest = (small_pack / "manifest.jsonl").read_text().replace('"label": "blue"', '"label": null', 1)
    (tmp_path / "manifest.jsonl").write_text(manifest)
    with pytest.raises(ManifestError, match="row picture-2 of source colours has no label"):
        load(tmp_path, dataclasses.replace(PICTURES, sources=[SourceConfig(source="colours", balance=0.5)]))


def test_every_label_of_a_source_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"streams\.every_label: source notes has no labels; .*positives: label"):
        StreamConfig(modality="audio", batch_size=2, every_label=True, sources=[SourceConfig(source="notes")])


def damaged_pack(folder: Path, pack: Path, sounds: dict[str, bytes | None]) -> None:
    """Copy what sounds need, with some of the files replaced or missing."""
    (folder / "tokenizer.json").write_bytes((pack / "tokenizer.json").read_bytes())
    (folder / "manifest.jsonl").write_text((pack / "manifest.jsonl").read_text().replace("audio.tar/", "sounds/"))
    (folder / "sounds").mkdir()
    with tarfile.open(pack / "audio.tar") as shard:
        shard.extractall(folder / "sounds", filter="data")
    for name, data in sounds.items():
        (folder / "sounds" / name).unlink()
        if data is not None:
            (folder / "sounds" / name).write_bytes(data)


def wav(samples: np.ndarray) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, 4000, format="wav")
    return stream.getvalue()


SOUNDS = StreamConfig(modality="audio", batch_size=6, sources=[SourceConfig(source="notes")])
DAMAGED = {"1.wav": wav(np.zeros(0)), "3.wav": b"", "4.wav": b"RIFF and nothing more", "7.wav": None}


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_sounds_without_length_damaged_or_missing_are_counted_and_skipped(
    small_pack: Path, tmp_path: Path, mix: float
) -> None:
    damaged_pack(tmp_path, small_pack, DAMAGED)
    steps = load(tmp_path, dataclasses.replace(SOUNDS, mix=mix))
    batches = [steps[step] for step in range(4)]
    assert all(len(batch.pairs[0]) == 6 for batch in batches)
    told = [name for batch in batches for name in batch.skipped]
    assert sorted(told) == ["sound-1", "sound-3", "sound-4", "sound-7"]  # each told once


def test_a_sound_of_one_sample_and_one_of_silence_can_be_trained_on(small_pack: Path, tmp_path: Path) -> None:
    damaged_pack(tmp_path, small_pack, {"0.wav": wav(np.full(1, 0.5)), "1.wav": wav(np.zeros(2000))})
    for augment in (AugmentConfig(), AugmentConfig(time_masks=2, speed=1.0)):
        steps = load(tmp_path, dataclasses.replace(SOUNDS, mix=0.5), augment=augment)
        for step in range(8):
            batch = steps[step]
            assert not batch.skipped
            assert batch.pairs[0].media[0].isfinite().all()


def test_when_no_medium_can_be_read_the_error_names_the_first(small_pack: Path, tmp_path: Path) -> None:
    damaged_pack(tmp_path, small_pack, {f"{number}.wav": None for number in range(12)})
    steps = load(tmp_path, SOUNDS)
    with pytest.raises(ManifestError, match=r"none of the 12 media of source notes can be read; the first is sound-\d"):
        steps[0]


def test_a_shard_that_is_lost_while_training_is_named(small_pack: Path, tmp_path: Path) -> None:
    for name in ("manifest.jsonl", "tokenizer.json", "image.tar", "audio.tar"):
        (tmp_path / name).write_bytes((small_pack / name).read_bytes())
    steps = load(tmp_path, SOUNDS)
    steps[0]
    (tmp_path / "audio.tar").unlink()
    with pytest.raises(ManifestError, match=r"none of the 12 media .*audio\.tar/\d+\.wav cannot be read"):
        steps[1]
