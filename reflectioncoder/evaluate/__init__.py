"""The verbs evaluate and compare: completions to verdicts, scores with intervals, paired comparison."""
