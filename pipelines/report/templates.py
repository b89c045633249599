"""The environment of the pages' templates."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def template_environment() -> Environment:
    """Templates of this package; values are escaped, and a missing value is an error."""
    return Environment(
        loader=PackageLoader("pipelines", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
