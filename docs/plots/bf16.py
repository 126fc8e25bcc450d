"""How far bf16's loss is from f32's: python bf16.py RUN-F32 RUN-BF16 [bf16.svg]

The losses are smoothed as TensorBoard does, by an exponential mean without the pull of its start.
"""

import json
import sys

SMOOTHING = [0.9, 0.95, 0.98]


def losses(run):
    with open(f"{run}/metrics.jsonl") as file:
        return [json.loads(line)["loss"] for line in file]


def smooth(values, keep):
    mean, smoothed = 0.0, []
    for i, value in enumerate(values):
        mean = keep * mean + (1 - keep) * value
        smoothed.append(mean / (1 - keep ** (i + 1)))
    return smoothed


full, half = losses(sys.argv[1]), losses(sys.argv[2])
assert len(full) == len(half), "the runs have different numbers of steps"
for keep in SMOOTHING:
    off = [abs(b / a - 1) for a, b in zip(smooth(full, keep), smooth(half, keep))]
    worst = max(range(len(off)), key=off.__getitem__)
    print(f"smoothing {keep}: at most {off[worst]:.2%} (step {worst + 1}), {off[-1]:.2%} at the end")

if len(sys.argv) > 3:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "lidit", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    figure, plot = plt.subplots(figsize=(6, 3), layout="constrained")
    for name, values, colour in [("f32", full, "tab:blue"), ("bf16", half, "tab:orange")]:
        plot.plot(range(1, len(values) + 1), values, color=colour, alpha=0.25, lw=0.8)
        plot.plot(range(1, len(values) + 1), smooth(values, 0.95), color=colour, lw=1.2, label=name)
    plot.set(xlabel="step", ylabel="loss")
    plot.legend()
    figure.savefig(sys.argv[3], metadata={"Date": None})
