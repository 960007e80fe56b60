from __future__ import annotations

import torch
import torch.nn.functional as F

from onepeace.training.teacher import TeacherConfig, train_teacher

CONFIG = TeacherConfig(hidden=32, epochs=40, batch_size=16, dropout=0.0, lr=3e-3)


def test_the_teacher_learns_which_text_fits_and_learns_it_the_same_way_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 6, generator=generator)
    view = hidden @ torch.randn(6, 20, generator=generator)
    texts_ND = F.normalize(hidden @ torch.randn(6, 12, generator=generator), dim=-1).half()
    numbers, concepts = [[row] for row in range(64)], list(range(64))

    def trained() -> torch.Tensor:
        teacher = train_teacher(CONFIG, [view.half()], texts_ND, numbers, concepts, width=10, seed=1)
        return teacher.vectors(teacher.media, view) @ teacher.vectors(teacher.text, texts_ND).T

    similarity = trained()
    assert float((similarity.argmax(dim=1) == torch.arange(64)).float().mean()) > 0.9
    torch.testing.assert_close(trained(), similarity, rtol=0, atol=1e-3)


def test_training_the_teacher_leaves_the_run_s_own_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    texts_ND = F.normalize(torch.eye(8), dim=-1)
    train_teacher(
        TeacherConfig(hidden=4, epochs=1), [torch.eye(8)], texts_ND, [[i] for i in range(8)], [*range(8)], 4, 1
    )
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
