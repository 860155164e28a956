"""Web pages as running text: the paragraphs of the main part, without menus and notices.

The parser is selectolax (the Lexbor engine), which reads any bytes without complaint. What is
kept is told from structure alone: the element, the share of links, the length.
"""

from __future__ import annotations

import re
from typing import Any

MAX_LINKS = 0.5
"""A paragraph with a larger share of its characters in links is a menu or a list of links."""

SHORT_PARAGRAPH = 25
"""A shorter paragraph is kept only when it ends a sentence."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NO_TEXT = _names(
    "script style noscript template svg math iframe object canvas nav header footer aside form "
    "button select textarea menu dialog figure audio video pre code table"
)
_INLINE = _names(
    "a abbr acronym b bdi bdo big cite data del dfn em font i ins kbd label mark q ruby s samp "
    "small span strike strong sub sup time tt u var wbr"
)
# Whole words of a class, so that a theme's "no-sidebar" around the whole page is not one.
_CLASSES = re.compile(
    r"(?<![\w-])(?:cookie|consent|gdpr|newsletter|breadcrumb|sidebar|share|social)s?(?![a-z])",
    re.IGNORECASE,
)
_NOTICE = re.compile(r"\bcookies?\b|javascript", re.IGNORECASE)
_ENDS = (".", "!", "?", "…", ":", "»", "”", '"')
_DEPTH = 64
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)")
_NOT_NESTING = _names(
    "area base br col embed hr img input link meta param source track wbr p li dt dd tr td th "
    "option optgroup tbody thead tfoot colgroup body html"
)
MAX_NESTING = 5_000
"""The parser's time grows with the square of the depth; real pages stay under a hundred."""


def html_text(page: str) -> str:
    """The paragraphs of a page, one a line; empty when it has none.

    Raises:
        ValueError: elements nest deeper than ``MAX_NESTING``.
    """
    from selectolax.lexbor import LexborHTMLParser

    if _nesting(page) > MAX_NESTING:
        raise ValueError(f"elements nest deeper than {MAX_NESTING:,}")
    tree = LexborHTMLParser(page)
    tree.strip_tags(sorted(_NO_TEXT), recursive=True)
    root = _main_part(tree)
    if root is None:
        return ""
    return "\n".join(text for text, links in _paragraphs(root) if _is_prose(text, links))


def _nesting(page: str) -> int:
    """How deep elements nest at most, those left out that need no closing tag."""
    depth = deepest = 0
    for match in _TAG.finditer(page):
        if match[2].lower() not in _NOT_NESTING:
            depth += -1 if match[1] else 1
            deepest = max(deepest, depth)
    return deepest


def _main_part(tree: Any) -> Any:
    """``main``, else the only ``article``, else ``body``."""
    for selector in ("main", "article"):
        found = tree.css(selector)
        if len(found) == 1 and len(found[0].text(deep=True)) >= SHORT_PARAGRAPH:
            return found[0]
    return tree.body


def _paragraphs(root: Any) -> list[tuple[str, int]]:
    """Text and characters in links of each run of text that stands in one block."""
    paragraphs: list[tuple[list[str], list[int]]] = []
    block = None
    for node in root.traverse(include_text=True):
        if node.tag == "br":
            if paragraphs:
                paragraphs[-1][0].append(" ")
            continue
        if node.tag != "-text":
            block = None if node.tag not in _INLINE else block
            continue
        text = node.text_content or ""
        owner, in_link, hidden = _block_of(node, root)
        if hidden or not text:
            continue
        if owner != block:
            paragraphs.append(([], []))
            block = owner
        paragraphs[-1][0].append(text)
        paragraphs[-1][1].append(len(text.strip()) if in_link else 0)
    return [(" ".join("".join(parts).split()), sum(links)) for parts, links in paragraphs]


def _block_of(node: Any, root: Any) -> tuple[int, bool, bool]:
    """The block that a text stands in, whether in a link, and whether in a notice or hidden."""
    in_link = False
    parent = node.parent
    for _ in range(_DEPTH):
        if parent is None or parent.tag not in _INLINE:
            break
        in_link = in_link or parent.tag == "a"
        parent = parent.parent
    if parent is None:
        return 0, in_link, False
    owner = parent.mem_id
    for _ in range(_DEPTH):
        if parent is None or parent.mem_id == root.mem_id:
            break
        attributes = parent.attributes
        if "hidden" in attributes or attributes.get("aria-hidden") == "true":
            return owner, in_link, True
        if _CLASSES.search(f"{attributes.get('class') or ''} {attributes.get('id') or ''}"):
            return owner, in_link, True
        parent = parent.parent
    return owner, in_link, False


def _is_prose(text: str, links: int) -> bool:
    if not text or links > MAX_LINKS * len(text):
        return False
    if len(text) < SHORT_PARAGRAPH and not text.endswith(_ENDS):
        return False
    return not (len(text) < 400 and _NOTICE.search(text))
