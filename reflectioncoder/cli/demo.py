"""`reflectioncoder demo`."""

from __future__ import annotations

from reflectioncoder.cli.arguments import Switches, Verb
from reflectioncoder.cli.process import keep_freed_memory
from reflectioncoder.cli.study import show_study
from reflectioncoder.config.demo import DemoConfig


def run_demo_verb(config: DemoConfig, switches: Switches) -> int:
    """Run the demo and print its table, or print what it would do."""
    if not switches.dry_run:
        keep_freed_memory()  # for the pre-training, which runs in this process
    from reflectioncoder import demo

    if switches.dry_run:
        print(demo.describe_demo(config))
        return 0
    return show_study(demo.run_demo(config), config.output, switches.json, demo.to_look_at(config))


DEMO = Verb(
    "make a micro model, tune it with and without debugging, and compare, in minutes",
    DemoConfig,
    run_demo_verb,
    configured=True,
    json=True,
)
