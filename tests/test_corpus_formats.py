"""Subtitles, web pages, Wikipedia dumps and data sets: what is read of them, and what is not."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

import pytest

from speakeasy.corpus import wikitext
from speakeasy.corpus.clean import clean
from speakeasy.corpus.html import html_text
from speakeasy.corpus.hub import HubName, parse, read_rows
from speakeasy.corpus.subtitles import subtitles_text
from speakeasy.corpus.wiki_dump import PAGE_BYTES, read_pages
from speakeasy.corpus.wikitext import wikitext_text
from speakeasy.errors import DataError

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>- Bon dia, nen!</i>
- [RIU] Hola.

2
00:00:02,600 --> 00:00:04,000
MONTSE: Com va <font color="red">tot</font>?

3
00:00:04,100 --> 00:00:05,000
MONTSE: Com va tot?

4
00:00:20,000 --> 00:00:22,000
{\\an8}(música) ♪ La lluna la pruna ♪

5
00:00:30,000 --> 00:00:32,000
Subtítols per en Pep
www.example.org
"""
VTT = """WEBVTT

NOTE un comentari

00:01.000 --> 00:04.000 align:left
<v Roger>Bon dia a <00:02.000><c>tothom</c>.

00:05.000 --> 00:06.000
- Adéu.
"""


def test_subrip() -> None:
    assert subtitles_text(SRT) == "Bon dia, nen! Hola. Com va tot?\nLa lluna la pruna"


def test_webvtt() -> None:
    assert subtitles_text(VTT) == "Bon dia a tothom. Adéu."


@pytest.mark.parametrize("text", ["", "no és res", "1\n00:00:01,000 --> x\nhola"])
def test_what_is_no_subtitle_file(text: str) -> None:
    with pytest.raises(ValueError, match="is no subtitle file"):
        subtitles_text(text)


PAGE = """<html><head><title>x</title><script>var a="p";</script></head><body>
<header>Capçalera del lloc web.</header><nav><ul><li><a href=1>Inici</a></li></ul></nav>
<div class="cookie-banner"><p>Fem servir galetes per millorar la vostra experiència.</p></div>
<main><h1>El títol de la pàgina d'avui</h1>
<p>Primer paràgraf amb <b>negreta</b>, un <a href=x>enllaç</a> i més&nbsp;text.<br>Segona.</p>
<div>Text solt dins d'un div que és prou llarg.<p>Un altre paràgraf dins.</p>Cua del div llarg.
</div><ul><li><a href=1>Només un enllaç llarg que és menú</a></li>
<li>Un element de llista que diu alguna cosa.</li><li>Curt</li></ul>
<p hidden>Text amagat que no s'ha de veure mai.</p><p>Aquest lloc fa servir cookies.</p>
</main><footer>Peu de pàgina.</footer></body></html>"""


def test_a_page() -> None:
    assert clean(html_text(PAGE)).splitlines() == [
        "El títol de la pàgina d'avui",
        "Primer paràgraf amb negreta, un enllaç i més text. Segona.",
        "Text solt dins d'un div que és prou llarg.",
        "Un altre paràgraf dins.",
        "Cua del div llarg.",
        "Un element de llista que diu alguna cosa.",
    ]


def test_pages_without_text_and_broken_ones() -> None:
    for page in ("", "\0\0", "<p>", "<table><tr><td>x", "<!--", "<main></main>"):
        assert html_text(page) == ""
    assert html_text("<p>Sense tancar, però es llegeix.<div>I això també es llegeix.") == (
        "Sense tancar, però es llegeix.\nI això també es llegeix."
    )
    with pytest.raises(ValueError, match="nest deeper"):
        html_text("<div>" * 6_000)


ARTICLE = """{{Infotaula|nom=Joan [[Miró]]|imatge={{wd|P18}}}}
'''Joan Miró''' ([[Barcelona]], [[1893]])<ref name="a">{{ref|t=x}}</ref> fou un [[pintor]] i \
[[escultura|escultor]].<ref>Nota amb [[enllaç]]</ref> Era ''molt'' conegut&nbsp;arreu &amp; enllà.

[[Fitxer:Miro.jpg|miniatura|Un quadre de [[Joan Miró]] al [[Museu]]]]
== Biografia ==
Va néixer a [[Barcelona]].<!-- comentari --> Va viure a <small>Mont-roig</small> del Camp.
* Primer element amb [http://example.org un enllaç].
{| class="wikitable"
! Any !! {{nom}}
|-
| 1920 || {{lang|fr|La Ferme}}
|}
== Referències ==
{{referències}}
=== Bibliografia ===
* Llibre
== Obra ==
La seva obra és gran.<ref name="a" /> __NOTOC__
== Enllaços externs ==
* [http://example.org Lloc]
[[Categoria:Pintors]]
[[es:Joan Miró]]
"""


