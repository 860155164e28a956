"""Stage ``compare``: an ordinary comparison directory."""

from __future__ import annotations

from pathlib import Path

from speakeasy.evaluation.compare import HTML_FILE, MARKDOWN_FILE, RECORD_FILE, compare
from speakeasy.workflow.plans import ComparePlan
from speakeasy.workflow.stages import digests
from speakeasy.workflow.stages.kind import Follower, Inputs, Place, Say


class Compare:
    """``compare`` as a stage."""

    result = RECORD_FILE

    def inputs(self, place: Place, say: Say) -> Inputs:
        """The evaluations, each by its name in the plan."""
        plan = place.plan
        assert isinstance(plan, ComparePlan)
        found = {Path(path).name: digests.of_evaluation(Path(path)) for path in plan.evaluations}
        if plan.base is not None:
            found["base"] = digests.of_evaluation(Path(plan.base))
        return found

    def carry_out(self, place: Place, follower: Follower) -> None:
        """Lay them side by side, and write the report."""
        plan = place.plan
        assert isinstance(plan, ComparePlan)
        for name in (MARKDOWN_FILE, HTML_FILE):  # of a comparison that was killed
            (place.directory / name).unlink(missing_ok=True)
        compare(
            [Path(path) for path in plan.evaluations],
            place.directory,
            base=None if plan.base is None else Path(plan.base),
            report_to=plan.report_to,
            say=follower.say,
            bar=follower.counting,
        )
