"""`onepeace train`: LightningCLI over our module and data, with YAML configs. Unknown keys are refused by name."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch.cli import LightningCLI

from onepeace.training.datamodule import ContrastiveData
from onepeace.training.module import ContrastiveModule

# What Lightning says of things that are meant, or of its own use of others.
EXPECTED_WARNINGS = (
    "LightningCLI's args parameter is intended to run from within Python",  # we are called with the user's arguments
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen backbones
    "Precision bf16-mixed is not supported by the model summary",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


class TrainingCLI(LightningCLI):
    """The command line with the subcommands that mean something here."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return fit and validate, and the arguments that we fill ourselves."""
        return {name: LightningCLI.subcommands()[name] for name in ("fit", "validate")}


def main(args: list[str]) -> None:
    """Run `onepeace train` with its arguments: `fit --config configs/train/tiny.yaml`, `validate`, `--help`."""
    defaults: dict[str, Any] = {"use_distributed_sampler": False}  # batches are divided by the data itself
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    # Lightning calls jsonargparse by its older names.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(jsonargparse|lightning\.pytorch\.cli)\b.*")
    TrainingCLI(
        ContrastiveModule,
        ContrastiveData,
        args=args,
        trainer_defaults=defaults,
        seed_everything_default=3407,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "onepeace train"},
    )
