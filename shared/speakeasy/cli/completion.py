"""``speakeasy completion``: tab completion for bash, zsh and fish."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from speakeasy.cli.common import command, emit, json_option
from speakeasy.errors import UsageError


@command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
def completion(shell: str, as_json: bool) -> None:
    """Print the tab completion script.

    \b
    bash:  speakeasy completion bash >> ~/.bashrc
    zsh:   speakeasy completion zsh >> ~/.zshrc
    fish:  speakeasy completion fish > ~/.config/fish/completions/speakeasy.fish
    """
    from speakeasy.cli.main import main

    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"{shell}: no completion for this shell; expected bash, zsh or fish")
    script = kind(main, {}, "speakeasy", "_SPEAKEASY_COMPLETE").source()
    if as_json:
        emit({"shell": shell, "script": script})
    else:
        click.echo(script)
