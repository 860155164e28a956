"""Stages ``train`` and ``pretrain``: each is an ordinary run directory."""

from __future__ import annotations

from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.data.dataset import starter_files
from speakeasy.training import session as sessions
from speakeasy.training.backend import select_again
from speakeasy.training.opening import open_engine
from speakeasy.training.planning import plan
from speakeasy.training.raw_text import corpus_files, replay_files
from speakeasy.training.run import Run
from speakeasy.workflow.stages import digests
from speakeasy.workflow.stages.kind import Follower, Inputs, Place, Say


class Training:
    """A run, of LoRA on conversations or of continued pre-training on text."""

    result = "summary.json"

    def inputs(self, place: Place, say: Say) -> Inputs:
        """The base model, its tokenizer, and the files of both sides of the data."""
        config = place.plan
        assert isinstance(config, TrainConfig | PretrainConfig)
        model = digests.of_model(config.model, say)
        if isinstance(config, PretrainConfig):
            corpus = config.corpus
            replay = digests.of_files(replay_files(corpus)) if corpus.replay_share else ""
            return model | {
                "training text": digests.of_files(corpus_files(corpus)),
                "held-out text": digests.of_texts(corpus.evaluation) if corpus.evaluation else "",
                "neutral text": replay,
            }
        data = config.data
        learned = digests.of_conversations(data.train) if data.train else ""
        return model | {
            "training data": learned or digests.of_files(starter_files()),
            "held-out data": digests.of_conversations(data.evaluation),
        }

    def carry_out(self, place: Place, follower: Follower) -> None:
        """Start the run, or go on with it."""
        before = Run(place.directory) if (place.directory / "run.toml").is_file() else None
        config = before.config if before else place.plan
        assert isinstance(config, TrainConfig | PretrainConfig)
        selection = select_again(config.backend, None) if before else None
        session = plan(config, selection=selection, say=follower.say, bar=follower.counting)
        follower.planned(session)
        opened = open_engine(session, before, say=follower.say, bar=follower.counting)
        run = before or Run.create(place.directory, session.config, sessions.environment(session))
        with follower.training(session, run) as watcher:
            sessions.train(session, run, opened, watcher)
