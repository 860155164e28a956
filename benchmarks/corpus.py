"""Throughput and memory of ``speakeasy corpus build``, on text that anyone can make again.

    python -m benchmarks.corpus                 # 100 MB
    python -m benchmarks.corpus --size 1000     # 1 GB
    python -m benchmarks.corpus --wikipedia     # the same as a dump in wikitext, bz2

The text: sentences drawn by a Markov chain over the words of the packaged texts, ten or so to a
document; one document in twenty repeats an earlier one, one in twenty repeats it with three words
in a hundred changed. Memory is the resident size of all processes of the build, added up, at its
highest of five looks a second.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from speakeasy.corpus.starter import starter_texts

LANGUAGES = (("ca", "ca-neutral"), ("es-ca", "es"))
SENTENCES = 200_000
HISTORY = 2_000
REPEATED, NEARLY = 0.05, 0.05
CHANGED = 0.03


def sentences(draw: random.Random, names: tuple[str, ...], count: int) -> list[str]:
    """Sentences of a Markov chain of the first order over the words of packaged texts."""
    follow: dict[str, list[str]] = defaultdict(list)
    starts = []
    for document in starter_texts(*names):
        before = "."
        for word in document.text.split():
            (starts if before.endswith(".") else follow[before]).append(word)
            before = word
    made = []
    while len(made) < count:
        words = [draw.choice(starts)]
        while len(words) < 40 and not words[-1].endswith(".") and follow.get(words[-1]):
            words.append(draw.choice(follow[words[-1]]))
        if len(words) > 4:
            made.append(" ".join(words).rstrip(".,;:") + ".")
    return made


def documents(size: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Documents of ``size`` bytes in all: ``new``, ``exact`` or ``near``, and the text."""
    draw = random.Random(seed)
    pools = [sentences(draw, names, SENTENCES // 2) for names in LANGUAGES]
    history: list[str] = []
    while size > 0:
        kind, text = "new", ""
        chance = draw.random()
        if len(history) == HISTORY and chance < REPEATED + NEARLY:
            text = draw.choice(history)
            kind = "exact" if chance < REPEATED else "near"
            if kind == "near":
                words = text.split()
                for place in draw.sample(range(len(words)), max(int(CHANGED * len(words)), 1)):
                    words[place] = draw.choice(("sempre", "siempre", "potser", "quizás"))
                text = " ".join(words)
        else:
            text = " ".join(draw.choices(draw.choice(pools), k=draw.randint(6, 20)))
            if len(history) < HISTORY:
                history.append(text)
            else:
                history[draw.randrange(HISTORY)] = text
        size -= len(text.encode()) + 1
        yield kind, text


def write_text(path: Path, size: int) -> dict[str, int]:
    """One document a line; how many of each kind."""
    counts: dict[str, int] = defaultdict(int)
    with path.open("w", encoding="utf-8") as file:
        for kind, text in documents(size):
            counts[kind] += 1
            file.write(text + "\n")
    return dict(counts)


def write_dump(path: Path, size: int) -> dict[str, int]:
    """The same as articles with what articles have: templates, notes, links, tables, headings."""
    counts: dict[str, int] = defaultdict(int)
    with bz2.open(path, "wt", encoding="utf-8") as file:
        file.write("<mediawiki>\n")
        for number, (kind, text) in enumerate(documents(size)):
            counts[kind] += 1
            words = text.split(" ")
            words[3] = f"[[{words[3]}|{words[3]}]]"
            words[9] += "&lt;ref name=&quot;n&quot;&gt;{{ref-web|títol=Nota|url=x}}&lt;/ref&gt;"
            file.write(
                f"<page><title>Article {number}</title><ns>0</ns><revision><text>"
                f"{{{{Infotaula|nom={number}|imatge=[[Fitxer:X.jpg|thumb]]}}}}\n"
                f"'''{words[0]}''' {' '.join(words[1:])}\n== Dades ==\n"
                "{| class=&quot;wikitable&quot;\n! A !! B\n|-\n| 1 || 2\n|}\n"
                f"== Referències ==\n{{{{referències}}}}\n[[Categoria:N{number % 100}]]\n"
                "</text></revision></page>\n"
            )
        file.write("</mediawiki>\n")
    return dict(counts)


def measure(source: Path, output: Path, jobs: int) -> dict[str, Any]:
    """Build in a process of its own; its record with ``wall_seconds`` and ``peak_bytes``."""
    words = [sys.executable, "-m", "speakeasy", "corpus", "build", str(source)]
    words += ["--output-dir", str(output), "--jobs", str(jobs), "--json"]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as answer:
        process = subprocess.Popen(
            words, stdout=answer, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        peak, family = 0, psutil.Process(process.pid)
        while process.poll() is None:
            try:
                members = [family, *family.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in members))
            except psutil.NoSuchProcess:
                continue  # one ended between the two lines
            time.sleep(0.2)
        seconds = time.perf_counter() - began
        if process.returncode:
            assert process.stderr is not None
            sys.exit(f"the build failed:\n{process.stderr.read().decode()[-3000:]}")
        answer.seek(0)
        return {**json.load(answer), "wall_seconds": seconds, "peak_bytes": peak}


def main() -> None:
    """Make the text, build, print one Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100, help="MB of text")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--wikipedia", action="store_true", help="as a Wikipedia dump")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / ("dump.xml.bz2" if options.wikipedia else "text.txt")
        write = write_dump if options.wikipedia else write_text
        made = write(source, options.size * 1_000_000)
        print(f"made {sum(made.values()):,} documents: {made}", file=sys.stderr, flush=True)
        found = measure(source, Path(directory) / "corpus", options.jobs)
    dropped = found["dropped"]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.jobs} processes\n\n"
        "| text | documents | seconds | MB/s | peak memory | exact duplicates found | near |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| {options.size:,} MB{', Wikipedia dump' if options.wikipedia else ''} "
        f"| {found['read']:,} | {found['wall_seconds']:.0f} "
        f"| {options.size / found['wall_seconds']:.1f} | {found['peak_bytes'] / 1e9:.2f} GB "
        f"| {dropped.get('duplicate', 0):,} of {made.get('exact', 0):,} "
        f"| {dropped.get('near_duplicate', 0):,} of {made.get('near', 0):,} |"
    )


if __name__ == "__main__":
    main()
