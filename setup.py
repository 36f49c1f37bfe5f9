"""Packaging. Tool settings live in pyproject.toml; tested versions in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "lightning_graceful/__init__.py").read_text())[1]
REPORT = ["plotly>=6", "jinja2>=3.1", "pillow>=10"]
RETRIEVAL = ["faiss-cpu>=1.8"]
WORKSPACE = ["wandb-workspaces>=0.4"]
DEV = [
    "build",
    "lightning",
    "mpmath",
    "mypy",
    "pytest>=8",
    "pytest-timeout",
    "pytest-xdist",
    "pytorch-metric-learning",
    "ruff",
    "scipy-stubs",
    "selenium>=4",
    "setuptools>=77",
    "statsmodels",
    "torchdata",
    "wheel",
]

setup(
    name="lightning-graceful",
    version=VERSION,
    description="Replace a trained model without breaking what the old one got right (PyTorch Lightning)",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # conf/ lies beside the package in the checkout and inside it in the wheel. Hydra looks for plugins along the path of
    # the namespace hydra_plugins, to which an editable install adds this folder only if the namespace itself is named.
    packages=[
        *find_packages(include=["lightning_graceful*"]),
        "lightning_graceful.conf",
        *find_namespace_packages(include=["hydra_plugins*"]),
    ],
    package_dir={"lightning_graceful.conf": "conf"},
    package_data={
        "lightning_graceful": [
            "py.typed",
            "report/page/*.jinja",
            "report/page/*.css",
            "report/page/*.js",
            "report/compatibility/*.jinja",
            "report/compatibility/*.css",
            "report/compatibility/*.js",
        ],
        "lightning_graceful.conf": ["**/*.yaml"],
    },
    install_requires=[
        "torch>=2.2",
        "pytorch-lightning>=2.2",
        "torchmetrics>=1.3",
        "numpy>=1.26",
        "scipy>=1.11",
        "duckdb>=1.3",
        "safetensors>=0.4",
        "hydra-core>=1.3.2",
        "wandb>=0.17",
        "rich>=13",
        "scikit-learn>=1.3",
    ],
    extras_require={
        "report": REPORT,
        "retrieval": RETRIEVAL,
        "workspace": WORKSPACE,
        "dev": [*REPORT, *RETRIEVAL, *WORKSPACE, *DEV],
    },
    entry_points={"console_scripts": ["graceful=lightning_graceful.cli:main"]},
)
