"""The sequence tower: nothing of the base is touched, and what it says depends on the items and their numbers alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from random_models import write_random_model
from torch import Tensor

from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.checkpoint import open_folder
from onepeace.model.onepeace import OnePeace
from onepeace.model.sequence import SequenceConfig, SequenceTower, phases, turned

CONFIGS = {
    "gated": SequenceConfig(),
    "one layer": SequenceConfig(layers=1),
    "fused": SequenceConfig(fused=True),
    "added": SequenceConfig(gate=False),
    "own norm": SequenceConfig(shared_norm=False),
    "no positions": SequenceConfig(positions=False),
    "counting": SequenceConfig(counting=True),
}


@pytest.fixture(scope="module", params=["official", "backbones"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OnePeace:
    folder = write_random_model(tmp_path_factory.mktemp("models") / request.param, request.param)
    return open_folder(folder).model().eval().requires_grad_(False)


def tower_of(network: OnePeace, config: SequenceConfig) -> SequenceTower:
    torch.manual_seed(1)
    tower = SequenceTower(network.config, config)
    tower.begin_from(network)
    with torch.no_grad():  # as if it had trained
        for parameter in tower.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return tower.eval()


def texts(network: OnePeace) -> TokenSequence:
    pad = network.adapters[Modality.TEXT].pad_id
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, pad, pad], [9, 8, 7, 6, pad]])
    return network.tokens(Modality.TEXT, ids)


def albums(network: OnePeace, count: int = 6) -> Tensor:
    rows = torch.randn(3, count, network.config.embedding_dim, generator=torch.Generator().manual_seed(2))
    return F.normalize(rows, dim=-1)


@torch.inference_mode()
def test_with_closed_gates_texts_have_the_vectors_of_the_base(network: OnePeace) -> None:
    tower = tower_of(network, SequenceConfig())
    items = tower.read(network, albums(network))
    assert not torch.allclose(tower(network, texts(network), items).vectors, network.embed_tokens(texts(network)))
    tower.close()
    assert torch.equal(tower(network, texts(network), items).vectors, network.embed_tokens(texts(network)))


def test_a_tower_without_gates_cannot_be_closed(network: OnePeace) -> None:
    for name in ("fused", "added"):
        with pytest.raises(ValueError, match="without gates"):
            tower_of(network, CONFIGS[name]).close()


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_what_is_said_is_the_same_alone_and_among_longer_sequences(name: str, network: OnePeace) -> None:
    tower = tower_of(network, CONFIGS[name])
    rows = albums(network)
    padding = torch.tensor([[False] * 6, [False] * 2 + [True] * 4, [False] + [True] * 5])
    together = tower(network, texts(network), tower.read(network, rows, padding_BN=padding))
    for n, count in enumerate((6, 2, 1)):
        text = TokenSequence(
            Modality.TEXT, texts(network).embeddings[n : n + 1], texts(network).padding[n : n + 1], texts(network).bias
        )
        alone = tower(network, text, tower.read(network, rows[n : n + 1, :count]))
        torch.testing.assert_close(together.vectors[n], alone.vectors[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.weights[n, :count], alone.weights[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.matches[n], alone.matches[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.absent[n], alone.absent[0], atol=1e-5, rtol=0)
        assert together.weights[n, count:].sum() == 0
        if together.counted is not None:
            assert alone.counted is not None
            torch.testing.assert_close(together.counted.chances[n, :count], alone.counted.chances[0])
            torch.testing.assert_close(together.counted.stated[n], alone.counted.stated[0], atol=1e-4, rtol=0)
            assert together.counted.chances[n, count:].sum() == 0


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_the_order_of_items_counts_by_their_numbers_alone(name: str, network: OnePeace) -> None:
    tower = tower_of(network, CONFIGS[name])
    rows, order = albums(network), torch.tensor([3, 0, 5, 1, 4, 2])
    numbers = torch.tensor([[4, 9, 11, 200, 201, 399]]).expand(3, -1)
    said = tower(network, texts(network), tower.read(network, rows, numbers))
    moved = tower(network, texts(network), tower.read(network, rows[:, order], numbers[:, order]))
    torch.testing.assert_close(moved.vectors, said.vectors, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.weights, said.weights[:, order], atol=1e-5, rtol=0)
    swapped = tower(network, texts(network), tower.read(network, rows[:, order], numbers))
    same = torch.allclose(swapped.matches, said.matches, atol=1e-5)
    assert same == (name == "no positions")


@torch.inference_mode()
def test_the_answer_of_a_sequence_of_one_is_its_item_where_the_gate_is_open(network: OnePeace) -> None:
    tower = tower_of(network, SequenceConfig())
    torch.nn.init.constant_(tower.gate.bias, torch.inf)
    rows = albums(network, 1)
    said = tower(network, texts(network), tower.read(network, rows))
    torch.testing.assert_close(said.vectors, rows[:, 0], atol=1e-6, rtol=0)


def test_the_base_gets_no_gradient_and_the_whole_tower_does(network: OnePeace) -> None:
    tower = tower_of(network, SequenceConfig(shared_norm=False))
    said = tower(network, texts(network), tower.read(network, albums(network)))
    (said.vectors[:, 0].sum() + said.weights[:, 0].sum() + said.matches.sum()).backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    missing = [name for name, parameter in tower.named_parameters() if parameter.grad is None]
    assert missing == ["nearness"]  # it weighs the answer in the match, where texts are compared with it


def test_counting_reads_the_tower_and_does_not_train_it(network: OnePeace) -> None:
    tower = tower_of(network, SequenceConfig(counting=True))
    counted = tower(network, texts(network), tower.read(network, albums(network))).counted
    assert counted is not None
    (counted.chances.sum() + counted.stated.sum() + counted.counts.sum()).backward()
    trained = {name for name, parameter in tower.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in tower.named_parameters() if name.startswith("counting.")}


@torch.inference_mode()
def test_what_counts_nothing_is_answered_as_by_a_tower_that_does_not_count(network: OnePeace) -> None:
    tower = tower_of(network, SequenceConfig(counting=True))
    plain = SequenceTower(network.config, SequenceConfig())
    plain.load_state_dict({k: v for k, v in tower.state_dict().items() if not k.startswith("counting.")})
    assert tower.counting is not None
    for bias, same in ((-1e3, True), (1e3, False)):
        tower.counting.counts.bias.fill_(bias)
        asked, expected = (
            each(network, texts(network), each.read(network, albums(network))) for each in (tower, plain.eval())
        )
        for name in ("vectors", "weights", "named", "absent"):
            assert torch.equal(getattr(asked, name), getattr(expected, name))
        assert torch.equal(asked.matches, expected.matches) == same


def test_turning_is_the_rotation_of_complex_numbers() -> None:
    x, numbers = torch.randn(2, 3, 16), torch.tensor([[1, 2, 3], [40, 7, 399]])
    complex_x = torch.complex(*x.double().chunk(2, dim=-1))
    steps = torch.arange(8, dtype=torch.float64)
    angles = numbers[..., None] * torch.pi * 400 ** (-steps / 8)
    expected = complex_x * torch.exp(1j * angles)
    torch.testing.assert_close(
        turned(x, numbers).double(), torch.cat([expected.real, expected.imag], -1), atol=1e-4, rtol=0
    )
    cosines, sines = phases(numbers, 16)
    torch.testing.assert_close(cosines.square() + sines.square(), torch.ones(2, 3, 8))
    assert math.isclose(float(cosines[0, 0, 0]), math.cos(math.pi), abs_tol=1e-6)


def test_more_layers_than_there_are_blocks_are_refused(network: OnePeace) -> None:
    with pytest.raises(ValueError, match="so no 9 can read"):
        SequenceTower(network.config, SequenceConfig(layers=9))
    with pytest.raises(ValueError, match="at least 1"):
        SequenceConfig(layers=0)


def test_a_step_is_a_turn_that_leads_to_the_neighbour_alone() -> None:
    places = torch.cat(phases(torch.arange(1, 401), 384), dim=-1)
    for step in (1, -1, 2):
        numbers = torch.arange(3, 398)
        likeness = turned(places[numbers - 1], torch.full_like(numbers, step)) @ places.T
        best = likeness.topk(2, dim=1)
        assert torch.equal(best.indices[:, 0] + 1, numbers + step)
        assert (best.values[:, 0] - best.values[:, 1] > 0.1 * best.values[:, 0]).all()


@pytest.mark.parametrize(("step", "kind"), [(0, 0), (1, 1), (-1, 2)])
def test_a_text_may_go_on_to_a_neighbour(step: int, kind: int, network: OnePeace) -> None:
    tower = tower_of(network, SequenceConfig())
    assert tower.step is not None
    with torch.no_grad():
        tower.step.weight.zero_()
        tower.step.bias.copy_(torch.where(torch.arange(3) == kind, 0.0, -torch.inf))
        tower.find.strength.bias.fill_(1000.0)
        tower.says.weight.mul_(100.0)  # one word says which item is meant
    said = tower(network, texts(network), tower.read(network, albums(network)))
    start, surest = said.named[:, 0].argmax(dim=1), said.named[:, 0].amax(dim=1) > 0.9
    expected = (start + step).clamp(0, 5)  # at an end the nearest place that there is
    assert surest.any()
    assert (said.weights.argmax(dim=1) == expected)[surest].all()
