from __future__ import annotations

from pathlib import Path

from tiny import VOCABULARY, save_tiny_tokenizer, tiny_tokenizer

from speakeasy.weights.hub import load_tokenizer


def test_the_tiny_tokenizer_is_always_the_same(tmp_path: Path) -> None:
    one, other = tiny_tokenizer(), tiny_tokenizer()
    assert one is not other
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert len(one) == VOCABULARY
    text = "¡Ostras, nen! 😀 e\u0301"
    assert one.decode(one.encode(text)) == text
    save_tiny_tokenizer(tmp_path)
    saved = load_tokenizer(tmp_path)
    assert saved.encode(text) == one.encode(text)
    assert saved.chat_template == one.chat_template
