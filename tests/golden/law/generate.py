"""Fits of scaling laws by scipy and numpy: needs `pip install numpy==2.* scipy==1.*`; run by hand, in this folder.

Writes noisy tables of known laws (`grid.csv`, `outliers.csv`, `isoflop.csv`) and `fits.json`: the joint law as Hoffmann et
al. 2022 (arXiv 2203.15556, appendix D.3) fit it, Huber's function of log losses with delta 1e-3 and the law as a
log-sum-exp, the best of a grid of starts; the isoFLOP parabolas by numpy's polyfit and the lines through their minima.
"""

import csv
import itertools
import json

import numpy as np
from scipy.optimize import minimize
from scipy.special import huber, logsumexp

DELTA = 1e-3
E, A, a, B, b = 1.69, 406.4, 0.34, 410.7, 0.28


def loss(n, d):
    return E + A / n**a + B / d**b


def write(name, rows):
    with open(name, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["n", "d", "c", "loss"])
        writer.writerows([f"{value:.10g}" for value in row] for row in rows)
    with open(name) as file:
        return np.array([[float(value) for value in row] for row in list(csv.reader(file))[1:]])


def joint(rows):
    n, d, target = np.log(rows[:, 0]), np.log(rows[:, 1]), np.log(rows[:, 3])

    def objective(p):
        terms = np.stack([np.full_like(n, p[0]), p[1] - p[3] * n, p[2] - p[4] * d])
        return huber(DELTA, logsumexp(terms, axis=0) - target).sum()

    best = None
    starts = itertools.product([-1, 0, 1], [0, 5, 10, 20], [0, 5, 10, 20], [0, 0.5, 1], [0, 0.5, 1])
    for start in starts:
        found = minimize(objective, start, method="L-BFGS-B")
        if best is None or found.fun < best.fun:
            best = found
    # The objective is flat along a valley: a search without derivatives goes on from there until nothing changes.
    for _ in range(20):
        options = {"maxiter": 20000, "maxfev": 20000, "xatol": 1e-10, "fatol": 1e-16, "adaptive": True}
        found = minimize(objective, best.x, method="Nelder-Mead", options=options)
        if best.fun - found.fun < 1e-14:
            break
        best = found
    p = best.x
    return dict(zip("EABab", [*np.exp(p[:3]).tolist(), *p[3:].tolist()])) | {"objective": float(best.fun)}


def isoflop(rows):
    optima = []
    for c in np.unique(rows[:, 2]):
        group = rows[rows[:, 2] == c]
        x = np.log(group[:, 0])
        r, q, p = np.polyfit(x, group[:, 3], 2)
        vertex = -q / (2 * r)
        optima.append([c, np.exp(vertex), p - q * q / (4 * r)])
    optima = np.array(optima)
    lines = {}
    for name, column in [("n_opt", 1), ("loss", 2)]:
        exponent, intercept = np.polyfit(np.log(optima[:, 0]), np.log(optima[:, column]), 1)
        lines[name] = {"coefficient": float(np.exp(intercept)), "exponent": float(exponent)}
    return {"optima": optima.tolist(), **lines}


def main():
    rng = np.random.default_rng(8)
    pairs = [(n, d) for n in np.geomspace(3e7, 3e9, 5) for d in np.geomspace(1e9, 2.5e11, 5)]
    grid = [[n, d, 6 * n * d, loss(n, d) * np.exp(rng.normal(0, 0.004))] for n, d in pairs]
    outliers = [[*row[:3], row[3] * (1.3 if i in (3, 16) else 1)] for i, row in enumerate(grid)]
    budgets = []
    for c in [6e18, 3e19, 1e20, 6e20]:
        best = (a * A / (b * B)) ** (1 / (a + b)) * (c / 6) ** (b / (a + b))
        for factor in [0.25, 0.5, 1, 2, 4]:
            n = best * factor
            budgets.append([n, c / (6 * n), c, loss(n, c / (6 * n)) * np.exp(rng.normal(0, 0.001))])
    fits = {
        "grid": joint(write("grid.csv", grid)),
        "outliers": joint(write("outliers.csv", outliers)),
        "isoflop": isoflop(write("isoflop.csv", budgets)),
    }
    with open("fits.json", "w") as file:
        json.dump(fits, file, indent=1)
        file.write("\n")


main()
