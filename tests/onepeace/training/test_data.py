from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from training_model import MODEL

from encoders.tokens import Modality
from onepeace.manifest import ManifestError, Shards
from onepeace.model.config import ModelConfig
from onepeace.training.augment import AugmentConfig, build_reader
from onepeace.training.data import Source, SourceConfig, Stream, StreamConfig, TrainingSteps, load_rows, shares
from onepeace.training.evaluation import EvaluationBatches, EvaluationConfig
from onepeace.training.texts import TextBank, fill, recombine, with_article

CONFIG = ModelConfig.from_dict(MODEL)


def load(folder: Path, stream: StreamConfig, rank: int = 0, processes: int = 1, distilled: int = 0) -> TrainingSteps:
    modality = Modality(stream.modality)
    reader = build_reader(CONFIG, modality, AugmentConfig())
    sources = [
        Source(config, load_rows(config, modality, folder / "manifest.jsonl"), Shards(folder), reader)
        for config in stream.sources
    ]
    texts = dict.fromkeys(text for source in sources for row in source.rows for text in row.texts)
    preprocessor = CONFIG.adapters[Modality.TEXT].preprocessor(Tokenizer.from_file(str(folder / "tokenizer.json")))
    bank = TextBank(list(texts), preprocessor)
    return TrainingSteps([Stream(stream, sources, bank, {})], bank, distilled, 7, rank, processes)


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
