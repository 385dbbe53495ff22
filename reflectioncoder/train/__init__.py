"""Masked self-distillation (section 3.2). The package can be called: `train(TrainConfig(...))`, see `train.train`.

Example:
    from reflectioncoder import TrainConfig, train

    done = train(TrainConfig(data=("runs/build/sequences.jsonl",), output="runs/train", batch_size=16))
"""

from reflectioncoder._callable import make_callable

make_callable(__name__)
