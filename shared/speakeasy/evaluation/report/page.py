"""A comparison as one HTML file that needs no other: no script, no font, nothing to fetch."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from speakeasy.evaluation.metric_kinds import METRICS
from speakeasy.evaluation.report import panels, view
from speakeasy.evaluation.report.definitions import DEFINITIONS
from speakeasy.evaluation.tables import grouped_rows, guide_rows, variety_of
from speakeasy.training.run import Record

_PACKAGE = "speakeasy.evaluation.report"
LONG = 1_200
"""An answer of more characters scrolls in its own box."""


def report_page(comparison: Record) -> str:
    """The page.

    Everything that models, files and people have named or said is text in it and never markup
    (Jinja2 escapes it). The same comparison gives the same bytes.

    Args:
        comparison: the content of ``comparison.json``.
    """
    variety = variety_of(comparison)
    names = [run["name"] for run in comparison["runs"]]
    return (
        environment(_PACKAGE)
        .get_template("report.html")
        .render(
            style=style(),
            title=f"Comparison: {', '.join(names)}",
            runs=names,
            variety=variety,
            verdict=comparison["verdict"]["lines"],
            warnings=comparison["warnings"],
            guide=guide_rows(comparison),
            groups=list(grouped_rows(comparison)),
            intervals=panels.interval_panels(comparison),
            curves=panels.curve_panels(comparison),
            fertility=panels.fertility_panels(comparison),
            duels=view.duels(comparison),
            answers=view.answers(comparison),
            facts=view.facts(comparison),
            definitions=[
                (METRICS[name].label_for(variety), meaning) for name, meaning in DEFINITIONS.items()
            ],
            long=LONG,
        )
    )


def style() -> Any:
    """The look of all our pages, to stand in a ``style`` element."""
    from markupsafe import Markup

    return Markup(_template(_PACKAGE, "style.css"))


def environment(*packages: str) -> Any:
    """Jinja2 with the ``templates`` of packages; everything is escaped, nothing may be missing."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def load(name: str) -> str | None:
        found = (_template(package, name) for package in packages)
        return next((text for text in found if text is not None), None)

    return Environment(
        loader=FunctionLoader(load),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(package: str, name: str) -> str | None:
    """A file of a package's ``templates``; None if it has none of that name."""
    file = files(package).joinpath("templates", name)
    return file.read_text(encoding="utf-8") if file.is_file() else None
