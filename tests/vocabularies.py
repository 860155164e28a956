"""What tests of vocabulary expansion share: small tokenizers of each family, the guide's words."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tiny import save_tiny_tokenizer

from speakeasy.files import write_json

# As the guide lists them; the phrases of two and three words apart.
GUIDE = [
    "ostras", "home", "apa", "collons", "nen", "nena", "avi", "àvia", "iaia", "iaio", "va",
    "fem", "escolta", "clar", "adéu", "flipar", "molar", "rallat", "barri", "plaça", "carrer",
    "rambla",
]  # fmt: skip
GUIDE_PHRASES = ["apa va", "si us plau"]


def four_forms(words: list[str]) -> list[str]:
    """Bare, after a space, capitalised, and both."""
    return [
        form
        for word in words
        for form in (word, f" {word}", word.capitalize(), f" {word.capitalize()}")
    ]


def byte_level(directory: Path, model_type: str = "llama") -> Path:
    """The tiny byte-level tokenizer in a directory, with a config that names a model type."""
    directory.mkdir(exist_ok=True)
    save_tiny_tokenizer(directory)
    write_json(directory / "config.json", {"model_type": model_type})
    return directory


def sentencepiece(directory: Path, model_type: str = "llama") -> Path:
    """A tiny tokenizer in the manner of Llama 2's, in a directory."""
    from transformers import PreTrainedTokenizerFast

    directory.mkdir(exist_ok=True)
    PreTrainedTokenizerFast(
        tokenizer_object=_trained(), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(directory)
    write_json(directory / "config.json", {"model_type": model_type})
    return directory


@cache
def _trained():
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    from speakeasy.data.dataset import starter_conversations

    lines = [turn.content for c in starter_conversations()[:120] for turn in c.turns]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    words = [word for line in lines for word in line.split()]  # merges stay inside of words
    tokenizer.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=900,
            special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
        ),
    )
    return _only_specials(tokenizer)


def _only_specials(trained):
    """Bytes are entries of the model, and no added tokens."""
    import json

    from tokenizers import Tokenizer

    spec = json.loads(trained.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(spec))
