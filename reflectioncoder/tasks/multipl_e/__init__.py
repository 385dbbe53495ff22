"""MultiPL-E: HumanEval and MBPP in other programming languages."""
