"""Which checks there are of an environment and of a model, in their order."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from onepeace.check.finding import Check, Finding, Outcome
from onepeace.check.promises import REFERENCE, STABLE
from onepeace.check.versions import extras

if TYPE_CHECKING:
    from onepeace.check.figures import Figures
    from onepeace.check.samples import Samples
    from onepeace.embedder import Embedder
    from onepeace.predict.predictor import TaskPredictor

REINSTALL = "pip install --force-reinstall onepeace"
TORCH = "pip install --force-reinstall torch"


def environment_checks() -> list[Check]:
    """Return the checks that need no model."""
    rows = [
        ("versions", "onepeace", "versions.copies", REINSTALL),
        ("versions", "python", "versions.python", REINSTALL),
        ("versions", "packages", "versions.packages", REINSTALL),
        (
            "versions",
            "torch family",
            "versions.torch_family",
            "pip install torch, torchaudio, torchvision of one release",
        ),
        ("versions", "faiss", "versions.faiss", "pip install --force-reinstall faiss-cpu"),
        ("machine", "processor", "hardware.processor", TORCH),
        ("machine", "threads", "hardware.threads", TORCH),
        ("machine", "kernels", "hardware.kernels", TORCH),
        ("machine", "gpu", "hardware.gpu", "update the driver, or hide the GPU: CUDA_VISIBLE_DEVICES=''"),
        ("machine", "temporary files", "places.temporary", "set TMPDIR to a folder that can be written to"),
        ("machine", "cache", "places.cache", "set XDG_CACHE_HOME to a folder that can be written to"),
        ("media", "pictures", "media.pictures", "pip install --force-reinstall Pillow"),
        ("media", "sounds", "media.sounds", "pip install --force-reinstall soundfile soxr"),
        ("media", "m4a", "media.m4a", "pip install --force-reinstall av"),
        ("media", "damaged files", "media.damaged", "install onepeace, Pillow and soundfile again"),
    ]
    checks = [Check(group, name, partial(_late, where), advice) for group, name, where, advice in rows]
    found = [Check("extras", name, partial(_known, finding), REINSTALL) for name, finding in extras()]
    return checks[:5] + found + checks[5:]


def _late(where: str) -> Finding:
    """Call a function of this package: what it imports may be what is broken."""
    module, _, name = where.partition(".")
    return cast(Finding, getattr(import_module(f"onepeace.check.{module}"), name)())


def _known(finding: Finding) -> Finding:
    return finding


class ModelChecks:
    """The checks of a model: its files, its vectors, its speed. It is loaded once for each type."""

    def __init__(self, model: str, samples: Samples, device: str = "auto", *, quick: bool = False) -> None:
        self.name, self.samples, self.device, self.quick = model, samples, device, quick
        self._loaded: dict[str, Embedder] = {}
        self._task: TaskPredictor | None = None
        self._broken = False

    def all(self) -> list[Check]:
        """Return them in their order."""
        rows: list[tuple[str, Callable[[], Finding]]] = [("files", self.files), ("loading", self.loading)]
        if self._has_task():
            rows += [("answers", partial(self._unless_broken, self.answers))]
            return [Check("model", name, look, REINSTALL) for name, look in rows]
        rows += [(f"vectors, {dtype}", partial(self.vectors, dtype)) for dtype in REFERENCE]
        rows.append(("same twice", partial(self._unless_broken, self._repeats)))
        if not self.quick:
            rows += [(f"alone or not, {dtype}", partial(self.stable, dtype)) for dtype in STABLE]
        checks = [Check("model", name, look, REINSTALL) for name, look in rows]
        if not self.quick:
            modalities = {"text": "texts", "image": "pictures", "audio": "sounds"}
            checks += [
                Check("speed", name, partial(self.speed, modality), REINSTALL) for modality, name in modalities.items()
            ]
        return checks

    def files(self) -> Finding:
        """Open the folder and compare its fingerprint with the one that was shipped."""
        from onepeace.checkpoint import CONFIG, WEIGHTS, open_folder
        from onepeace.reader import SHIPPED, model_folder

        shipped = model_folder(self.name).resolve().parent == SHIPPED.resolve()
        advice = REINSTALL if shipped else f"copy the model folder {self.name} again, or export it again"
        try:
            folder = open_folder(model_folder(self.name))
        except ValueError as error:
            return Finding(Outcome.FAILED, str(error), advice)
        size = (folder.path / WEIGHTS).stat().st_size / 1e6
        fingerprint = folder.fingerprint()
        told = f"{folder.path}, {size:.0f} MB, fingerprint {fingerprint}"
        told += "" if folder.task is None else f", the head of a task ({folder.task.kind})"
        figures = self._figures()
        if shipped and folder.name == figures.model and fingerprint != figures.fingerprint:
            told += f", shipped was {figures.fingerprint}: {CONFIG}, {WEIGHTS} or the tokenizer has changed"
            return Finding(Outcome.FAILED, told, advice)
        return Finding(Outcome.OK, told)

    def loading(self) -> Finding:
        """Load the model, and look for weights that are no numbers."""
        from torch import isfinite

        start = time.perf_counter()
        try:
            model: Any = self.task_model() if self._has_task() else self.model("auto")
            tensors = {**dict(model.model.named_parameters()), **dict(model.model.named_buffers())}
            bad = [
                name for name, tensor in tensors.items() if tensor.is_floating_point() and not isfinite(tensor).all()
            ]
            if bad:
                raise ValueError(f"weights are NaN or infinite: {', '.join(bad[:3])}")
        except Exception as error:
            self._broken = True
            advice = "choose another --device" if "device" in str(error) else "copy or export the model folder again"
            shipped = f"{REINSTALL}, which brings its weights again"
            told = " ".join(str(error).split())
            return Finding(Outcome.FAILED, told, shipped if self._is_shipped() and "device" not in told else advice)
        seconds = time.perf_counter() - start
        if self._has_task():
            told = f"reads {', '.join(model.reads)}; {model.does}; float32 on {model.device}, in {seconds:.1f} s"
            return Finding(Outcome.OK, told)
        place, dtype = model.model.device, str(model.model.arithmetic.dtype).removeprefix("torch.")
        told = f"reads {', '.join(model.modalities)}; {model.dimension} numbers, {dtype} on {place}, in {seconds:.1f} s"
        return Finding(Outcome.OK, told)

    def vectors(self, dtype: str) -> Finding:
        """Compare its vectors with the reference figures, where they are of this model."""
        return self._unless_broken(partial(self._vectors, dtype))

    def stable(self, dtype: str) -> Finding:
        """Compare vectors of inputs alone and among others."""
        from onepeace.check.stability import alone_and_together

        def look() -> Finding:
            return self._if_computed(dtype, lambda: alone_and_together(self.model(dtype), self.samples, dtype))

        return self._unless_broken(look)

    def speed(self, modality: str) -> Finding:
        """Measure how much it encodes in a second."""
        from onepeace.check.speed import measure

        def measured() -> Finding:
            model = self.model("auto")
            if not model.supports(modality):
                return Finding(Outcome.SKIPPED, f"this model reads no {modality}")
            return measure(model, self.samples, modality)

        return self._unless_broken(measured)

    def model(self, dtype: str) -> Embedder:
        """Return the model that computes in a type."""
        from onepeace.loading import load_embedder

        if dtype not in self._loaded:
            self._loaded[dtype] = load_embedder(self.name, device=self.device, dtype=dtype)
        return self._loaded[dtype]

    def task_model(self) -> TaskPredictor:
        """Return the model of a task."""
        from onepeace.loading import load_task

        if self._task is None:
            self._task = load_task(self.name, device=self.device)
        return self._task

    def answers(self) -> Finding:
        """Ask the head of a task about samples, each alone and all together."""
        from onepeace.check.stability import answers_alone_and_together

        return answers_alone_and_together(self.task_model(), self.samples)

    def _has_task(self) -> bool:
        from onepeace.checkpoint import open_folder
        from onepeace.reader import model_folder

        try:
            return open_folder(model_folder(self.name)).task is not None
        except ValueError:  # which `files` tells
            return False

    def _repeats(self) -> Finding:
        from onepeace.check.stability import repeats

        return repeats(self.model("auto"), self.samples)

    def _vectors(self, dtype: str) -> Finding:
        figures = self._figures()
        model = self.model("auto")
        mine = self._is_shipped() and model.name == figures.model  # also where its files have changed since
        if model.fingerprint != figures.fingerprint and not mine:
            return Finding(Outcome.SKIPPED, f"reference figures are of {figures.model} as it ships")
        return self._if_computed(dtype, lambda: figures.compare(self.model(dtype), self.samples, dtype))

    def _if_computed(self, dtype: str, look: Callable[[], Finding]) -> Finding:
        """Look, unless nobody would compute in this type on this device."""
        from torch import bfloat16

        from onepeace.inference import best_dtype

        device = self.model("auto").model.device
        if dtype == "int8" and device.type != "cpu":
            return Finding(Outcome.SKIPPED, "int8 is for CPUs")
        if dtype == "bfloat16" and best_dtype(device) is not bfloat16:
            return Finding(Outcome.SKIPPED, "this processor has no bfloat16")
        return look()

    def _unless_broken(self, look: Callable[[], Finding]) -> Finding:
        return Finding(Outcome.SKIPPED, "the model does not load") if self._broken else look()

    def _is_shipped(self) -> bool:
        from onepeace.reader import SHIPPED, model_folder

        try:
            return model_folder(self.name).resolve().parent == SHIPPED.resolve()
        except ValueError:
            return False

    def _figures(self) -> Figures:
        from onepeace.check.figures import Figures

        return Figures.read()
