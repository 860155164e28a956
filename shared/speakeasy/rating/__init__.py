"""A blind study with native speakers: made, served to them, and made sense of."""
