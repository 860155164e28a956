"""The articles of a Wikipedia dump (``pages-articles.xml``, also ``.bz2``), as they stream by.

The XML is read with expat, event by event, so that memory is bounded by one page. A document type
declaration is refused: dumps have none, and without one no entity can be made to explode.
The format: https://www.mediawiki.org/wiki/Help:Export.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO
from xml.parsers import expat

from speakeasy.errors import DataError

PAGE_BYTES = 2 * 1024 * 1024
"""MediaWiki's own limit of an article. A longer page is passed over."""

_CHUNK = 256 * 1024
_FIELDS = ("title", "ns", "text")


class Page:
    """An article: ``title`` and ``text`` in wikitext; the text is None when it was too long."""

    __slots__ = ("text", "title")

    def __init__(self, title: str, text: str | None) -> None:
        self.title = title
        self.text = text


def read_pages(file: BinaryIO) -> Iterator[Page]:
    """The articles (namespace 0, no redirects) of an open dump.

    Raises:
        DataError: it is no well-formed dump, or declares a document type; what came before has
            been yielded. The message is a reason without the file's name.
        EOFError: a compressed file ends early.
        OSError: a compressed file is broken.
    """
    reader = _Reader()
    try:
        while data := file.read(_CHUNK):
            reader.parser.Parse(data, False)
            yield from reader.take()
        reader.parser.Parse(b"", True)
    except expat.ExpatError as error:
        yield from reader.take()
        raise DataError(f"is no well-formed XML ({error})") from error
    yield from reader.take()


class _Reader:
    """Collects pages from expat's events."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._doctype
        self._pages: list[Page] = []
        self._fields: dict[str, list[str]] = {}
        self._size = 0
        self._field = ""
        self._redirect = False

    def take(self) -> list[Page]:
        """The pages that are complete, once."""
        pages, self._pages = self._pages, []
        return pages

    def _doctype(self, *_: object) -> None:
        raise DataError("declares a document type; a Wikipedia dump has none, so it is not read")

    def _start(self, name: str, _: dict[str, str]) -> None:
        if name == "page":
            self._fields = {field: [] for field in _FIELDS}
            self._size, self._redirect = 0, False
        elif name == "redirect":
            self._redirect = True
        self._field = name if name in _FIELDS else ""

    def _text(self, data: str) -> None:
        if self._field and self._fields:
            self._size += len(data)
            if self._size <= PAGE_BYTES:
                self._fields[self._field].append(data)

    def _end(self, name: str) -> None:
        self._field = ""
        if name != "page" or not self._fields:
            return
        title, namespace, text = ("".join(self._fields[field]) for field in _FIELDS)
        self._fields = {}
        if namespace.strip() in ("", "0") and not self._redirect:
            whole = self._size <= PAGE_BYTES
            self._pages.append(Page(title.strip(), text if whole else None))
