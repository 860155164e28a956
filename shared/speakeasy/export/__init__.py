"""From what training left to a model that anyone can load: fused, compared, described."""
