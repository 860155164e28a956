"""Where the time of a training step goes, by kind of work.

    python -m benchmarks.profile --backend torch
    python -m benchmarks.profile --backend mlx      (needs Linux's perf)

torch has a profiler of its own, whose operations are sorted into kinds here. For MLX, which has
none on a CPU, ``perf`` samples the process a hundred times a second, and the samples of the threads
that compute are sorted by function.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.step import Bench
from speakeasy.weights.hub import resolve_model

STEPS = 3
TORCH_KINDS = {
    "matrix products": r"aten::(mm|addmm_?|bmm)$|mkldnn::_linear_pointwise$",
    "attention": r"scaled_dot_product",
    "optimizer and clipping": r"adamw|foreach|linalg_vector_norm",
    "activation, norm, rotation, loss, sums": (
        r"aten::(mul_?|add_?|sub_?|div_?|silu|silu_backward|exp_?|pow|sum|mean|rsqrt_?|neg|"
        r"addcmul_?|amax|log|gather|scatter_add_?|linalg_vecdot|square_?|sqrt)$"
    ),
    "copies and fills": r"aten::(copy_|cat|fill_|zero_|clone|index\w*|_to_copy|contiguous)$",
}
MLX_KINDS = {
    "matrix products": r"gemm|gemv|openblas",
    "element by element": r"binary_op|unary_op|ternary_op|simd::|fmaf|softmax|expf|sin|cos",
    "copies": r"copy|memmove|memcpy|memset|gather|scatter|Slice|Concatenate",
    "sums and largest": r"reduc",
    "fresh memory from the system": r"clear_page|fault|mmap|alloc_|folio|zap_|unmap",
}


def of_torch() -> Counter[str]:
    """Seconds of each kind, over ``STEPS`` steps; what no kind claims is ``other``."""
    from torch.profiler import ProfilerActivity, profile

    bench = Bench.open(resolve_model("starter").path, "torch")
    bench.step()
    bench.step()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(STEPS):
            bench.step()
    found: Counter[str] = Counter()
    for event in recorded.key_averages():
        found[_kind(event.key, TORCH_KINDS)] += event.self_cpu_time_total / 1e6
    return found


def of_mlx() -> Counter[str]:
    """Samples of each kind, of the threads that carry out MLX's operations."""
    with tempfile.TemporaryDirectory() as place:
        data = str(Path(place) / "perf.data")
        step = [sys.executable, "-m", "benchmarks.step", "--backend", "mlx", "--steps", str(STEPS)]
        record = ["perf", "record", "-o", data, "-F", "99", "-g", "--", *step]
        try:
            subprocess.run(record, check=True, capture_output=True)
        except FileNotFoundError:
            sys.exit(
                "perf is not installed; expected Linux's perf (Debian: apt install linux-perf)"
            )
        script = subprocess.run(
            ["perf", "script", "-i", data, "-F", "tid,ip,sym,dso"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    threads: dict[str, Counter[str]] = {}
    own: Counter[str] = Counter()
    for sample in script.split("\n\n"):
        lines = sample.strip().splitlines()
        if len(lines) > 1:
            thread = lines[0].strip()
            own[thread] += "mlx::core::scheduler" in sample
            threads.setdefault(thread, Counter())[_kind(lines[1], MLX_KINDS)] += 1
    most = max(own.values())
    return sum((threads[one] for one in own if own[one] > most / 10), Counter())


def _kind(name: str, kinds: dict[str, str]) -> str:
    return next((kind for kind, pattern in kinds.items() if re.search(pattern, name)), "other")


def table(found: Counter[str]) -> str:
    """Shares, as Markdown, the largest first."""
    whole = sum(found.values())
    lines = ["| kind of work | share of a step |", "|---|---|"]
    lines += [f"| {kind} | {part / whole:.0%} |" for kind, part in found.most_common()]
    return "\n".join(lines)


def main() -> None:
    """Record, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backend", required=True, choices=["torch", "mlx"])
    print(table(of_torch() if parser.parse_args().backend == "torch" else of_mlx()))


if __name__ == "__main__":
    main()
