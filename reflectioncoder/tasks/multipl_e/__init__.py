"""MultiPL-E: HumanEval in other programming languages."""
