"""`onepeace train`: LightningCLI over our module and data, with YAML configs. Unknown keys are refused by name."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import warnings
from argparse import ArgumentError
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI

from onepeace.memory import keep_freed_memory
from onepeace.model.sequence import SequenceConfig
from onepeace.training.albums import AlbumData
from onepeace.training.datamodule import ContrastiveData
from onepeace.training.module import ContrastiveModule, LossConfig
from onepeace.training.optim import OptimizerConfig
from onepeace.training.sequence_module import SequenceModule
from onepeace.training.stages import read_plan, run_plan
from onepeace.training.task_data import TaskData
from onepeace.training.task_module import TaskModule

# What Lightning says of things that are meant, or of its own use of others.
EXPECTED_WARNINGS = (
    ".*across ranks is zero",  # a run without evaluations
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches .* is smaller than the logging interval",
    "LightningCLI's args parameter is intended to run from within Python",  # we are called with the user's arguments
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen backbones
    "Precision bf16-mixed is not supported by the model summary",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


HELP = """usage: onepeace train plan FILE
       onepeace train {fit,validate} --config FILE [--ckpt_path CHECKPOINT] [--any.option VALUE ...]

  plan      run the stages of a plan, one after the other; run it again to go on after a stop
  fit       run one training, of a model that embeds or of one for a task
  validate  measure a checkpoint on a config's evaluations

examples:
  onepeace train plan configs/plans/smoke.yaml        both stages of the plain recipe, two minutes on data that ships
  onepeace train plan configs/plans/tiny.yaml         the recipe of onepeace-tiny
  onepeace train fit --config configs/train/smoke.yaml --model.optimizer.lr 1e-4
  onepeace train fit --config mine.yaml --ckpt_path runs/mine/last.ckpt
  onepeace train fit --config configs/finetune/classify_image.yaml
  onepeace train fit --help                           every option
  onepeace train fit --config mine.yaml --print_config

docs/training.md tells how to train on your own data.
"""


class TrainingCLI(LightningCLI):
    """The command line with the subcommands that mean something here."""

    def after_fit(self) -> None:
        """Say where the result lies and what to do with it."""
        callback: Any = self.trainer.checkpoint_callback
        path = callback and (callback.last_model_path or callback.best_model_path)
        if path and self.trainer.is_global_zero:
            sys.stdout.write(f"checkpoint: {path}\nto use it: onepeace export {path} --out FOLDER\n")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return fit and validate, and the arguments that we fill ourselves."""
        return {name: LightningCLI.subcommands()[name] for name in ("fit", "validate")}


class TaskCLI(TrainingCLI):
    """The same for a task, whose answers are those of the data."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Let the model know what the data holds."""
        parser.link_arguments("data.task", "model.task", apply_on="instantiate")


def main(args: list[str]) -> None:
    """Run `onepeace train` with its arguments: `fit --config FILE`, `validate ...`, `plan FILE`, `--help`."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("onepeace").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_advertisement)
    if not args or args[0] in ("-h", "--help") or (args[0] == "plan" and {"-h", "--help"} & set(args)):
        sys.stdout.write(HELP)
        return
    keep_freed_memory()
    if args[:1] == ["plan"]:
        if len(args) != 2 or args[1].startswith("-"):
            raise ValueError("give one YAML file: onepeace train plan configs/plans/smoke.yaml")
        checkpoint = run_plan(read_plan(Path(args[1])), lambda arguments: _run(["fit", *arguments]), _rehearse)
        sys.stdout.write(f"all stages are done: {checkpoint}\n")
        return
    _run(args)


Kind = Literal["model", "task", "sequences"]
_KINDS: dict[Kind, tuple[type[TrainingCLI], type[Any], type[Any]]] = {
    "model": (TrainingCLI, ContrastiveModule, ContrastiveData),
    "task": (TaskCLI, TaskModule, TaskData),
    "sequences": (TrainingCLI, SequenceModule, AlbumData),
}


def _rehearse(config: Path) -> None:
    """Build what a stage trains and read its manifests: what would fail hours later fails now."""
    logging.disable(logging.INFO)  # it says of no run what Lightning says of each
    try:
        _run(["--config", str(config), "--model.start_from", "null"], run=False).datamodule.check()
    finally:
        logging.disable(logging.NOTSET)


def _run(args: list[str], run: bool = True) -> TrainingCLI:
    defaults: dict[str, Any] = {"use_distributed_sampler": False}  # batches are divided by the data itself
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    # Lightning calls jsonargparse by its older names.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(jsonargparse|lightning\.pytorch\.cli)\b.*")
    plainly: dict[str, Any] = {"exit_on_error": False}  # else a wrong key prints a hundred lines of options first
    subcommands = {"fit": plainly, "validate": plainly} if run else {}
    cli, module, data = _KINDS[trained_kind(args)]
    try:
        return cli(
            module,
            data,
            args=args,
            trainer_defaults=defaults,
            seed_everything_default=3407,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": "onepeace train", **plainly, **subcommands},
            run=run,
        )
    except ArgumentError as error:
        raise ValueError(f"{_plainly(str(error))}; `onepeace train fit --help` lists all options") from error


def trained_kind(args: list[str]) -> Kind:
    """Tell what a config trains: where `data` has `items` a sequence tower, where `model` has a `start` but `data` no
    pairs a task's model, else a model that embeds.
    """
    places = [i for i, arg in enumerate(args) if arg in ("--config", "-c") or arg.startswith("--config=")]
    for place in places:
        path = Path(args[place].partition("=")[2] or (args[place + 1] if place + 1 < len(args) else ""))
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            continue  # the parser says so better
        parts = [config.get(name) if isinstance(config, dict) else None for name in ("model", "data")]
        model, data = (part if isinstance(part, dict) else {} for part in parts)
        if "items" in data:
            return "sequences"
        if "start" in model and "streams" not in data:
            return "task"
    return "model"


def _plainly(message: str) -> str:
    """Say which key is unknown and which was meant, or what a key must be, where a parser's message is about that."""
    unknown = re.search(r"[Oo]ption '([^']+)' is not accepted|does not accept option '([^']+)'", message)
    if unknown is None:
        key = re.search(r'Parser key "([^"]+)"', message)
        choices = re.search(r"typing\.Literal\[([^\]]+)\]", message)
        return f"{key[1]} must be one of {choices[1]}" if key and choices else " ".join(message.split())
    key_path = unknown[1] or unknown[2]
    classes: list[Any] = [
        ContrastiveModule,
        ContrastiveData,
        TaskModule,
        TaskData,
        SequenceModule,
        AlbumData,
        SequenceConfig,
        Trainer,
        OptimizerConfig,
        LossConfig,
    ]
    for path in re.findall(r"'(onepeace\.[\w.]+)'", message)[-1:]:
        module, _, name = path.rpartition(".")
        classes = [getattr(import_module(module), name)]
    known = sorted({name for one in classes for name in inspect.signature(one).parameters})
    meant = get_close_matches(key_path.rpartition(".")[2], known, 1)
    return f"unknown key {key_path!r}" + (f", did you mean {meant[0]!r}?" if meant else "")


def _no_advertisement(record: logging.LogRecord) -> bool:
    """Tell whether a line of Lightning's is about the run, and not about what else one might install."""
    return "\N{ELECTRIC LIGHT BULB} Tip" not in record.getMessage()
