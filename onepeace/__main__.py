"""`python -m onepeace` is `onepeace`. The command is of a package behind this one, so it is looked up, not imported."""

import sys
from importlib.metadata import entry_points

commands = tuple(entry_points(group="console_scripts", name="onepeace"))
if not commands:
    sys.exit("error: onepeace is not installed here: pip install onepeace")
commands[0].load()()
