"""What a larger vocabulary costs and gains, by how many entries are added.

    python -m benchmarks.vocabulary --work-dir runs/vocabulary

First the guide's words: bits a byte of held-out text and of neutral Spanish before any training,
with either way to begin the rows, and after pre-training on the packaged texts. Then, for each
number of mined entries: expand the model, score conversations that nothing has seen; pre-train,
score; train LoRA for an epoch on conversations, score. Everything is the starter model's, on the
CPU. Stages lie in the work directory and are done once, so a run that was stopped goes on. It takes
about an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakeasy.batches.render import render_all
from speakeasy.config import CorpusConfig
from speakeasy.data.dataset import load_conversations, starter_conversations
from speakeasy.data.split import hold_out
from speakeasy.training.backend import EngineOptions, open_backend
from speakeasy.training.evaluate import held_out_loss
from speakeasy.training.raw_text import prepare_text
from speakeasy.weights.fingerprint import tokenizer_fingerprint
from speakeasy.weights.hub import load_tokenizer, resolve_model

ROW = 512
UNSEEN = 0.1
"""Share of the packaged conversations that no stage sees."""
SCORED = ("at_once", "pretrained")


@dataclass(frozen=True)
class Bench:
    """Where the stages lie, and how much is trained."""

    work: Path
    conversations: int
    pretrain_steps: int
    precision: str
    fit_rows: int

    def prepare(self) -> None:
        """Write the three parts of the conversations."""
        self.work.mkdir(parents=True, exist_ok=True)
        seen, unseen = hold_out(starter_conversations(), fraction=UNSEEN, seed=0)
        for name, part in (
            ("seen", seen),
            ("train", seen[:: max(1, len(seen) // self.conversations)][: self.conversations]),
            ("unseen", unseen[:30]),
        ):
            lines = [json.dumps({"messages": c.to_messages()}) + "\n" for c in part]
            (self.work / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    def run(self, *words: object) -> dict[str, Any]:
        """One command, by its JSON; what it says to people goes on to stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "speakeasy", *map(str, words), "--json"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def stage(self, name: str, *words: object) -> Path:
        """A stage that writes a directory, done once."""
        place = self.work / name
        if not (place / "summary.json").exists() and not (place / "expansion.json").exists():
            shutil.rmtree(place, ignore_errors=True)
            self.run(*words, "--output-dir", place)
        return place

    def score(self, model: Path | str) -> dict[str, float]:
        """Target tokens and bits a byte of the unseen conversations under a model."""
        path = resolve_model(str(model)).path
        kept = self.work / f"{path.name}.score.json"
        if kept.exists():
            return json.loads(kept.read_text())
        items = render_all(
            load_tokenizer(path), load_conversations([self.work / "unseen.jsonl"]), 1024
        ).items
        engine = open_backend("torch").load(EngineOptions(model=path, precision="float32"))
        loss = held_out_loss(engine, items, 1024)
        found = {"tokens": loss.target_tokens, "bits_per_byte": loss.bits_per_byte}
        kept.write_text(json.dumps(found))
        return found

    def score_text(self, model: Path | str) -> dict[str, float]:
        """Bits a byte of the packaged texts' held-out part, and of neutral Spanish."""
        path = resolve_model(str(model)).path
        kept = self.work / f"{path.name}.text.json"
        if kept.exists():
            return json.loads(kept.read_text())
        prepared = prepare_text(
            CorpusConfig(max_length=ROW),
            load_tokenizer(path),
            tokenizer_fingerprint(path),
            seed=0,
            context=ROW,
        )
        engine = open_backend("torch").load(EngineOptions(model=path, precision="float32"))
        sides = {"held_out": prepared.held_out.items, "neutral": prepared.neutral}
        found = {
            name: held_out_loss(engine, items, ROW).bits_per_byte for name, items in sides.items()
        }
        kept.write_text(json.dumps(found))
        return found

    def guide(self) -> dict[str, dict[str, float]]:
        """The guide's words: before any training, and after pre-training."""
        models: dict[str, Path | str] = {"the base": "starter"}
        for init in ("subword", "mean"):
            models[f"guide's words, {init}"] = self.stage(
                f"guide-{init}", "vocab", "expand", "--model", "starter", "--init", init
            )
        models["pre-trained"] = self.pretrained(
            Path(models["guide's words, subword"]), "guide-pretrained"
        )
        return {name: self.score_text(model) for name, model in models.items()}

    def expanded(self, entries: int, min_tokens: int = 2) -> Path:
        """The starter model with so many mined entries of so many tokens and more."""
        kind = f"{entries}-of-{min_tokens}"
        words = self.work / f"words-{kind}.txt"
        if not words.exists():
            self.run(
                "vocab", "suggest", self.work / "seen.jsonl", *packaged_texts(),
                "--entries", entries, "--min-tokens", min_tokens, "--output", words,
            )  # fmt: skip
        return self.stage(
            f"expanded-{kind}", "vocab", "expand", "--model", "starter", "--words", words,
        )  # fmt: skip

    def pretrained(self, model: Path, name: str, *more: object) -> Path:
        """A model pre-trained on the packaged texts."""
        return self.stage(
            name,
            "pretrain", "--model", model, "--max-length", ROW, "--batch-size", 4,
            "--precision", self.precision, "--max-steps", self.pretrain_steps,
            "--fit-rows", self.fit_rows, *more,
        )  # fmt: skip

    def trained(self, model: Path | str, name: str, *more: object) -> dict[str, Any]:
        """The summary of an epoch of LoRA on conversations."""
        place = self.stage(
            name,
            "train", "--model", model, "--train-file", self.work / "train.jsonl",
            "--eval-file", self.work / "unseen.jsonl", "--num-epochs", 1, "--max-length", 1024,
            "--batch-size", 1, "--learning-rate", 5e-4, "--precision", self.precision, *more,
        )  # fmt: skip
        return json.loads((place / "summary.json").read_text())


