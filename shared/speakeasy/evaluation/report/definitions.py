"""What each figure means, in a line, for readers who will not open ``docs/metrics.md``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DEFINITIONS: Mapping[str, str] = MappingProxyType(
    {
        "training_seconds": "Time of the training steps, pre-training and LoRA together.",
        "eval_loss": "Cross-entropy of a token of the held-out answers. Tokenizers cut text into "
        "different tokens, so it can be compared only between models that share one.",
        "tokens_per_regional_word": "Tokens that a word of the lexicon takes, after a space.",
        "peak_memory_bytes": "The most memory that a training run of the model took.",
        "model_bytes": "Weights on disk: base, adapter and trained rows.",
        "eval_bits_per_byte": "How many bits the model needs for a byte of the held-out answers. "
        "The same for any tokenizer: the headline.",
        "word_perplexity": "Among how many words, equally likely, the model hesitates at each.",
        "regional_bits_per_byte": "Bits per byte of regional text.",
        "neutral_es_bits_per_byte": "Bits per byte of plain text in the language that is spoken; "
        "what rises here has been forgotten.",
        "neutral_ca_bits_per_byte": "Bits per byte of plain text in the contact language.",
        "tokens_per_word_es": "Tokens per word of the plain text in the language that is spoken.",
        "tokens_per_word_ca": "Tokens per word of the plain text in the contact language.",
        "marker_density": "Words of the lexicon, by weight, in 100 words of the answers. "
        "The target is what people do, not the most.",
        "marker_density_error": "How far that is from the density of held-out human answers.",
        "coverage": "Categories of the lexicon that come up at least once.",
        "expected": "Prompts answered with a marker of a category that the prompt asks for.",
        "control_plain": "Prompts that ask for plain standard language, answered so.",
        "anti_density": "Marks of other varieties in 100 words.",
        "code_mixing": "0 where an answer is of one language, 50 where it is half and half.",
        "switch_rate": "How often the language changes from one word to the next.",
        "catalan_drift": "Answers of which most sentences are in the contact language.",
        "distinct_1": "Different words among all words of the answers.",
        "distinct_2": "Different pairs of words among all pairs.",
        "repetition": "Runs of four words that an answer has already had.",
        "loops": "Answers that end by saying the same again and again.",
        "prompt_overlap": "Words of an answer that repeat its prompt, four or more in a row.",
        "truncated": "Answers that reached the longest length without coming to an end.",
        "overlap_13gram": "Runs of 13 words that stand in the training texts word for word.",
        "words_per_answer": "How long answers are.",
    }
)
