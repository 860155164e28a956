"""Wikitext as running text, with mwparserfromhell behind first passes that bound its work.

Templates, tables and notes hold no running text and are most of a parser's work. They are cut out
by counting braces and tags, in time linear in the page. What is left goes to the parser paragraph
by paragraph, for links, tags, quotes and entities: its time can grow with the square of its input
(brackets that are never closed), so a paragraph longer than ``PARSER_CHARACTERS`` is read by
regular expressions instead.
"""

from __future__ import annotations

import html
import re
from typing import Any

PARSER_CHARACTERS = 5_000

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_BRACES = re.compile(r"\{\{|\}\}|^[ \t:*#;]*\{\||\|\}", re.MULTILINE)
_DROPPED = (
    "ref|references|gallery|math|chem|score|timeline|syntaxhighlight|source|pre|code|imagemap|"
    "table|categorytree|inputbox|hiero|graph|mapframe|maplink|templatestyles"
)
_DROPPED_TAGS = frozenset(_DROPPED.split("|"))
_DROPPED_TAG = re.compile(rf"<(/?)({_DROPPED})\b[^<>]{{0,2000}}?(/?)>", re.IGNORECASE)
_MAGIC = re.compile(r"__[A-ZÀ-Ý]+__")
_HEADING = re.compile(r"^(={2,6})[ \t]{0,9}([^\n]{1,200}?)[ \t]{0,9}\1[ \t]{0,9}$", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_LIST_MARK = re.compile(r"^[*#:;]+\s*", re.MULTILINE)
_NAMESPACE = re.compile(
    r"\s*:?\s*(?:File|Image|Fitxer|Imatge|Archivo|Imagen|Category|Categoria|Categoría|Media|"
    r"Special|Especial|Template|Plantilla|[a-z]{2,3})\s*:",
    re.IGNORECASE,
)
_END_TITLES = re.compile(
    r"(?:notes?|notas?|referènci\w*|referenci\w*|references|bibliograf[ií]a\w*|fonts|fuentes|"
    r"enllaços externs|enlaces externos|external links|vegeu també|véase también|see also|"
    r"galer[ií]a|gallery)\b.{0,40}",
    re.IGNORECASE,
)


def wikitext_text(source: str) -> str:
    """The paragraphs of an article, without templates, tables, notes, lists of links and headings.

    Sections that hold references, notes, links or a bibliography are left out.
    """
    source = _MAGIC.sub("", _without_braces(_COMMENT.sub("", source)))
    source = _HEADING.sub("\n", _without_end_matter(_without_elements(source)))
    return _LIST_MARK.sub("", "\n\n".join(map(_paragraph_text, _BLANK_LINE.split(source))))


def _paragraph_text(paragraph: str) -> str:
    return (_by_rule if len(paragraph) > PARSER_CHARACTERS else _by_parser)(paragraph)


def _without_braces(source: str) -> str:
    """Without ``{{templates}}`` and ``{| tables |}``, nested ones too; open ones are cut off."""
    kept: list[str] = []
    stack: list[str] = []
    opened = {"}}": 0, "|}": 0}
    start = 0
    for match in _BRACES.finditer(source):
        sign = match[0].strip(" \t:*#;")
        if sign in ("{{", "{|"):
            if not stack:
                kept.append(source[start : match.start()])
            stack.append("}}" if sign == "{{" else "|}")
            opened[stack[-1]] += 1
        elif opened[sign]:
            while (inner := stack.pop()) != sign:  # what was left open within it ends with it
                opened[inner] -= 1
            opened[sign] -= 1
            start = match.end()
    if not stack:
        kept.append(source[start:])
    return "".join(kept)


def _without_elements(source: str) -> str:
    """Without ``<ref>...</ref>`` and its like; from one that is never closed on, all is kept."""
    kept: list[str] = []
    start, opened = 0, ""
    for match in _DROPPED_TAG.finditer(source):
        name, closes, alone = match[2].lower(), bool(match[1]), bool(match[3])
        if not opened:
            kept.append(source[start : match.start()])
            start = match.end()
            opened = "" if closes or alone else name
        elif closes and name == opened:
            start, opened = match.end(), ""
    kept.append(source[start:])
    return "".join(kept)


def _without_end_matter(source: str) -> str:
    """Without the sections that hold no running text, and what is below them."""
    kept: list[str] = []
    start, dropped_level = 0, 0
    for match in _HEADING.finditer(source):
        level = len(match[1])
        if not dropped_level:
            kept.append(source[start : match.start()])
        if not dropped_level or level <= dropped_level:
            dropped_level = level if _END_TITLES.fullmatch(match[2]) else 0
            start = match.start()
    if not dropped_level:
        kept.append(source[start:])
    return "".join(kept)


def _by_parser(source: str) -> str:
    import mwparserfromhell

    return _render(mwparserfromhell.parse(source, skip_style_tags=False))


def _render(code: Any) -> str:
    """The readable text of parsed wikitext. The parser bounds how deep it nests."""
    from mwparserfromhell.nodes import ExternalLink, HTMLEntity, Tag, Text, Wikilink

    parts: list[str] = []
    for node in code.nodes:
        if isinstance(node, Text):
            parts.append(str(node))
        elif isinstance(node, Wikilink):
            if not _NAMESPACE.match(str(node.title)):
                parts.append(_render(node.text if node.text is not None else node.title))
        elif isinstance(node, Tag):
            parts.append(_render_tag(node))
        elif isinstance(node, ExternalLink):
            parts.append(_render(node.title) if node.title is not None else "")
        elif isinstance(node, HTMLEntity):
            parts.append(html.unescape(str(node)))
    return "".join(parts)


def _render_tag(tag: Any) -> str:
    name = str(tag.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return ""
    if name == "br":
        return "\n"
    return _render(tag.contents) if tag.contents is not None else ""


_LINK = re.compile(r"\[\[(?:[^\[\]|]{0,300}\|){0,9}([^\[\]|]{0,900})\]\]")
_NAMESPACE_LINK = re.compile(rf"\[\[{_NAMESPACE.pattern}[^\[\]]{{0,2000}}\]\]", re.IGNORECASE)
_EXTERNAL = re.compile(r"\[(?:https?:)?//[^\s\]]{0,300}\s?([^\]\n]{0,300})\]")
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,500}>")
_QUOTES = re.compile(r"'{2,5}")


def _by_rule(source: str) -> str:
    """The same by regular expressions, each of which looks ahead a bounded way."""
    for _ in range(3):  # links within the captions of pictures, the pictures, what is left
        source = _LINK.sub(r"\1", _NAMESPACE_LINK.sub("", source))
    source = _TAG.sub("", _EXTERNAL.sub(r"\1", source))
    return html.unescape(_QUOTES.sub("", source))
