"""The HTML report of a comparison: one file that needs no other."""
