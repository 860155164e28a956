"""Recipes as TOML: what is refused, what paths and stages are meant, and the packaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.errors import RunError, UsageError
from speakeasy.evaluation.plan import EvaluationPlan
from speakeasy.weights.checkpoint import model_shape
from speakeasy.workflow.costs import Cost, Estimator, total
from speakeasy.workflow.execute import standings
from speakeasy.workflow.known_models import KNOWN
from speakeasy.workflow.places import in_root
from speakeasy.workflow.plans import ExpandPlan
from speakeasy.workflow.recipe import Stage, load_recipe, packaged_recipes, parse_recipe

STAGE = '[[stage]]\nname = "a"\nkind = "train"\n'
EVALUATE = '[[stage]]\nname = "e"\nkind = "evaluate"\n'


def parse(text: str, base: Path = Path()) -> tuple[Stage, ...]:
    return parse_recipe(text, "name", "file.toml", base).stages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[stage", "not a TOML file"),
        ("", "no [[stage]] table"),
        ("stage = 3", "no [[stage]] table"),
        ("stage = [3]", "stage 1: expected a [[stage]] table"),
        ("stages = []", "unknown key 'stages'"),
        (f"description = 3\n{STAGE}", "description = 3: expected text"),
        (f"variety = 3\n{STAGE}", "variety = 3: expected a table"),
        (f"variety = {{ words = 'x' }}\n{STAGE}", "[variety]: unknown key 'words'"),
        (f"variety = {{ lexicon = 3 }}\n{STAGE}", "[variety]: lexicon = 3: expected a file"),
        ('[[stage]]\nkind = "train"', "stage 1: name = None: expected lower-case"),
        ('[[stage]]\nname = "../up"\nkind = "train"', "name = '../up': expected lower-case"),
        ('[[stage]]\nname = "a"\nkind = ["train"]', "stage 1 (a): kind = ['train']: expected one"),
        ('[[stage]]\nname = "a"\nkind = "answers"', "kind = 'answers': expected one of ['compare'"),
        (STAGE + STAGE, "stage 2: name 'a' is taken already"),
        (STAGE + "plan = 1", "stage 1 (a): plan = 1: expected a table"),
        (STAGE + "extra = 1", "stage 1: unknown key 'extra'"),
        (STAGE + "[stage.plan]\nepochs = 1", "stage 1 (a): unknown key 'epochs'"),
        (STAGE + '[stage.plan.lora]\nr = "8"', "[lora]: r = '8': expected int"),
        (
            STAGE + 'plan = { model = "stage:b" }',
            "stage 'a': model = 'stage:b': expected an expand or pretrain stage before it (there "
            "is none)",
        ),
        (STAGE + 'plan = { model = "stage:a" }', "expected an expand or pretrain stage before it"),
        (
            STAGE + EVALUATE + 'plan = { model = "stage:a" }',
            "stage 'e': model = 'stage:a': expected an expand or pretrain stage before it",
        ),
        (
            EVALUATE + 'plan = { run = "stage:a" }\n' + STAGE,
            "run = 'stage:a': expected a train or pretrain stage before it (there is none)",
        ),
        (
            STAGE + '[[stage]]\nname = "c"\nkind = "compare"\n'
            'plan = { evaluations = ["stage:a", "x"] }',
            "evaluations = 'stage:a': expected an evaluate stage before it",
        ),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_the_place(text: str, message: str) -> None:
    with pytest.raises(RunError) as caught:
        parse(text)
    assert str(caught.value).startswith("file.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "plan", "message"),
    [
        ("train", "lora = { r = 0 }", "--lora-r 0"),
        ("expand", "suggest = -1", "suggest = -1: expected 0 or more"),
        ("expand", 'suggest = 5, words = "w.txt"', "suggest = 5: finds the words itself"),
        ("expand", 'words = "w.txt", categories = ["a"]', "categories: cannot be combined"),
        ("compare", 'evaluations = ["one"]', "evaluations = ['one']: expected two or more"),
        ("study", 'evaluations = ["one"]', "evaluations = ['one']: expected two or more"),
        ("study", 'evaluations = ["one", "two"], raters = 0', "--raters 0: the number must be"),
    ],
)
def test_a_value_out_of_range_is_refused(kind: str, plan: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(f'[[stage]]\nname = "a"\nkind = "{kind}"\nplan = {{ {plan} }}')
    assert str(caught.value).startswith(message)


def test_an_unknown_recipe_names_the_packaged_ones() -> None:
    with pytest.raises(UsageError, match=r"RECIPE nothing: cannot be read .* or demo"):
        load_recipe("nothing")


def test_paths_start_where_the_recipe_lies(tmp_path: Path) -> None:
    text = (
        f'{STAGE}[stage.plan]\nmodel = "./model"\n'
        '[stage.plan.data]\ntrain = ["a.jsonl", "/b.jsonl"]\nevaluation = ["c"]\n'
        '[[stage]]\nname = "p"\nkind = "pretrain"\n'
        'plan = { corpus = { paths = ["t"], replay = ["r"] } }\n'
        '[[stage]]\nname = "x"\nkind = "expand"\nplan = { words = "w.txt", corpus = ["t"] }\n'
        '[[stage]]\nname = "e"\nkind = "evaluate"\n'
        'plan = { run = "stage:a", texts = ["t"], prompts = "p.toml" }\n'
    )
    train, pretrain, expand, evaluate = (stage.plan for stage in parse(text, tmp_path))
    assert isinstance(train, TrainConfig)
    assert train.model == str(tmp_path / "model")
    assert train.data.train == (str(tmp_path / "a.jsonl"), "/b.jsonl")
    assert train.data.evaluation == (str(tmp_path / "c"),)
    assert isinstance(pretrain, PretrainConfig)
    assert (pretrain.corpus.paths, pretrain.corpus.replay) == (
        (str(tmp_path / "t"),),
        (str(tmp_path / "r"),),
    )
    assert isinstance(expand, ExpandPlan)
    assert (expand.words, expand.lexicon) == (str(tmp_path / "w.txt"), "guide")
    assert isinstance(evaluate, EvaluationPlan)
    assert (evaluate.run, evaluate.prompts) == ("stage:a", str(tmp_path / "p.toml"))
    assert in_root(evaluate, tmp_path / "out").run == str(tmp_path / "out" / "a")
    for model in ("starter", "owner/model"):
        [stage] = parse(f'{STAGE}plan = {{ model = "{model}" }}', tmp_path)
        assert isinstance(stage.plan, TrainConfig)
        assert stage.plan.model == model


def test_a_variety_fills_in_what_a_stage_does_not_say(tmp_path: Path) -> None:
    text = (
        'variety = { lexicon = "gl.toml", prompts = "gl-prompts.toml" }\n'
        '[[stage]]\nname = "x"\nkind = "expand"\n'
        '[[stage]]\nname = "w"\nkind = "expand"\nplan = { words = "w.txt" }\n'
        f'{EVALUATE}[[stage]]\nname = "p"\nkind = "evaluate"\nplan = {{ prompts = "packaged" }}\n'
        '[[stage]]\nname = "l"\nkind = "evaluate"\nplan = { like = "stage:e" }\n'
    )
    lexicon, prompts = str(tmp_path / "gl.toml"), str(tmp_path / "gl-prompts.toml")
    plans: list[Any] = [stage.plan for stage in parse(text, tmp_path)]
    assert [plan.lexicon for plan in plans] == [lexicon, "guide", lexicon, lexicon, None]
    assert [plan.prompts for plan in plans[2:]] == [prompts, "packaged", "packaged"]


@pytest.mark.parametrize("name", packaged_recipes())
def test_a_packaged_recipe_holds_both_approaches(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    kinds = [stage.kind for stage in recipe.stages]
    assert kinds == [
        "train", "evaluate", "evaluate",
        "expand", "pretrain", "train", "evaluate",
        "compare", "study",
    ]  # fmt: skip
    plans: dict[str, Any] = {stage.name: stage.plan for stage in recipe.stages}
    first, second = plans["lora"], plans["lora-pretrained"]
    assert second.model == "stage:pretrained"
    for field in ("num_epochs", "max_steps", "batch_size", "seed", "data", "lora", "optimizer"):
        assert getattr(first, field) == getattr(second, field)
    # Only then do an evaluation's own regional texts stand aside from pre-training.
    assert plans["pretrained"].seed == 0
    if name != "demo":
        assert (first.num_epochs, first.lora.r, first.lora.alpha, first.batch_size) == (
            3,
            64,
            16,
            4,
        )
        four_bits = name.endswith("4bit")
        assert first.use_4bit == second.use_4bit == plans["pretrained"].use_4bit == four_bits
        assert plans["evaluate-base"].use_4bit == four_bits
        assert first.model in KNOWN


def test_the_packaged_recipes_are_the_issue_s() -> None:
    assert packaged_recipes() == [
        "catalan-spanish-1b",
        "catalan-spanish-3b",
        "catalan-spanish-8b-4bit",
        "demo",
    ]


@pytest.mark.parametrize("name", [n for n in packaged_recipes() if n != "demo"])
def test_what_is_not_here_yet_is_estimated_all_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    estimator = Estimator()
    costs = {
        stage.name: estimator.cost(stage) for stage, _ in standings(load_recipe(name), tmp_path)
    }
    assert all(cost.seconds and cost.memory_bytes and cost.disk_bytes for cost in costs.values())
    shape = KNOWN[load_recipe(name).stages[0].plan.model]  # type: ignore[union-attr]
    expanded = costs["expanded"].disk_bytes
    assert expanded is not None
    assert shape.bytes_on_disk < expanded < 1.01 * shape.bytes_on_disk
    assert costs["pretrained"].disk_bytes > expanded  # type: ignore[operator]


def test_known_models_have_the_published_sizes() -> None:
    """Parameters as the Hub's pages of these models say them."""
    assert [shape.parameter_count for shape in KNOWN.values()] == [
        1_235_814_400,
        3_212_749_824,
        8_030_261_248,
    ]


def test_a_model_of_nobody_s_has_no_estimate(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    text = (
        f'{STAGE}plan = {{ model = "owner/model" }}\n{EVALUATE}plan = {{ run = "stage:a" }}\n'
        f'[[stage]]\nname = "t"\nkind = "train"\nplan = {{ model = "{tiny_directory}" }}\n'
        f'[[stage]]\nname = "m"\nkind = "train"\n[stage.plan]\nmodel = "{tiny_directory}"\n'
        '[stage.plan.data]\ntrain = ["missing.jsonl"]\n'
    )
    estimator = Estimator()
    unknown, its_evaluation, tiny, missing = [estimator.cost(stage) for stage in parse(text)]
    for cost in (unknown, its_evaluation):
        assert cost == Cost(None, None, None, "the model is not on this machine yet")
    assert tiny.seconds is not None
    assert tiny.disk_bytes is not None
    assert tiny.disk_bytes > model_shape(tiny_directory).parameter_count
    assert missing.seconds is None
    assert "missing.jsonl: no such file" in missing.how
    whole = total([unknown, tiny])
    assert (whole.seconds, whole.disk_bytes) == (tiny.seconds, tiny.disk_bytes)
    assert whole.how == "without 1 of 2 stages, which are not known"
