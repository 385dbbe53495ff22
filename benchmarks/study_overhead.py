"""What a run of a study costs beyond its training and decoding.

    .venv/bin/python benchmarks/study_overhead.py STUDY.toml [--variant NAME]

Runs one variant of a study with one seed, one step at a time, in a temporary folder, builds beforehand. Prints the
wall-clock seconds of its steps, the seconds in the training loop and in decoding alone, and the ratio. Decoding is
measured by decoding the same completions again in this process, after the model is loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.config.study import StudyConfig
from reflectioncoder.config.toml import load
from reflectioncoder.generate.generate import generate
from reflectioncoder.study.study import plan_study, run_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="configuration file of a study")
    parser.add_argument("--variant", default="", help="the first trained one by default")
    options = parser.parse_args()
    config = load(StudyConfig, options.study)
    name = options.variant or next(name for name, table in config.variants.items() if table.get("trained", True))
    with tempfile.TemporaryDirectory() as folder:
        one = dataclasses.replace(
            config, output=f"{folder}/study", steps="", seeds=config.seeds[:1], variants={name: config.variants[name]},
            reference="", token_reference="", jobs=1, keep_models=True,
        )  # fmt: skip
        (outcome,) = run_study(one).outcomes
        if outcome.state != "done":
            raise SystemExit(f"the run {outcome.state}: {outcome.failed}")
        plan = plan_study(one)
        decoding = 0.0
        for number, (key, _) in enumerate(plan.runs[0].scores.values()):
            again = load(GenerateConfig, plan.folder(key) / "config.toml")
            decoding += generate(dataclasses.replace(again, output=str(Path(folder, f"{number}.jsonl")))).seconds
        training = outcome.train_seconds or 0.0
        steps = {verb: seconds for verb, seconds in outcome.seconds.items() if verb != "build"}
        print("  ".join(f"{verb} {seconds:.1f} s" for verb, seconds in steps.items()))
        print(f"training alone {training:.1f} s, decoding alone {decoding:.1f} s")
        print(f"all steps / both alone: {sum(steps.values()) / (training + decoding):.3f}")


if __name__ == "__main__":
    main()
