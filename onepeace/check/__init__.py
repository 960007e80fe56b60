"""Whether an installation does what it promises: versions, hardware, the model's vectors, media, speed."""

from onepeace.check.finding import Check as Check
from onepeace.check.finding import Finding as Finding
from onepeace.check.finding import Outcome as Outcome
from onepeace.check.finding import Row as Row
from onepeace.check.finding import run as run
from onepeace.check.plan import ModelChecks as ModelChecks
from onepeace.check.plan import environment_checks as environment_checks
from onepeace.check.samples import Samples as Samples
from onepeace.check.table import print_rows as print_rows
from onepeace.check.table import to_json as to_json

__all__ = [
    "Check",
    "Finding",
    "ModelChecks",
    "Outcome",
    "Row",
    "Samples",
    "environment_checks",
    "print_rows",
    "run",
    "to_json",
]
