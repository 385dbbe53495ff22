"""`reflectioncoder inspect`: shows the sequences of a file block by block."""

from __future__ import annotations

from dataclasses import dataclass

from reflectioncoder.cli.arguments import Switches, Verb, positional
from reflectioncoder.errors import UserError


@dataclass(frozen=True)
class InspectArguments:
    """Show the first sequences of a file, each block in its own frame.

    Args:
        file: JSONL file of dialogues, such as runs/build/sequences.jsonl.
        count: number of dialogues to show.
    """

    file: str = positional()
    count: int = positional(1)


def run_inspect(arguments: InspectArguments, _: Switches) -> int:
    """Print the dialogues."""
    if arguments.count < 0:
        raise UserError(f"COUNT = {arguments.count}: give 0 or more")
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    from reflectioncoder.dialogues.dialogue import read_jsonl

    colours = {"text": "green", "code": "cyan", "execution": "yellow"}
    console = Console()
    dialogues = read_jsonl(arguments.file)
    for dialogue in dialogues[: arguments.count]:
        for message in dialogue.messages:
            for block in message.blocks:
                title, colour = f"{message.role} · {block.type}", colours[block.type]
                console.print(Panel(Text(block.content), title=title, border_style=colour, title_align="left"))
    reflection = sum(dialogue.is_reflection for dialogue in dialogues)
    console.print(f"{len(dialogues)} dialogues in {arguments.file}, {reflection} of them reflection sequences")
    return 0


INSPECT = Verb("show the sequences of a file: reflectioncoder inspect FILE [COUNT]", InspectArguments, run_inspect)
