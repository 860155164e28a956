"""How well a model speaks: scores of texts, measures of answers, what differs between models."""