def packaged_texts() -> list[Path]:
    """The packaged texts that are mined beside the conversations."""
    from speakeasy.corpus.starter import starter_text_files

    return starter_text_files()


def row(bench: Bench, entries: int, min_tokens: int = 2) -> dict[str, Any]:
    """One line of the table."""
    if not entries:
        at_once = bench.score("starter")
        trained = bench.trained("starter", "lora-0")
        return {"entries": "0", "at_once": at_once, "pretrained": None, "trained": trained}
    model = bench.expanded(entries, min_tokens)
    label = f"{entries:,}" + (f" of {min_tokens} tokens and more" if min_tokens > 2 else "")
    pretrained = bench.pretrained(model, model.name.replace("expanded", "pretrained"))
    return _after(bench, label, model, pretrained)


def guide_row(bench: Bench) -> dict[str, Any]:
    """The line of the guide's words: the same training with next to nothing added."""
    model = bench.work / "guide-subword"
    return _after(bench, "the guide's 71", model, bench.work / "guide-pretrained")


def _after(bench: Bench, entries: str, model: Path, pretrained: Path) -> dict[str, Any]:
    return {
        "entries": entries,
        "at_once": bench.score(model),
        "pretrained": bench.score(pretrained),
        "neutral": json.loads((pretrained / "summary.json").read_text()),
        "trained": bench.trained(pretrained, f"lora-{model.name}", "--train-rows", "new"),
    }


WAYS = {
    "as it is": (),
    "rows alone": ("--train", "rows"),
    "no replay": ("--replay", 0),
    "rows at 16 times the rate": ("--rows-rate", 16),
    "rows as expand made them": ("--fit-rows", 0),
}
"""What else pre-training can be given: a name, and the options."""


def ways(bench: Bench, entries: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Unseen conversations and neutral Spanish after each of ``WAYS``, before any adapter."""
    model = bench.expanded(entries)
    for name, options in WAYS.items():
        way = "".join(map(str, options)).replace("--", "-")
        name_of = model.name.replace("expanded", "pretrained")
        place = bench.pretrained(model, f"{name_of}{way}", *options)
        neutral = json.loads((place / "summary.json").read_text())["neutral_bits_per_byte"]
        yield name, bench.score(place) | {"neutral": neutral}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    base = next(r for r in rows if r["pretrained"] is None)["at_once"]["tokens"]
    lines = [
        "| entries | tokens saved | at once | pre-trained | then LoRA | training seconds |",
        "|---|---|---|---|---|---|",
    ]
    for r in sorted(rows, key=lambda r: -r["at_once"]["tokens"]):
        saved = 1 - r["at_once"]["tokens"] / base
        bits = [f"{r[at]['bits_per_byte']:.3f}" if r[at] else "-" for at in SCORED]
        trained = f"{r['trained']['eval_bits_per_byte']:.3f} | {r['trained']['seconds']:.0f}"
        lines.append(f"| {r['entries']} | {saved:.1%} | {' | '.join(bits)} | {trained} |")
    return "\n".join(lines)


def main() -> None:
    """Do every stage that is not done yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, default=Path("runs/vocabulary"))
    parser.add_argument("--entries", type=int, nargs="+", default=[0, 300, 2000, 100, 1000])
    parser.add_argument("--conversations", type=int, default=80)
    parser.add_argument("--pretrain-steps", type=int, default=0, help="0 for one epoch")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--fit-rows", type=int, default=40_000, help="0 to leave rows as they are")
    parser.add_argument("--ways", type=int, default=0, help="entries to try other ways with")
    parser.add_argument(
        "--kinds", nargs="+", default=[], metavar="ENTRIES:TOKENS",
        help="so many entries of so many tokens and more",
    )  # fmt: skip
    parser.add_argument("--guide", action="store_true", help="the guide's words in the table too")
    options = parser.parse_args()
    bench = Bench(
        options.work_dir,
        options.conversations,
        options.pretrain_steps,
        options.precision,
        options.fit_rows,
    )
    bench.prepare()
    print("| | held-out text | neutral Spanish |\n|---|---|---|")
    for name, found in bench.guide().items():
        print(f"| {name} | {found['held_out']:.3f} | {found['neutral']:.3f} |", flush=True)
    rows = []
    for entries in options.entries:
        rows.append(row(bench, entries))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    for kind in options.kinds:
        rows.append(row(bench, *map(int, kind.split(":"))))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    if options.guide:
        rows.append(guide_row(bench))
    print(f"\n{table(rows)}")
    if options.ways:
        print("\n| other ways to pre-train | bits a byte | neutral Spanish |\n|---|---|---|")
        for name, found in ways(bench, options.ways):
            print(f"| {name} | {found['bits_per_byte']:.3f} | {found['neutral']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
