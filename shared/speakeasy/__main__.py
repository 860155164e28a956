"""``python -m speakeasy``: the same as the ``speakeasy`` command."""

from speakeasy.cli.main import main

main(prog_name="speakeasy")
