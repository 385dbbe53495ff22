"""HumanEval(+) and MBPP(+), with the same verdicts as evalplus."""
