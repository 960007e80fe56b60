from onepeace.model.config import ModelConfig
from onepeace.model.onepeace import OnePeace, count_parameters
from onepeace.model.task_head import TaskConfig
from onepeace.model.task_model import TaskModel

__all__ = ["ModelConfig", "OnePeace", "TaskConfig", "TaskModel", "count_parameters"]
