"""What each kind of stage reads and does: one file a kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from speakeasy.training.run import Record, read_json
from speakeasy.workflow.recipe import Stage
from speakeasy.workflow.stages.compare import Compare
from speakeasy.workflow.stages.evaluate import Evaluate
from speakeasy.workflow.stages.expand import Expand
from speakeasy.workflow.stages.kind import Kind
from speakeasy.workflow.stages.study import Study
from speakeasy.workflow.stages.training import Training

KINDS: Mapping[str, Kind] = {
    "expand": Expand(),
    "pretrain": Training(),
    "train": Training(),
    "evaluate": Evaluate(),
    "compare": Compare(),
    "study": Study(),
}
"""By the names of ``plans.PLANS``."""


def result(stage: Stage, directory: Path) -> Record:
    """What a finished stage came to."""
    return read_json(directory / KINDS[stage.kind].result)
