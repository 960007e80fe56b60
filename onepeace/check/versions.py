"""What is installed: onepeace itself, Python, the packages it requires, PyTorch's family, FAISS, extras.

Everything is held against the package's own metadata, so there is no second list of versions.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions, version
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from onepeace.check.finding import Finding, Outcome

PACKAGE = "onepeace"
FAISS_BUILDS = ("faiss-cpu", "faiss-gpu-cu12", "faiss-gpu-cu11", "faiss-gpu-cuvs", "faiss-gpu")  # all write faiss/
TORCHVISION = 15  # the second number of torchvision's release is that of torch's and this
NOT_FOR_USE = ("dev", "pretrained")  # extras for working on onepeace itself
NOT_INSTALLED = Finding(
    Outcome.SKIPPED, "onepeace runs from a folder that is not installed, so nothing says what it requires"
)


def copies() -> Finding:
    """Look for a second onepeace, and whether the one that runs is the one that is installed."""
    import onepeace

    home = Path(onepeace.__file__).resolve().parent
    found: dict[Path, Distribution] = {}
    for own in distributions(name=PACKAGE):
        found.setdefault(Path(str(own.locate_file(""))).resolve(), own)
    if not found:
        return NOT_INSTALLED
    if len(found) > 1:
        told = ", ".join(f"{own.version} in {place}" for place, own in found.items())
        return Finding(
            Outcome.FAILED, f"{len(found)} copies: {told}", f"pip uninstall {PACKAGE} until none is left, install one"
        )
    (place, own), *_ = found.items()
    wanted = _source(own) or place
    if home.parent != wanted:
        return Finding(
            Outcome.FAILED,
            f"runs from {home.parent}, but is installed in {wanted}",
            f"start it outside {home.parent}, and take that out of PYTHONPATH",
        )
    if own.version != onepeace.__version__:
        return Finding(
            Outcome.FAILED,
            f"the code is {onepeace.__version__}, its metadata say {own.version}",
            f"install it again: pip install --force-reinstall --no-deps {PACKAGE}",
        )
    return Finding(Outcome.OK, f"{own.version} in {home.parent}")


def _source(own: Distribution) -> Path | None:
    """Return the folder that an editable installation points to."""
    told = json.loads(own.read_text("direct_url.json") or "{}")
    if not told.get("dir_info", {}).get("editable"):
        return None
    return Path(url2pathname(urlsplit(told["url"]).path)).resolve()


def python() -> Finding:
    """Compare Python with the range that the metadata give."""
    told = f"{platform.python_version()}, {sys.executable}"
    own = _own()
    if own is None:
        return Finding(Outcome.OK, told)
    supported = own.metadata["Requires-Python"]
    if SpecifierSet(supported).contains(platform.python_version(), prereleases=True):
        return Finding(Outcome.OK, told)
    return Finding(
        Outcome.FAILED, f"{told}: onepeace needs {supported}", f"make an environment with Python {supported}"
    )


def packages() -> Finding:
    """Compare the packages that onepeace always needs with the ranges that it supports."""
    own = _own()
    if own is None:
        return NOT_INSTALLED
    wanted = list(_requirements(own))
    builds = [name for name in FAISS_BUILDS if _version(name) is not None]
    wrong = [
        (requirement, state)
        for requirement in wanted
        if (state := _state(requirement)) is not None and not (requirement.name in FAISS_BUILDS and builds)
    ]
    if wrong:
        told = "; ".join(f"{requirement.name} {state}" for requirement, state in wrong)
        return Finding(
            Outcome.FAILED, told, f"pip install {' '.join(_quoted(requirement) for requirement, _ in wrong)}"
        )
    shown = ("torch", "torchaudio", "timm", "open_clip_torch", "librosa", "lightning", "numpy")
    return Finding(Outcome.OK, f"{len(wanted)} fit: " + ", ".join(f"{name} {version(name)}" for name in shown))


def torch_family() -> Finding:
    """Look whether torch, torchaudio and torchvision are of one release and load together."""
    torch, torchaudio, torchvision = (Version(version(name)) for name in ("torch", "torchaudio", "torchvision"))
    told = f"torch {torch}, torchaudio {torchaudio}, torchvision {torchvision}"
    pair = torchaudio.release[:2] == torch.release[:2]
    picture = torchvision.release[:2] == (torch.release[0] - 2, torch.release[1] + TORCHVISION)
    wanted = (
        f"pip install torchaudio=={torch.release[0]}.{torch.release[1]}.* "
        f"torchvision=={torch.release[0] - 2}.{torch.release[1] + TORCHVISION}.*"
    )
    if not (pair and picture):
        return Finding(Outcome.FAILED, f"{told} are not of one release", wanted)
    builds = {local.split(".")[0] for local in (torch.local, torchaudio.local, torchvision.local) if local}
    if len(builds) > 1:
        advice = "pip install --force-reinstall all three from one index"
        return Finding(Outcome.FAILED, f"{told} are builds for different devices", advice)
    for name in ("torch", "torchaudio", "torchvision"):
        try:
            import_module(name)
        except Exception as error:  # a library of another build raises almost anything
            told = f"{name} does not load: {' '.join(str(error).split())}"
            return Finding(Outcome.FAILED, told, f"{wanted} --force-reinstall")
    import torch as loaded

    return Finding(Outcome.OK, f"{told}, built for {f'CUDA {loaded.version.cuda}' if loaded.version.cuda else 'CPUs'}")


def faiss() -> Finding:
    """Look for FAISS builds that were installed over one another, and load FAISS."""
    builds = {name: found for name in FAISS_BUILDS if (found := _version(name)) is not None}
    if len(builds) > 1:
        told = " and ".join(f"{name} {found}" for name, found in builds.items())
        best = next((name for name in builds if name != "faiss-cpu"), "faiss-cpu")
        return Finding(
            Outcome.FAILED,
            f"{told} lie on top of each other",
            f"pip uninstall {' '.join(builds)}, then pip install {best}",
        )
    library = import_module("faiss")
    name = next(iter(builds), "faiss")
    options = str(library.get_compile_options()).strip() or "generic"
    gpus = f", {library.get_num_gpus()} GPUs" if hasattr(library, "StandardGpuResources") else ""
    return Finding(Outcome.OK, f"{name} {library.__version__}, compiled for {options}{gpus}")


def extras() -> Iterator[tuple[str, Finding]]:
    """Yield each extra with what of it is installed."""
    own = _own()
    if own is None:
        return
    for extra in own.metadata.get_all("Provides-Extra") or []:
        wanted = list(_requirements(own, extra))
        if extra in NOT_FOR_USE or not wanted:
            continue
        wrong = [f"{requirement.name} {state}" for requirement in wanted if (state := _state(requirement)) is not None]
        if wrong:
            advice = f"pip install '{PACKAGE}[{extra}]'"
            if any(requirement.name in FAISS_BUILDS for requirement in wanted):
                advice += ", then take faiss-cpu away as this check says"
            yield extra, Finding(Outcome.ABSENT, "; ".join(wrong), advice)
        else:
            told = ", ".join(f"{requirement.name} {_version(requirement.name)}" for requirement in wanted)
            yield extra, Finding(Outcome.OK, told)


def has_extra(extra: str) -> bool:
    """Return whether all packages of an extra are installed."""
    return any(name == extra and finding.outcome is Outcome.OK for name, finding in extras())


def _own() -> Distribution | None:
    try:
        return distribution(PACKAGE)
    except PackageNotFoundError:
        return None


def _requirements(own: Distribution, extra: str = "") -> Iterator[Requirement]:
    """Yield what onepeace requires here: always, or for an extra alone."""
    for line in own.requires or []:
        requirement = Requirement(line)
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if always if not extra else not always and requirement.marker.evaluate({"extra": extra}):  # type: ignore[union-attr]
            yield requirement


def _state(requirement: Requirement) -> str | None:
    """Return what is wrong with a required package; None: nothing."""
    found = _version(requirement.name)
    if found is None:
        return "is missing"
    return (
        None if requirement.specifier.contains(found, prereleases=True) else f"{found} is not {requirement.specifier}"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _quoted(requirement: Requirement) -> str:
    text = re.sub(r"\s*;.*", "", str(requirement))
    return f"'{text}'" if re.search(r"[<>\[]", text) else text
