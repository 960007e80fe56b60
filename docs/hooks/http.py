"""The page of all routes, from the schema that the service itself tells (OpenAPI)."""

from __future__ import annotations

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

INTRODUCTION = """# HTTP

Made from the service's OpenAPI schema: a running service tells it at `/openapi.json`, and `/docs` there lets you try
each route. [serve.md](../serve.md) says how they are meant, with examples, limits and [errors](../serve.md#errors).

| route | what it does |
| --- | --- |
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    schema = _schema()
    routes = [(path, method, told) for path, methods in schema["paths"].items() for method, told in methods.items()]
    text = INTRODUCTION + "".join(
        f"| `{method.upper()} {path}` | {_line(told['description'])} |\n" for path, method, told in routes
    )
    text += "\n" + "\n".join(_shape(name, told) for name, told in schema["components"]["schemas"].items())
    files.append(File.generated(config, "reference/http.md", content=text))
    return files


def _schema() -> dict[str, Any]:
    from fastapi import FastAPI

    from retrieval.service.app import create_app
    from retrieval.service.config import ServiceConfig
    from retrieval.service.service import Service
    from retrieval.service.worker import ModelSource

    service = Service(ModelSource("onepeace-tiny", "cpu", "float32"), {}, ServiceConfig())
    try:
        app = create_app(service)
        while not isinstance(app, FastAPI):  # what lies around it
            app = app.app
        return app.openapi()
    finally:
        service.worker.close()


def _shape(name: str, told: dict[str, Any]) -> str:
    rows = "".join(
        f"| `{field}` | {_type(about)} | {_default(field, about, told)} | {_line(about.get('description', ''))} |\n"
        for field, about in told.get("properties", {}).items()
    )
    table = f"\n| field | type | default | |\n| --- | --- | --- | --- |\n{rows}" if rows else ""
    return f"## {name}\n\n{_line(told.get('description', ''))}\n{table}"


def _type(about: dict[str, Any]) -> str:
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    if "const" in about:
        return f"`{about['const']}`"
    if "anyOf" in about:
        return " or ".join(_type(one) for one in about["anyOf"])
    if about.get("type") == "array":
        return f"list of {_type(about['items'])}" if about.get("items") else "list"
    return str(about.get("type", "any"))


def _default(field: str, about: dict[str, Any], told: dict[str, Any]) -> str:
    if field in told.get("required", ()):
        return "required"
    return f"`{about['default']}`" if about.get("default") is not None else ""


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
