"""``speakeasy corpus``: raw text, from files of many kinds to a clean corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import click

from speakeasy.cli.common import command, emit, group, json_option, progress, say
from speakeasy.cli.data_text import print_table


@group()
def corpus() -> None:
    """Build a corpus of raw text, and say what one holds.

    Raw text is what 'speakeasy pretrain' learns from. The packaged texts are small; Wikipedia,
    subtitles and your own files are how a corpus grows.

    \b
    From a pile of files to a corpus:
      speakeasy corpus build cawiki-latest-pages-articles.xml.bz2 subtitles/ --output-dir corpus
      speakeasy corpus status corpus
    """


@command("build")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--output-dir",
    required=True,
    type=click.Path(path_type=Path),
    help="New directory; it appears when all is done.",
)
@click.option(
    "--languages",
    default="ca,es",
    show_default=True,
    help="Languages to keep, as ISO 639-1 codes with commas between them.",
)
@click.option(
    "--min-chars", default=50, show_default=True, help="Drop documents with fewer characters."
)
@click.option(
    "--jobs",
    type=int,
    help="Processes that parse and clean.  [default: one a processor core, at most 4]",
)
@json_option
def build(
    sources: tuple[str, ...],
    output_dir: Path,
    languages: str,
    min_chars: int,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Build a corpus from files, directories and data sets.

    Texts are cleaned, their language is identified, what is no running text is dropped, and so
    are exact and near duplicates. What was dropped, and why, stands in corpus.json beside the
    texts. A build that was stopped goes on where it was when the same command is given again.

    \b
    A SOURCE is one of these, or a directory with such files:
      .txt                text: one document a file, a line, or a headed block
      .srt .vtt           subtitles
      .html .htm          web pages
      .xml .xml.bz2       a Wikipedia dump (pages-articles)
      hf:NAME[:CONFIG[:SPLIT[:FIELD]]]
                          a Hugging Face data set, by the package datasets

    \b
    Examples:
      speakeasy corpus build texts/ --output-dir corpus
      speakeasy corpus build cawiki-latest-pages-articles.xml.bz2 --output-dir wiki --languages ca
      speakeasy corpus build subtitles/ hf:my-name/my-texts::train:text --output-dir corpus
    """
    import os

    from speakeasy.corpus.build import build_corpus
    from speakeasy.files import disk_errors

    codes = [code.strip() for code in languages.split(",") if code.strip()]
    keep = "what is done is kept; free some space and run the same again"
    with disk_errors(f"{output_dir}", keep):
        record = build_corpus(
            sources,
            output_dir,
            languages=codes,
            min_characters=min_chars,
            jobs=jobs if jobs is not None else min(os.cpu_count() or 1, 4),
            bars=_bar,
            say=say,
        )
    if as_json:
        emit({"output_dir": str(output_dir), **record})
        return
    _print_record(record)
    say(f"{output_dir}: {record['documents']:,} documents, {_megabytes(record['bytes'])}")


@command("status")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@json_option
def status(paths: tuple[Path, ...], as_json: bool) -> None:
    """Say how much text there is, in what languages, and whether it is enough.

    A PATH is a corpus directory, a .txt or .jsonl file, or a directory of such files. With no
    PATH, the packaged texts are taken.
    The verdict is against the recommended 10 MB to 1 GB, with duplicates counted once. What a
    corpus directory holds was compared when it was built; near duplicates are estimated among the
    rest, and between it and the rest.

    \b
    Examples:
      speakeasy corpus status
      speakeasy corpus status corpus/ more.txt --json
    """
    from dataclasses import asdict

    from speakeasy.corpus.documents import part_build, read_documents, text_files
    from speakeasy.corpus.starter import starter_text_files
    from speakeasy.corpus.status import removed_by_builds, summarize

    files = text_files(paths or starter_text_files())
    loose: list[Path] = []
    builds: dict[Path, list[Path]] = {}
    for file in files:
        build = part_build(file)
        (builds.setdefault(build, []) if build else loose).append(file)
    removed = removed_by_builds(builds)
    total = sum(file.stat().st_size for file in files)
    with _byte_bar("Reading", total) as advance:
        figures = summarize(
            read_documents(loose),
            [read_documents(parts) for parts in builds.values()],
            advance=advance,
        )
    if as_json:
        more = {
            "distinct_bytes": figures.distinct_bytes,
            "removed_by_builds": removed,
            "verdict": figures.verdict,
            "files": [str(file) for file in files],
            "starter": not paths,
        }
        emit({**asdict(figures), **more})
        return
    if not paths:
        say("No PATH given: taking the texts that come with speakeasy (ca, es-ca).")
    rows = [
        ["documents", f"{figures.documents:,}"],
        ["UTF-8 bytes", f"{figures.bytes:,}"],
        ["words", f"{figures.words:,}"],
        *(
            [f"language {name}", f"{counts['documents']:,} documents, {counts['bytes']:,} bytes"]
            for name, counts in figures.languages.items()
        ),
        ["exact duplicates", f"{figures.exact_duplicates:,}"],
        ["near duplicates (estimate)", f"{figures.near_duplicates:,}"],
    ]
    if builds:
        said = f"{removed['duplicate']:,} exact, {removed['near_duplicate']:,} near"
        rows.append(["duplicates that the build dropped", said])
    print_table(["", ""], rows)
    say(
        f"Verdict: {figures.verdict}: {_megabytes(figures.distinct_bytes)} of distinct text; "
        "10 MB to 1 GB are recommended."
    )
    if figures.verdict == "too little":
        say("'speakeasy corpus build' makes a corpus of Wikipedia, subtitles or your own files.")


def _bar(
    description: str, total: int | None, unit: str
) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar for a phase of a build."""
    return _byte_bar(description, total) if unit == "bytes" else progress(description, total, unit)


@contextmanager
def _byte_bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes, shown in kB or MB; full at the end, whatever was counted."""
    unit, name = (1_000_000, "MB") if total is None or total >= 10_000_000 else (1_000, "kB")
    whole = None if total is None else max(total // unit, 1)
    shown = counted = 0
    with progress(description, whole, name) as bar:

        def advance(count: int) -> None:
            nonlocal shown, counted
            counted += count
            step = min(counted // unit, counted if whole is None else whole) - shown
            if step:
                bar(step)
                shown += step

        yield advance
        if whole is not None:
            bar(whole - shown)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"


def _print_record(record: dict[str, Any]) -> None:
    """What was read, kept and dropped, and the first problems."""
    rows = [
        [item["source"], f"{item['read']:,}", f"{item['documents']:,}", f"{item['problems']:,}"]
        for item in record["sources"]
    ]
    print_table(["source", "read", "kept", "problems"], rows)
    for name, count in record["dropped"].items():
        say(f"dropped, {name}: {count:,}")
    for name, counts in record["languages"].items():
        say(f"language {name}: {counts['documents']:,} documents, {_megabytes(counts['bytes'])}")
    for problem in record["problems"][:20]:
        say(f"{problem['origin']}: {problem['reason']}")
    if record["problem_count"] > 20:
        say(f"... {record['problem_count'] - 20:,} more problems; corpus.json has the first 100")


for subcommand in (build, status):
    corpus.add_command(subcommand)
