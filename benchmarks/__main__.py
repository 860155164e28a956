"""``make bench``: peers, utilisation and profiles in one go, written into docs/benchmarks.md.

    python -m benchmarks

Takes about 35 minutes on two cores, which nothing else should use meanwhile; every further
round with the starter model, for a spread, 12 more.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import peers, profile

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- make bench -->", "<!-- end -->"


def utilisation() -> str:
    """A step of each backend in a process of its own, as Markdown."""
    lines = [
        "| | a step's arithmetic | large square product | utilisation (least to most) |",
        "|---|---|---|---|",
    ]
    for backend in ("torch", "mlx"):
        words = [sys.executable, "-m", "benchmarks.step", "--backend", backend]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        lines.append(
            f"| {backend} | {found['step_flops_per_second'] / 1e9:.0f} GFLOP/s "
            f"| {found['product_flops_per_second'] / 1e9:.0f} GFLOP/s "
            f"| {found['utilisation']:.0%} ({found['least']:.0%} to {found['most']:.0%}) |"
        )
    return "\n".join(lines)


def profiles() -> str:
    """Of each backend; MLX's where perf is installed."""
    parts = [f"torch:\n\n{profile.table(profile.of_torch())}"]
    if shutil.which("perf"):
        parts.append(f"MLX:\n\n{profile.table(profile.of_mlx())}")
    return "\n\n".join(parts)


def main() -> None:
    """Measure everything, write the page, print what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    rounds = peers.parse_rounds(parser)
    started = time.monotonic()
    compared = peers.report(rounds)
    found = "\n\n".join([peers.machine(), compared, utilisation(), profiles()])
    found += f"\n\n{(time.monotonic() - started) / 60:.0f} minutes in all."
    page = PAGE.read_text(encoding="utf-8")
    block = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    page = block.sub(lambda _: f"{BEGIN}\n\n{found}\n\n{END}", page)
    PAGE.write_text(page, encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
