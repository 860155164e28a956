"""Stage ``study``: a blind study, as ``speakeasy rate new`` makes it."""

from __future__ import annotations

from pathlib import Path

from speakeasy.evaluation.result import Evaluation
from speakeasy.rating.new import make_study
from speakeasy.rating.study import STUDY_FILE
from speakeasy.rating.wish import NONE, PACKAGED
from speakeasy.workflow.plans import StudyPlan
from speakeasy.workflow.stages import digests
from speakeasy.workflow.stages.kind import Follower, Inputs, Place, Say


class Study:
    """``rate new`` as a stage."""

    result = STUDY_FILE

    def inputs(self, place: Place, say: Say) -> Inputs:
        """The evaluations, each by its name in the plan, and files that the plan names."""
        plan = place.plan
        assert isinstance(plan, StudyPlan)
        found = {Path(path).name: digests.of_evaluation(Path(path)) for path in plan.evaluations}
        for name, file in (("gold", plan.gold), ("dialogues", plan.dialogues)):
            if file not in (PACKAGED, NONE):
                found[name] = digests.of_files([Path(file)])
        return found

    def carry_out(self, place: Place, follower: Follower) -> None:
        """Pair the answers, and draw who sees what."""
        plan = place.plan
        assert isinstance(plan, StudyPlan)
        evaluations = [Evaluation.read(Path(path)) for path in plan.evaluations]
        made = make_study(evaluations, plan, place.directory)
        for note in made.notes:
            follower.say(note)
        follower.say(f"{made.plan.items:,} pairs of answers, whose they are in a file apart")
