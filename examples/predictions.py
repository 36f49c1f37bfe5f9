"""Classifiers of handwritten digits, and what they say of 1,797 samples: files for ``graceful compare``.

    python examples/predictions.py predictions
    graceful compare predictions/old.csv predictions/new.csv --budget nfr=0.01 --html page.html

Any models will do; these are scikit-learn's and take seconds. Each sample is predicted by a model that did not see it
(five folds). The old model learnt from a tenth of the samples, the new ones from more. Written are old.csv, new.csv,
linear.csv and nearest.csv (other candidates), retrain.csv (the old recipe on another tenth: the noise floor), costs.csv
(a digit that is misread costs the difference) and the images.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
RECIPES = {  # file: (model, share of the training samples, seed that chooses them)
    "old": (linear, 0.1, 0),
    "new": (RandomForestClassifier(100, random_state=0), 0.3, 0),
    "linear": (linear, 0.5, 0),
    "nearest": (KNeighborsClassifier(5), 1.0, 0),
    "retrain": (linear, 0.1, 1),
}


def scores(model, share, seed):
    """Return probabilities of the ten digits for each sample, shape (1797, 10)."""
    inputs, target = load_digits(return_X_y=True)
    found = np.zeros((len(target), 10))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(inputs, target):
        seen = np.random.default_rng(seed).permutation(train)[: round(share * len(train))]
        found[test] = clone(model).fit(inputs[seen], target[seen]).predict_proba(inputs[test])
    return found


def write(path, header, rows):
    """Write a CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def main(folder):
    """Write everything below a folder."""
    digits = load_digits()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(digits.images):
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(folder / "images" / f"{number}.png")
    ink = np.digitize(digits.data.mean(1), np.quantile(digits.data.mean(1), [1 / 3, 2 / 3]))
    header = ["id", "target", "slice:ink", "image", *(f"score_{digit}" for digit in range(10))]
    for name, recipe in RECIPES.items():
        rows = (
            [number, target, ("light", "medium", "bold")[ink[number]], f"images/{number}.png", *said.round(6)]
            for number, (target, said) in enumerate(zip(digits.target, scores(*recipe), strict=True))
        )
        write(folder / f"{name}.csv", header, rows)
    pairs = [(true, answer, abs(true - answer)) for true in range(10) for answer in range(10) if true != answer]
    write(folder / "costs.csv", ["target", "answer", "cost"], pairs)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "predictions"))
