"""`densecell-batch completion`: the script that makes a shell complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL; for bash, add `eval "$(densecell-batch completion bash)"` to ~/.bashrc."""
    made_by = get_completion_class(shell)
    if made_by is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(made_by(ctx.find_root().command, {}, "densecell-batch", "_DENSECELL_BATCH_COMPLETE").source())
