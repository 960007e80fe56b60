"""Stage plans: a training in several stages, each going on from the weights of the one before.

A plan is a YAML file: `out`, `base` (what all stages share, as in configs/train) and `stages`. A stage is done when its
folder holds DONE; running a plan again goes on where it stopped, in the middle of a stage too.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from encoders.config import parse_config

log = logging.getLogger(__name__)

DONE = "done.json"
CONFIG = "stage.yaml"
CHECKPOINT = "last.ckpt"
LOG = "log"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage changes of the plan's base.

    Raises:
        ValueError: a name that cannot be a folder's, or no steps.

    >>> Stage(name="sounds", steps=500, trainable=("audio",)).start_from is None  # it goes on from the stage before
    True
    """

    name: str
    steps: int
    trainable: tuple[str, ...] = ()  # regular expressions of parameter names; empty: all that the model itself trains
    start_from: tuple[str, ...] | None = None  # earlier stages, their weights averaged; none: afresh; None: the last
    lr: float | None = None  # at the end of the warm-up
    batch_size: Mapping[str, int] = field(default_factory=dict)  # modality -> rows of its stream
    loss: Mapping[str, Any] = field(default_factory=dict)  # replaces the base's terms
    model: Mapping[str, Any] = field(default_factory=dict)  # merged into the base's settings
    data: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not self.name or set(self.name) & set("/\\ "):
            raise ValueError(f"stages.name becomes a folder's name: no spaces and slashes, got {self.name!r}")
        if self.steps < 1:
            raise ValueError(f"stages.{self.name}.steps must be at least 1, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Stages and what they share.

    Raises:
        ValueError: no stages, one name twice, or a start from a stage that is no earlier one.

    >>> plan = Plan(out=Path("runs/mine"), base={}, stages=(Stage(name="pictures", steps=200),))
    >>> plan.folder(0).as_posix()
    'runs/mine/1-pictures'
    """

    out: Path
    base: Mapping[str, Any]
    stages: tuple[Stage, ...]
    checkpoint_every: int = 25  # steps; at most so many are lost when a run is killed

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"a plan needs stages with different names, got {', '.join(names) or 'none'}")
        for number, stage in enumerate(self.stages):
            if unknown := set(stage.start_from or ()) - set(names[:number]):
                raise ValueError(f"stages.{stage.name}.start_from: no earlier stage is called {', '.join(unknown)}")
        if self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {self.checkpoint_every}")

    def folder(self, number: int) -> Path:
        """Return the folder of a stage, counted from 0."""
        return self.out / f"{number + 1}-{self.stages[number].name}"


def read_plan(path: Path) -> Plan:
    """Return the plan in a YAML file.

    Raises:
        ValueError: no such file, no YAML, an unknown key, or a value that is refused; the message names it.

    >>> stages = [{"name": "pictures", "steps": 20}, {"name": "sounds", "steps": 30, "trainable": ["audio"]}]
    >>> written = Path("mine.yaml").write_text(yaml.safe_dump({"out": "runs/mine", "base": {}, "stages": stages}))
    >>> plan = read_plan(Path("mine.yaml"))
    >>> [(stage.name, stage.steps) for stage in plan.stages]
    [('pictures', 20), ('sounds', 30)]
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such plan") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("stages"), list):
        raise ValueError(f"{path} is no plan: it needs out, base and a list of stages")
    stages = tuple(parse_config(Stage, _with_tuples(stage), f"{path}, stages") for stage in data["stages"])
    return parse_config(Plan, {**data, "out": Path(data.get("out", path.stem)), "stages": stages}, str(path))


def stage_config(plan: Plan, number: int) -> dict[str, Any]:
    """Return the whole configuration of a stage, as `onepeace train fit --config` reads it.

    >>> stages = (Stage(name="pictures", steps=20), Stage(name="sounds", steps=30, trainable=("audio",)))
    >>> config = stage_config(Plan(out=Path("runs/mine"), base={"data": {}}, stages=stages), 1)
    >>> config["trainer"]["max_steps"], config["model"]["trainable"], config["model"]["start_from"]
    (30, ['audio'], 'runs/mine/1-pictures/last.ckpt')
    """
    stage, folder = plan.stages[number], plan.folder(number)
    config = deepcopy(dict(plan.base))
    for section in ("trainer", "model", "data"):
        config[section] = _merged(config.get(section) or {}, getattr(stage, section))
    trainer, model = config["trainer"], config["model"]
    epoch = config["data"].get("steps_per_epoch")
    epochs = -(-stage.steps // epoch) if epoch else -1
    trainer |= {"max_steps": stage.steps, "max_epochs": epochs, "default_root_dir": str(folder)}
    trainer.setdefault("log_every_n_steps", 5)
    trainer["logger"] = [
        {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": {"save_dir": str(folder), "name": name}}
        for kind, name in (("CSVLogger", LOG), ("TensorBoardLogger", "tensorboard"))
    ]
    trainer["callbacks"] = [
        *(trainer.get("callbacks") or []),
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {
                "dirpath": str(folder),
                "filename": "{step}",
                "save_last": True,
                "save_top_k": 1,
                # The last step must be one of them.
                "every_n_train_steps": max(n for n in range(1, plan.checkpoint_every + 1) if stage.steps % n == 0),
            },
        },
    ]
    if stage.trainable:
        model["trainable"] = list(stage.trainable)
    if stage.loss:
        model["loss"] = deepcopy(dict(stage.loss))
    if stage.lr is not None:
        optimizer = model.setdefault("optimizer", {})
        optimizer |= {"lr": stage.lr, "min_lr": min(stage.lr, optimizer.get("min_lr", stage.lr / 50))}
    for stream in config["data"].get("streams") or []:
        if stream["modality"] in stage.batch_size:
            stream["batch_size"] = stage.batch_size[stream["modality"]]
    if stage.start_from:
        starts = [number for number, earlier in enumerate(plan.stages) if earlier.name in stage.start_from]
        model["start_from"] = [str(plan.folder(start) / CHECKPOINT) for start in starts]
    elif number and stage.start_from is None:
        model["start_from"] = str(plan.folder(number - 1) / CHECKPOINT)
    return config


def run_plan(plan: Plan, fit: Callable[[list[str]], object], rehearse: Callable[[Path], object]) -> Path:
    """Run the stages that are not done, and return the last one's checkpoint.

    `fit` takes a run's arguments. Before anything runs, `rehearse` takes the config of every stage that is not done and
    raises where it cannot work.

    Raises:
        ValueError: a stage that was begun has another configuration now.

    >>> plan = Plan(out=Path("runs/mine"), base={"data": {}}, stages=(Stage(name="pictures", steps=20),))
    >>> run_plan(plan, fit=lambda arguments: print(*arguments), rehearse=lambda config: None).as_posix()
    --config runs/mine/1-pictures/stage.yaml
    'runs/mine/1-pictures/last.ckpt'
    """
    left = [number for number in range(len(plan.stages)) if not (plan.folder(number) / DONE).exists()]
    configs = [yaml.safe_dump(stage_config(plan, number), sort_keys=False) for number in range(len(plan.stages))]
    for number, config in enumerate(configs):
        path = plan.folder(number) / CONFIG
        if (plan.folder(number) / CHECKPOINT).exists() and path.exists() and path.read_text(encoding="utf-8") != config:
            raise ValueError(
                f"the plan has changed since {path.parent} was begun: remove that folder and those of later stages to "
                "train them anew, or give the plan another `out`"
            )
    with TemporaryDirectory() as temporary:  # a plan that is refused leaves nothing behind
        for number in left:
            rehearsed = Path(temporary) / CONFIG
            rehearsed.write_text(configs[number], encoding="utf-8")
            try:
                rehearse(rehearsed)
            except ValueError as error:
                raise ValueError(f"stage {plan.stages[number].name}: {error}") from error
    for number, config in enumerate(configs):
        path = plan.folder(number) / CONFIG
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(config, encoding="utf-8")
    for number in left:
        stage, folder = plan.stages[number], plan.folder(number)
        path = folder / CONFIG
        arguments = ["--config", str(path)]
        if (folder / CHECKPOINT).exists():
            arguments += ["--ckpt_path", str(folder / CHECKPOINT)]
        log.info("stage %s: %d steps", stage.name, stage.steps)
        fit(arguments)
        if curve := loss_curve(folder):
            part = max(len(curve) // 10, 1)
            first, last = sum(curve[:part]) / part, sum(curve[-part:]) / part
            log.info("stage %s: loss %.3f at the start, %.3f at the end", stage.name, first, last)
        aside = folder / (DONE + ".part")
        aside.write_text(json.dumps({"stage": stage.name, "steps": stage.steps}))
        os.replace(aside, folder / DONE)
    return plan.folder(len(plan.stages) - 1) / CHECKPOINT


def loss_curve(folder: Path) -> list[float]:
    r"""Return the losses that were logged in a stage's folder, step by step; a step that was done again counts once.

    >>> folder = Path("runs/mine/1-pictures/log/version_0")
    >>> folder.mkdir(parents=True)
    >>> written = (folder / "metrics.csv").write_text("step,train/loss\n5,2.5\n10,1.5\n")
    >>> loss_curve(Path("runs/mine/1-pictures"))
    [2.5, 1.5]
    """
    losses: dict[int, float] = {}
    logs = sorted(folder.glob(f"{LOG}/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    for path in logs:
        with open(path, newline="", encoding="utf-8") as stream:
            losses |= {
                int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(stream) if row["train/loss"]
            }
    return [losses[step] for step in sorted(losses)]


def _with_tuples(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's settings, lists as the tuples that `Stage` holds."""
    starts = stage.get("start_from")
    if isinstance(starts, str):
        starts = [starts]
    return {
        **stage,
        "trainable": tuple(stage.get("trainable") or ()),
        "start_from": None if starts is None else tuple(starts),
    }


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`: mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else deepcopy(value)
    return merged
