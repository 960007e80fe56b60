"""The page of all config keys, from the dataclasses that read them and the comments beside their fields."""

from __future__ import annotations

import ast
import html
import re
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
INTRODUCTION = """# Config keys

Made from the dataclasses that read them. An unknown key is refused by name, a value that cannot work with what was
wanted. How they go together: [training](../training.md), with ready-made files in [configs/plans](../../configs/plans).
"""
PARTS = [
    (
        "Model",
        "`configs/model`, and `config.json` of a model folder. `adapters` has an entry a modality; its `kind` chooses.",
        ["onepeace.model.config.ModelConfig"],
    ),
    (
        "Adapters",
        "",
        [
            "encoders.text.adapter.TextConfig",
            "encoders.text.adapter.BertConfig",
            "encoders.image.adapter.PatchConfig",
            "encoders.image.adapter.TimmConfig",
            "encoders.image.adapter.EfficientNetLiteConfig",
            "encoders.audio.adapter.WaveformConfig",
            "encoders.audio.adapter.LogMelConfig",
        ],
    ),
    (
        "Preprocessing",
        "The adapters' `preprocess`.",
        [
            "encoders.text.preprocess.TextPreprocess",
            "encoders.image.preprocess.ImagePreprocess",
            "encoders.audio.preprocess.AudioPreprocess",
        ],
    ),
    ("Plans", "`onepeace train plan`.", ["onepeace.training.stages.Plan", "onepeace.training.stages.Stage"]),
    (
        "Training",
        "A run's `model` and `data`, or a plan's `base`; `onepeace train fit --help` lists the trainer's keys too.",
        [
            "onepeace.training.module.LossConfig",
            "onepeace.training.pretraining.DenoisingConfig",
            "onepeace.model.decoder.DecoderConfig",
            "onepeace.training.optim.OptimizerConfig",
            "onepeace.training.lora.LoraConfig",
            "onepeace.training.distillation.DistillationConfig",
            "encoders.teachers.TeacherConfig",
            "onepeace.training.texts.LabelConfig",
            "encoders.pretrained.PretrainedConfig",
            "onepeace.training.data.StreamConfig",
            "onepeace.training.rows.SourceConfig",
            "onepeace.training.augment.AugmentConfig",
            "onepeace.training.evaluation.EvaluationConfig",
        ],
    ),
    (
        "Stores and the service",
        "In Python; the command line has an option for what is set often.",
        [
            "retrieval.build_config.BuildConfig",
            "retrieval.service.config.ServiceConfig",
            "encoders.media.Limits",
        ],
    ),
]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    text = INTRODUCTION
    for title, prose, names in PARTS:
        text += f"\n## {title}\n\n{prose}\n" + "".join(map(_section, names))
    files.append(File.generated(config, "reference/configs.md", content=text))
    return files


@cache
def _source(module: str) -> tuple[list[str], dict[str, ast.ClassDef]]:
    """Return the lines of a module and its classes. Read, not imported: that would take half a minute of Lightning."""
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    return text.split("\n"), {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}


def _section(name: str) -> str:
    module, _, short = name.rpartition(".")
    told = re.split(r"\n\n(?:Raises\b|>>>)", ast.get_docstring(_source(module)[1][short]) or "")[0]
    table = "".join(f"| `{key}` | {row} |\n" for key, row in _fields(module, short).items())
    return f"\n### {short}\n\n{told}\n\n| key | type | default | |\n| --- | --- | --- | --- |\n{table}"


def _fields(module: str, name: str) -> dict[str, str]:
    """Return key -> type, default and comment, those of the bases first."""
    lines, classes = _source(module)
    if name not in classes:
        return _fields("encoders.adapter", name)
    found: dict[str, str] = {}
    for base in classes[name].bases:
        found |= _fields(module, ast.unparse(base))
    for node in classes[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            cells = (_code(ast.unparse(node.annotation)), _default(node.value), _comment(node, lines))
            found[node.target.id] = " | ".join(cells)
    return found


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "required"
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        named = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
        made = named.get("default_factory", "").removeprefix("lambda: ")
        return named.get("default") or {"": "required", "dict": _code("{}"), "list": _code("[]")}.get(made, _code(made))
    return _code(ast.unparse(value))


def _code(text: str) -> str:
    """Return code as a cell of a table may hold it: no bars, which end a cell even between backticks."""
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _comment(node: ast.AnnAssign, lines: list[str]) -> str:
    """Return what is said of a field, beside it and in the lines above."""
    comment = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :].partition("#")[2].strip()
    above = node.lineno - 2
    while lines[above].strip().startswith("#"):
        comment = f"{lines[above].strip('# ')} {comment}".strip()
        above -= 1
    return comment.replace("|", "\\|")
