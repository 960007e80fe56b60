from encoders.adapter import Adapter, AdapterConfig, Shape
from encoders.tokens import Modality, TokenSequence

__all__ = ["Adapter", "AdapterConfig", "Modality", "Shape", "TokenSequence"]
