"""What the stages of a recipe will take, before any of them is begun: time, memory, disk.

Training is ``training.estimate``'s. An evaluation is counted by the same operations: scoring at
the rate of training's forward pass, answers at a smaller share of the machine's rate, because
every token that is answered reads all the weights. Nothing is loaded and nothing is fetched; of a
model that the packaged recipes name, the figures are known before (``known_models``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.errors import DataError
from speakeasy.evaluation.plan import EvaluationPlan
from speakeasy.training.backend import Backend, Device, open_backend, select
from speakeasy.training.estimate import EFFICIENCY, estimate_job, forward_flops, with_rows
from speakeasy.training.memory import BYTES, LOGITS_CHUNK, NF4_BYTES, OVERHEAD
from speakeasy.weights.checkpoint import ModelShape
from speakeasy.workflow.amounts import EvaluationAmount, evaluation_amount, reading
from speakeasy.workflow.known_models import Model, find_model, new_entries, run_model
from speakeasy.workflow.places import PREFIX
from speakeasy.workflow.plans import ComparePlan, ExpandPlan, Plan, StudyPlan
from speakeasy.workflow.recipe import Stage

DECODING = {"cpu": 0.4, "metal": 0.05, "cuda": 0.02}
"""Share of a plain matrix product's rate that answering reaches, thirty-two answers at a time."""
_GATE_SECONDS = 45.0
"""Of examining a tokenizer on 50,000 words and loading it with both libraries."""
_COMPARE_SECONDS = 20.0
_LOADING_SECONDS = 5.0
_WRITING = 200e6
"""Bytes a second of reading weights and writing them again."""
_REPORT_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage takes.

    Attributes:
        seconds, memory_bytes, disk_bytes: None where it cannot be known yet.
        how: where the figures come from, or why there are none.
    """

    seconds: float | None
    memory_bytes: int | None
    disk_bytes: int | None
    how: str


@dataclass(frozen=True, slots=True)
class Machine:
    """The backend that would run here, and how fast it is."""

    name: str
    backend: Backend
    device: Device
    rates: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: TrainConfig | PretrainConfig | EvaluationPlan) -> Machine:
        """The one that a plan asks for.

        Raises:
            BackendError: it is not installed.
        """
        name = select(plan.backend).name
        backend = open_backend(name)
        return cls(name, backend, backend.describe_device())

    def rate(self, precision: Any) -> float:
        """Operations a second of a matrix product, measured once a precision."""
        precision = self.device.precision if precision == "auto" else precision
        if precision not in self.rates:
            self.rates[precision] = self.backend.matmul_rate(precision)
        return self.rates[precision]


@dataclass(slots=True)
class Estimator:
    """Estimates stages in their order: each may read what those before it will make.

    Attributes:
        models: by stage, what it makes or what its adapter is for.
        plans: of the stages seen.
        amounts: by evaluate stage, how much it reads.
    """

    models: dict[str, Model] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    amounts: dict[str, EvaluationAmount] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)

    def cost(self, stage: Stage) -> Cost:
        """What a stage takes if it is done from its start.

        Raises:
            SpeakeasyError: a model that is here is unsound, or no backend is installed.
        """
        plan = stage.plan
        self.plans[stage.name] = plan
        if isinstance(plan, ComparePlan | StudyPlan):
            seconds = _COMPARE_SECONDS if isinstance(plan, ComparePlan) else 1.0
            return Cost(seconds, OVERHEAD["torch"], _REPORT_BYTES, "reads figures and texts only")
        model = self._model(plan)
        if model is None:
            return Cost(None, None, None, "the model is not on this machine yet")
        try:
            if isinstance(plan, ExpandPlan):
                return self._expand(stage.name, plan, model)
            if isinstance(plan, EvaluationPlan):
                return self._evaluate(stage.name, plan, model)
            return self._train(stage.name, plan, model)
        except DataError as error:
            return Cost(None, None, None, f"not known: {error}")

    def _model(self, plan: Any) -> Model | None:
        """The model that a plan reads."""
        name = plan.model
        if isinstance(plan, EvaluationPlan) and name is None:
            if plan.run and plan.run.startswith(PREFIX):
                return self.models.get(plan.run.removeprefix(PREFIX))
            name = run_model(plan)
        if name.startswith(PREFIX):
            return self.models.get(name.removeprefix(PREFIX))
        return find_model(name)

    def _machine(self, plan: TrainConfig | PretrainConfig | EvaluationPlan) -> Machine:
        if plan.backend not in self.machines:
            self.machines[plan.backend] = Machine.of(plan)
        return self.machines[plan.backend]

    def _expand(self, name: str, plan: ExpandPlan, model: Model) -> Cost:
        added, how = new_entries(plan, model)
        grown = with_rows(model.shape, added)
        self.models[name] = replace(model, shape=grown, added=model.added + added)
        seconds = _GATE_SECONDS + grown.bytes_on_disk / _WRITING
        return Cost(seconds, OVERHEAD["torch"] + LOGITS_CHUNK, grown.bytes_on_disk, how)

    def _train(self, name: str, plan: TrainConfig | PretrainConfig, model: Model) -> Cost:
        self.models[name] = model
        machine = self._machine(plan)
        new_rows = isinstance(plan, PretrainConfig) or plan.train_rows == "new"
        found = estimate_job(
            plan,
            model.shape,
            machine.device,
            backend=machine.name,
            reading=reading(plan),
            rate=machine.rate(plan.precision),
            added_rows=model.added if new_rows else 0,
        )
        memory = found.memory.total
        short = "" if found.fits else f"does not fit into {machine.device.memory / 1e9:.1f} GB; "
        return Cost(found.seconds + _LOADING_SECONDS, memory, found.disk_bytes, short + found.how)

    def _evaluate(self, name: str, plan: EvaluationPlan, model: Model) -> Cost:
        machine = self._machine(plan)
        like = (plan.like or "").removeprefix(PREFIX)
        run = self.plans.get((plan.run or "").removeprefix(PREFIX))
        amount = self.amounts.get(like) or evaluation_amount(plan, run)
        self.amounts[name] = amount
        kind = machine.device.kind
        precision = machine.device.precision if plan.precision == "auto" else plan.precision
        rate = machine.rate(precision)
        each = forward_flops(TrainConfig(), model.shape, amount.scored)
        scoring = amount.scored.eval_tokens * each / (rate * EFFICIENCY[kind])
        answering = amount.answered * each / (rate * DECODING[kind])
        how = (
            f"{amount.scored.eval_tokens:,} tokens scored, {amount.answered:,} answered at most, "
            f"at {EFFICIENCY[kind]:.0%} and {DECODING[kind]:.0%} of {rate / 1e9:,.0f} GFLOP/s"
        )
        memory = _speaking(model.shape, plan, precision, machine.name)
        return Cost(scoring + answering + 2 * _LOADING_SECONDS, memory, amount.disk_bytes, how)


def _speaking(shape: ModelShape, plan: EvaluationPlan, precision: str, backend: str) -> int:
    """Weights, the keys and values of a batch of answers, and one chunk of logits."""
    width = BYTES[precision]
    weights = shape.parameter_count * (NF4_BYTES if plan.use_4bit else width)
    context = 2 * plan.sampling.max_tokens  # a prompt is about as long as its answer at most
    cache = 2 * width * shape.layers * shape.kv_heads * shape.head_dim * context * plan.batch_size
    return int(weights + cache + LOGITS_CHUNK + OVERHEAD[backend])


def total(costs: list[Cost]) -> Cost:
    """Stages together: time and disk add up, memory is the largest; None where none is known."""

    def known(values: list[Any]) -> list[Any]:
        return [value for value in values if value is not None]

    seconds = known([cost.seconds for cost in costs])
    memory = known([cost.memory_bytes for cost in costs])
    disk = known([cost.disk_bytes for cost in costs])
    unknown = sum(cost.seconds is None for cost in costs)
    return Cost(
        sum(seconds) if seconds else None,
        max(memory) if memory else None,
        sum(disk) if disk else None,
        f"without {unknown} of {len(costs)} stages, which are not known" if unknown else "",
    )
