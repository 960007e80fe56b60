"""Measuring a model on your own data."""

from onepeace.evaluate.measurement import Measurement as Measurement
from onepeace.evaluate.run import Evaluation as Evaluation
from onepeace.evaluate.run import evaluate as evaluate
from onepeace.evaluate.run import measure as measure

__all__ = ["Evaluation", "Measurement", "evaluate", "measure"]
