"""HumanEval+ and MBPP+ with the verdicts of evalplus."""