@pytest.mark.parametrize("parser_characters", [wikitext.PARSER_CHARACTERS, 0])
def test_an_article_by_the_parser_and_without_it(
    parser_characters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wikitext, "PARSER_CHARACTERS", parser_characters)
    assert clean(wikitext_text(ARTICLE)).splitlines() == [
        "Joan Miró (Barcelona, 1893) fou un pintor i escultor. Era molt conegut arreu & enllà.",
        "Va néixer a Barcelona. Va viure a Mont-roig del Camp.",
        "Primer element amb un enllaç.",
        "La seva obra és gran.",
    ]


@pytest.mark.parametrize(
    "evil",
    [
        "{{",
        "}}",
        "[[a|",
        "[[File:a|",
        "''",
        "<ref>",
        "<b>",
        "[http://a ",
        "==",
        "{|\n",
        "<!--",
        ":",
    ],
)
def test_no_article_takes_long(evil: str) -> None:
    began = time.process_time()
    wikitext_text(evil * (100_000 // len(evil)))
    assert time.process_time() - began < 5  # in fact 0.5; the parser alone takes 40 for '[[a|'


def dump(*pages: str, head: str = "<mediawiki>") -> io.BytesIO:
    return io.BytesIO((head + "".join(pages) + "</mediawiki>").encode())


def page(title: str, text: str, ns: int = 0, more: str = "") -> str:
    return (
        f"<page><title>{title}</title><ns>{ns}</ns>{more}<revision><contributor><username>u"
        f"</username></contributor><text>{text}</text></revision></page>"
    )


def test_a_dump_gives_articles_only() -> None:
    pages = read_pages(
        dump(
            page("A &amp; B", "'''Text''' &lt;ref>x&lt;/ref>"),
            page("Discussió:A", "no", ns=1),
            page("Redirigida", "no", more='<redirect title="A"/>'),
            page("Llarga", "a" * (PAGE_BYTES + 1)),
            page("Z", "fi"),
        )
    )
    assert [(item.title, item.text) for item in pages] == [
        ("A & B", "'''Text''' <ref>x</ref>"),
        ("Llarga", None),
        ("Z", "fi"),
    ]


def test_a_dump_that_ends_early_gives_what_came_before() -> None:
    broken = io.BytesIO(dump(page("A", "u"), page("B", "dos")).getvalue()[:-80])
    pages = read_pages(broken)
    assert next(pages).title == "A"
    with pytest.raises(DataError, match="is no well-formed XML"):
        list(pages)


def test_entities_cannot_explode() -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]><mediawiki>'
    with pytest.raises(DataError, match="declares a document type"):
        list(read_pages(dump(page("A", "&b;"), head=bomb)))


def test_names_of_data_sets() -> None:
    assert parse("hf:a/b") == HubName("a/b", None, "train", "text")
    assert parse("hf:a/b:ca:test:content") == HubName("a/b", "ca", "test", "content")
    for wrong in ("hf:", "hf:a:b:c:d:e"):
        with pytest.raises(DataError, match="expected hf:NAME"):
            parse(wrong)


def test_without_datasets_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package datasets; pip install datasets"):
        next(read_rows("hf:a/b"))


@pytest.mark.filterwarnings("ignore")  # of other packages that datasets imports
def test_rows_of_a_local_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [{"text": "Bon dia.", "n": 1}, {"text": None, "n": 2}, {"text": "Adéu.", "n": 3}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_rows(f"hf:{tmp_path}")) == ["Bon dia.", None, "Adéu."]
    with pytest.raises(DataError, match="has no field body; expected one of text, n"):
        list(read_rows(f"hf:{tmp_path}:::body"))
    with pytest.raises(DataError, match="check the name"):
        list(read_rows(f"hf:{tmp_path}/none"))
