from onepeace.model.config import ModelConfig
from onepeace.model.onepeace import OnePeace, count_parameters

__all__ = ["ModelConfig", "OnePeace", "count_parameters"]
