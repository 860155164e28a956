"""A study's report: in the terminal, as Markdown and as one HTML page."""
