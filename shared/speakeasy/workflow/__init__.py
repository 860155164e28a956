"""Recipes: several stages of work, each a directory, carried out in order and only once."""
