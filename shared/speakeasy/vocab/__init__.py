"""Vocabulary: words a tokenizer lacks, how to add them without harm, and the proof."""
