"""`reflectioncoder pretrain`."""

from __future__ import annotations

from reflectioncoder.cli.arguments import Switches, Verb
from reflectioncoder.cli.process import keep_freed_memory
from reflectioncoder.config.pretrain import PretrainConfig
from reflectioncoder.models.micro import micro_folder


def run_pretrain(config: PretrainConfig, switches: Switches) -> int:
    """Make a micro model, or say which; print its directory."""
    folder = micro_folder(config)
    if switches.dry_run:
        made = "is there" if (folder / "config.json").is_file() else "is not there yet"
        print(f"{folder}: {config.layers} layers of {config.width}, {config.tokens:,} tokens; {made}")
        return 0
    keep_freed_memory()
    from reflectioncoder.pretrain.pretrain import pretrain

    print(pretrain(config))
    return 0


PRETRAIN = Verb(
    "make a micro model for studies, from nothing, on procedural documents",
    PretrainConfig,
    run_pretrain,
    configured=True,
)
