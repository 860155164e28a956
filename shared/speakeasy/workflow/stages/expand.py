"""Stage ``expand``: a model with a larger vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speakeasy.corpus.documents import text_files
from speakeasy.data.dataset import find_files
from speakeasy.dialect.lexicon import load_lexicon
from speakeasy.vocab.build import expand_model, require_words
from speakeasy.vocab.expand import Expansion, plan_for, plan_words
from speakeasy.vocab.families import Source, read_source
from speakeasy.vocab.material import (
    Material,
    answers,
    documents,
    find_material,
    running_texts,
    starter_material,
)
from speakeasy.vocab.mining import count_forms
from speakeasy.vocab.suggest import count_parts, suggest, tagged
from speakeasy.vocab.words import Word, forms_in_corpus, guide_words, lexicon_words, load_words
from speakeasy.weights.added import RECORD
from speakeasy.weights.hub import resolve_model
from speakeasy.workflow.plans import PACKAGED_LEXICONS, ExpandPlan
from speakeasy.workflow.stages import digests
from speakeasy.workflow.stages.kind import Follower, Inputs, Place, Say

_HELD_OUT = 0.1
"""Share of the corpus that ``suggest`` does not look at, as in ``speakeasy vocab suggest``."""


class Expand:
    """``vocab expand`` as a stage: a model directory."""

    result = RECORD

    def inputs(self, place: Place, say: Say) -> Inputs:
        """The base model, its tokenizer, and the files that the words come from."""
        plan = place.plan
        assert isinstance(plan, ExpandPlan)
        found = digests.of_model(plan.model, say)
        if plan.words:
            found["words"] = digests.of_files([Path(plan.words)])
        elif plan.lexicon == "full":
            found["lexicon"] = digests.of_files([digests.dialect_file("lexicon.toml")])
        elif plan.lexicon not in PACKAGED_LEXICONS:
            found["lexicon"] = digests.of_files([Path(plan.lexicon)])
        if plan.corpus or plan.suggest:
            found["corpus"] = digests.of_files(_files(_material(plan.corpus)))
        return found

    def carry_out(self, place: Place, follower: Follower) -> None:
        """Plan the entries, examine them, write the model."""
        plan = place.plan
        assert isinstance(plan, ExpandPlan)
        model = resolve_model(plan.model, say=follower.say)
        follower.say(f"model: {model.source}")
        entries = planned_entries(plan, read_source(model.path))
        require_words(entries)
        follower.say(f"{len(entries.added):,} new entries; mode {entries.mode}: {entries.reason}")
        expand_model(
            model,
            place.directory,
            entries,
            init=plan.init,
            allow_collateral=plan.allow_collateral,
            say=follower.say,
            bar=follower.counting,
        )


def planned_entries(plan: ExpandPlan, tokenizer: Source) -> Expansion:
    """The entries that a tokenizer is to get.

    Raises:
        DataError: words, lexicon or corpus cannot be read.
        UsageError: there is no such category.
        ModelError: the tokenizer cannot be extended, or not in this mode.
    """
    if plan.suggest:
        material = _material(plan.corpus)
        said = answers(material, _HELD_OUT, seed=0)
        parts = tagged(said, documents(material, _HELD_OUT, seed=0))
        found = suggest(tokenizer, count_parts(tokenizer, parts), entries=plan.suggest)
        return plan_for(tokenizer, [item.form for item in found.entries], mode=plan.mode)
    words = chosen_words(plan)
    if plan.corpus:
        texts = running_texts(_material(plan.corpus))
        words = forms_in_corpus(words, count_forms(tokenizer, texts))
    return plan_words(tokenizer, words, mode=plan.mode, phrases=plan.phrases)


def chosen_words(plan: ExpandPlan) -> list[Word]:
    """The words that a plan names, without other forms of them in a corpus."""
    if plan.words:
        return load_words(Path(plan.words))
    categories = plan.categories or None
    if plan.lexicon == "guide":
        return guide_words(categories)
    lexicon = None if plan.lexicon == "full" else load_lexicon(Path(plan.lexicon))
    return lexicon_words(lexicon, categories)


def _material(paths: Sequence[str]) -> Material:
    return find_material([Path(path) for path in paths]) if paths else starter_material()


def _files(material: Material) -> list[Path]:
    texts = text_files(material.texts) if material.texts else []
    return [*find_files(material.conversations), *texts]
