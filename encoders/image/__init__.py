from encoders.image.adapter import (
    KINDS,
    BackboneAdapter,
    BackboneConfig,
    EfficientNetLiteConfig,
    ImageConfig,
    PatchAdapter,
    PatchConfig,
    TimmConfig,
)
from encoders.image.preprocess import ImagePreprocess, ImagePreprocessor

__all__ = [
    "KINDS",
    "BackboneAdapter",
    "BackboneConfig",
    "EfficientNetLiteConfig",
    "ImageConfig",
    "ImagePreprocess",
    "ImagePreprocessor",
    "PatchAdapter",
    "PatchConfig",
    "TimmConfig",
]
