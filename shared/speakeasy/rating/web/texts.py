"""What the pages say, in each language: ``texts/*.toml``, which have the same keys."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from speakeasy.rating.study import LANGUAGES


@cache
def texts_of(language: str) -> Mapping[str, str]:
    """Key -> text in one of ``LANGUAGES``."""
    file = files("speakeasy.rating.web").joinpath("texts", f"{language}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def preferred(accepted: str, default: str) -> str:
    """The first of our languages that a browser asks for (RFC 9110, section 12.5.4).

    Args:
        accepted: the header Accept-Language.
        default: when it asks for none of them.
    """
    found: list[tuple[float, int, str]] = []
    for place, part in enumerate(accepted[:200].split(",")):
        name, _, quality = part.strip().partition(";q=")
        language = name.split("-")[0].lower()
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            continue
        if language in LANGUAGES and weight > 0:
            found.append((-weight, place, language))
    return min(found)[2] if found else default
