"""An engine with a training state in it: a run's newest, or that of its beginning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from speakeasy.config import PretrainConfig
from speakeasy.training import resume
from speakeasy.training import state as states
from speakeasy.training.backend import Engine, EngineOptions
from speakeasy.training.fit_rows import Fitted, fit_rows
from speakeasy.training.group import shared, shared_tensors
from speakeasy.training.run import Run
from speakeasy.training.session import environment
from speakeasy.training.state import Progress, Tensors, TrainingState
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.weights.adapters import draw_lora
from speakeasy.weights.trained_rows import TrainedRows

if TYPE_CHECKING:
    from speakeasy.training.session import Session


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine with a training state in it, ready for the next step.

    Attributes:
        to_rescore: steps whose evaluation is of a base held otherwise, see ``Fit.rescore``.
        fitted: the new rows, if they were fitted now.
    """

    engine: Engine
    progress: Progress
    to_rescore: Mapping[int, Tensors] = field(default_factory=dict)
    fitted: Fitted | None = None


def open_engine(
    session: Session,
    run: Run | None,
    *,
    say: Callable[[str], None] = lambda line: None,
    bar: Bar = no_bar,
) -> Opened:
    """Load the model, and the newest state of ``run`` if there is one.

    Called before a new run's directory is made, so that a model that cannot be loaded leaves
    nothing behind. Of several processes only the first reads ``run``; it tells the others.

    Args:
        run: None for a new one, and where process 0 has it.
        say: called with a line about each thing that is not as the run had it until now.

    Raises:
        RunError: the run was started with another base or other data, or its state is broken.
    """
    state, group = None, session.group
    if run is not None:
        now = environment(session)
        resume.check_same(run, now)
        state = states.latest(run.states)
        step = state.progress.step if state else 0
        if state is None and (logged := len(run.steps())):
            say(
                f"warning: {run.states}: no state of the {logged} logged steps is left; training "
                "begins again before step 1"
            )
        for line in resume.changes(run, now, session.device, step):
            say(line)
    config = session.config
    adapter = draw_lora(session.layers, config.lora.r, config.seed) if session.layers else None
    engine = session.backend.load(
        EngineOptions(
            model=session.model.path,
            precision=config.precision,
            use_4bit=config.use_4bit,
            gradient_checkpointing=session.placement.gradient_checkpointing,
            compile=config.compile,
            lora=config.lora if session.layers else None,
            adapter=adapter,
            rows=session.rows,
            full=isinstance(config, PretrainConfig) and config.train == "full",
            fsdp=config.fsdp,
            optimizer=config.optimizer,
            seed=config.seed,
            group=group,
        )
    )
    progress = Progress()
    otherwise: list[int] = []
    if run is not None:
        progress = resume.with_best_score(run, state.progress) if state else progress
        otherwise = resume.scored_otherwise(run, progress, session.base_form)
    facts, otherwise, resumed = shared(group, (asdict(progress), otherwise, state is not None))
    progress = Progress(**facts)
    fitted = None
    if not resumed or 0 in otherwise:
        fitted = _fit_rows(session, engine, say, bar)
    to_rescore = {
        step: shared_tensors(
            group, states.at_step(run.states, step).trainables if run else engine.trainables()
        )
        if step
        else engine.trainables()
        for step in otherwise
    }
    if resumed:
        held = state or TrainingState(progress, {})
        trainables = shared_tensors(group, held.trainables)
        first, second = (shared_tensors(group, part) for part in (held.first, held.second))
        engine.restore(trainables, first, second, progress.step)
    # With a state, rows were fitted for the sake of scoring: what training began from is on record.
    return Opened(engine, progress, to_rescore, None if resumed else fitted)


def _fit_rows(
    session: Session, engine: Engine, say: Callable[[str], None], bar: Bar
) -> Fitted | None:
    """Fit new rows to the base's predictions, and put them in, where the plan has it so.

    Process 0 fits them, and gives them to the others. Of a model that is divided no process can
    compute alone: then all do the same, and what process 0 finds counts.
    """
    config, rows, group = session.config, session.rows, session.group
    if not isinstance(config, PretrainConfig) or not config.fit_rows or rows is None:
        return None
    fitted = None
    if group.rank == 0 or config.fsdp:
        fitted = _fitted(session, config, rows, engine, say, bar)
    values = shared_tensors(group, fitted.rows.tensors() if fitted else {})
    if values:
        engine.set_trainables({**engine.trainables(), **values})
    return fitted


def _fitted(
    session: Session,
    config: PretrainConfig,
    rows: TrainedRows,
    engine: Engine,
    say: Callable[[str], None],
    bar: Bar,
) -> Fitted | None:
    return fit_rows(
        engine,
        session.model.path,
        rows,
        session.prepared.train.items,
        positions=config.fit_rows,
        row_length=config.row_length,
        context=session.shape.max_positions,
        seed=config.seed,
        say=say,
        bar=bar,
    )
