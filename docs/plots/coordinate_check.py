"""Draws what `lidit coordinate-check` measured: python coordinate_check.py coordinate_check.csv coordinate_check.svg"""

import csv
import sys
from collections import defaultdict

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "lidit", "svg.fonttype": "none"})  # small, and the same from the same numbers
import matplotlib.pyplot as plt

LAYERS = ["blocks.0", "blocks.1", "output"]

source, target = sys.argv[1:]
curves = defaultdict(dict)
with open(source) as file:
    for row in csv.DictReader(file):
        key = row["parametrization"], row["layer"], int(row["step"])
        curves[key][int(row["width"])] = float(row["change"])
steps = sorted({step for _, _, step in curves} - {1})  # gates and final layer leave zero in the first
colours = plt.get_cmap("viridis")

figure, axes = plt.subplots(2, len(LAYERS), figsize=(9, 5), sharex=True, sharey="col", layout="constrained")
for line, (parametrization, title) in zip(axes, [("standard", "standard"), ("mup", "muP")]):
    for plot, layer in zip(line, LAYERS):
        for i, step in enumerate(steps):
            points = {w: c for w, c in sorted(curves[parametrization, layer, step].items()) if c > 0}
            colour = colours(i / max(1, len(steps) - 1))
            plot.plot(list(points), list(points.values()), marker="o", ms=3, color=colour, label=f"step {step}")
        plot.set(xscale="log", yscale="log", title=f"{layer}, {title}")
        plot.set_xticks(list(points), labels=list(points))
        plot.minorticks_off()
for plot in axes[1]:
    plot.set_xlabel("width")
for line in axes:
    line[0].set_ylabel("RMS change since the start")
axes[0][-1].legend(fontsize=7)
figure.savefig(target, metadata={"Date": None})
