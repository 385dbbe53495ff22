"""Train in a notebook: `# %%` starts a cell in VS Code, PyCharm and Jupytext.

python examples/train_in_a_notebook.py [SEQUENCES.jsonl [MODEL [OUTPUT]]]
"""

# %% Choose the data and the model
import json
import sys
from pathlib import Path

from reflectioncoder import TrainConfig, train

words = sys.argv[1:] + ["runs/build/sequences.jsonl", "smollm2-135m-instruct", "runs/notebook"][len(sys.argv) - 1 :]
data, model, output = words

# %% Train: every setting is a field of TrainConfig
config = TrainConfig(
    model=model,
    data=(data,),
    output=output,
    batch_size=2,
    max_steps=4,
    micro_tokens=1024,
    learning_rate=1e-4,
    precision="float32",
    overwrite=True,
)
result = train(config)

# %% Show the loss per step. The mask rate rises from 0, so the student sees less and less of the first round
for line in Path(output, "log.jsonl").read_text().split("\n"):
    if line:
        step = json.loads(line)
        print(f"step {step['step']}  loss {step['loss']:.3f}  mask rate {step['mask_rate']:.2f}")
print(f"{result.steps} steps, model in {output}")
