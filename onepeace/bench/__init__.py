"""How fast a model encodes on this machine."""

from onepeace.bench.run import Speed as Speed
from onepeace.bench.run import bench as bench

__all__ = ["Speed", "bench"]
