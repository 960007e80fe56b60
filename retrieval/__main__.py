"""`python -m retrieval` is `onepeace`."""

from .cli import app

app()
