from encoders.audio.adapter import KINDS, AudioConfig, LogMelAdapter, LogMelConfig, WaveformAdapter, WaveformConfig
from encoders.audio.preprocess import AudioPreprocess, AudioPreprocessor, AudioWindow

__all__ = [
    "KINDS",
    "AudioConfig",
    "AudioPreprocess",
    "AudioPreprocessor",
    "AudioWindow",
    "LogMelAdapter",
    "LogMelConfig",
    "WaveformAdapter",
    "WaveformConfig",
]
