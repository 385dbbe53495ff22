"""Runs all measurements that need a CUDA GPU, in parts of less than eight minutes each.

    python benchmarks/gpu/run.py --out DIR [--parts exact,attention,...] [--device cuda|cpu] [--smoke]

exact        errors of loss and gradients on this device relative to float64 on the CPU, ours and the reference's
attention    one variable-length kernel compared with one call per row
head         loss and gradients from the hidden states, by positions scored at a time
speed-135m   our step compared with the reference implementation: SmolLM2-135M's shape, random weights, bfloat16;
             samples and tokens per second, model FLOP utilisation, peak memory; first rounds of 300 to 900 tokens
speed-1b     the same for a Llama of 1.2 billion parameters
long-1b      the same with samples of 2,000 to 4,096 tokens, with gradient checkpointing
rows         time and memory of a single row of 1,024 to 32,768 tokens
profile      the kernels that take most of the time of a step
generate     tokens per second of greedy decoding, for batches of 1 to 256

It needs this repository, torch and transformers, and no network. `--smoke` reduces every size so that it runs on a CPU.
Results are written to DIR/results.json after every part. If a part fails, its error is written there and the other
parts run. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
for folder in (HERE, HERE.parent, ROOT / "tests" / "support", ROOT):
    sys.path.insert(0, str(folder))

import parts  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--parts", default=",".join(parts.PARTS))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=420.0, help="seconds after which a part starts no new repeat")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device in bfloat16; 0 looks it up")
    options = parser.parse_args()
    names = options.parts.split(",")
    unknown = sorted(set(names) - set(parts.PARTS))
    if unknown:
        raise SystemExit(f"--parts: {', '.join(unknown)}: not one of {', '.join(parts.PARTS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA GPU here; --device cpu --smoke tries the parts at a tiny size")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "parts": {},
    }
    failed = []
    for name in names:
        began = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            found = parts.PARTS[name](options, began + options.limit)
        except Exception as error:
            traceback.print_exc()
            failed.append(name)
            found = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        results["parts"][name] = {"seconds": round(time.monotonic() - began, 1), "results": found}
        (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        if options.device == "cuda":
            torch.cuda.empty_cache()
    print(json.dumps(results))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
