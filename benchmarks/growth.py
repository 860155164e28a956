"""How time and memory of a step grow: with length, rows, vocabulary and rank.

    python -m benchmarks.growth --output docs/growth.png

Random Llamas of four narrow blocks, one step each in a process of its own; one figure changes at a
time, the others stay. A step that is linear in what changes is a straight line; batch and
vocabulary are raised together as well, where a term of batch x vocabulary would show. Times are
the fastest of three steps, memory is the process's high-water mark.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.memory import make_model

BACKENDS = ("torch", "mlx")
FIGURES = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Point:
    """A step's figures."""

    length: int = 1024
    rows: int = 1
    vocabulary: int = 49_152
    rank: int = 16


BASE = Point()
SWEEPS: dict[str, list[Point]] = {
    "tokens of a row": [replace(BASE, length=n) for n in (256, 512, 1024, 2048, 4096)],
    "rows of a step": [replace(BASE, rows=n) for n in (1, 2, 4)],
    "vocabulary": [replace(BASE, vocabulary=n) for n in (49_152, 98_304, 196_608)],
    "rank": [replace(BASE, rank=n) for n in (8, 64, 256)],
    "rows, with a vocabulary of 196,608": [
        replace(BASE, rows=n, vocabulary=196_608) for n in (1, 2, 4)
    ],
}
FIELDS = ("length", "rows", "vocabulary", "rank", "rows")
"""What each sweep changes."""


def model_of(point: Point, place: Path) -> Path:
    """A random model, made when it is first needed."""
    path = place / f"vocabulary-{point.vocabulary}"
    if not path.is_dir():
        make_model(FIGURES | {"vocab_size": point.vocabulary}, path)
    return path


def step(model: Path, backend: str, point: Point) -> dict[str, Any]:
    """Seconds and peak memory of a step, in this process."""
    from benchmarks.step import Bench
    from speakeasy.training.memory import peak_process_bytes

    bench = Bench.open(model, backend, row_length=point.length, rows=point.rows, lora_r=point.rank)
    bench.step()  # warm
    seconds = min(bench.step()[0] for _ in range(3))
    return {"seconds": seconds, "peak_memory_bytes": peak_process_bytes()}


def measure(model: Path, backend: str, point: Point) -> dict[str, Any]:
    """The same in a process of its own."""
    words = ["--step", json.dumps([str(model), backend, asdict(point)])]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def draw(results: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> None:
    """A plot a sweep: time above, memory below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(SWEEPS), figsize=(3.2 * len(SWEEPS), 5.4), sharey="row")
    styles = {"torch": "o-", "mlx": "s--"}
    for column, (title, points) in enumerate(SWEEPS.items()):
        values = [getattr(point, FIELDS[column]) for point in points]
        for backend, style in styles.items():
            found = results[title][backend]
            seconds = [one["seconds"] for one in found]
            memory = [one["peak_memory_bytes"] / 1e9 for one in found]
            axes[0][column].plot(values, seconds, style, label=backend)
            axes[1][column].plot(values, memory, style, label=backend)
        axes[1][column].set_xlabel(title)
        for row in (0, 1):
            axes[row][column].set_xlim(left=0)
            axes[row][column].grid(alpha=0.3)
    for row in axes:  # last: it ends the growing of the scale that a row shares
        row[0].set_ylim(bottom=0)
    axes[0][0].set_ylabel("seconds a step")
    axes[1][0].set_ylabel("peak memory, GB")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Markdown, a line a point."""
    lines = ["| | | torch | | MLX | |", "|---|---|---|---|---|---|"]
    for (title, points), field in zip(SWEEPS.items(), FIELDS, strict=True):
        for number, point in enumerate(points):
            cells = []
            for backend in BACKENDS:
                found = results[title][backend][number]
                cells += [f"{found['seconds']:.2f} s", f"{found['peak_memory_bytes'] / 1e9:.2f} GB"]
            lines.append(f"| {title} | {getattr(point, field):,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, draw, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="picture, .png")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        model, backend, point = json.loads(options.step)
        print(json.dumps(step(Path(model), backend, Point(**point))))
        return
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    known: dict[tuple[str, Point], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        for title, points in SWEEPS.items():
            results[title] = {backend: [] for backend in BACKENDS}
            for point in points:
                model = model_of(point, Path(place))
                for backend in BACKENDS:
                    if (backend, point) not in known:
                        known[backend, point] = measure(model, backend, point)
                        print(backend, point, known[backend, point], file=sys.stderr, flush=True)
                    results[title][backend].append(known[backend, point])
    if options.output:
        draw(results, options.output)
    print(table(results))


if __name__ == "__main__":
    main()
