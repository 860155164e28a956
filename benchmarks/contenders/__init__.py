"""One training run a program: reads a job (see ``benchmarks.job``), prints one JSON object."""
