from onepeace.scenes.write import TASKS, write_scenes

__all__ = ["TASKS", "write_scenes"]
