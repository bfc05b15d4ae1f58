"""What a person sees of the runs: MLflow's UI in a real browser, on a store of a real `main`.

    SELFTRAIN_SCREENSHOTS=DIR pytest tests/integration/test_browser.py

keeps the pictures. With SELFTRAIN_BROWSER_STORE=sqlite:///... the pages of that store are looked at
instead of a tiny one's: so the README's were taken.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from workspace import REPOSITORY, Workspace

from selftrain.knobs import Scalar

if TYPE_CHECKING:
    from playwright.sync_api import Page

VALUES: dict[str, Scalar] = {
    "data.scenes.width": 128,
    "data.scenes.images": 16,
    "data.scenes.dev": 4,
    "pseudo_label.measure": True,
    "teacher.epochs": 3,
    "student.epochs": 3,
    "student.data.pseudo_ratio": 3.0,
    "student.crop.schedule": "coarse2fine_plus",
}
NAMES = {
    "teacher": "teacher CS s0",
    "control": "control x4 CS coarse2fine_plus s0",
    "student": "student 1:3 CS coarse2fine_plus s0",
}
WAIT = 60_000
"""Milliseconds for a page: the first one loads all of the UI."""
SIZE = {"width": 1400, "height": 900}
WIDTH = 1200
"""Of the pictures that are kept, in pixels."""
"""Chromium must reach nobody but the server."""
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Store:
    """A store with the runs of one `main`, and MLflow's UI on it."""

    client: MlflowClient
    address: str

    def runs(self, query: str) -> list[Run]:
        """Return the runs that a filter finds, in the UI's own words."""
        experiments = [it.experiment_id for it in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, query))

    def run(self, query: str) -> Run:
        """Return the newest one."""
        return self.runs(query)[0]

    def page(self, run: Run, tab: str = "") -> str:
        """Return the address of a run's page."""
        return f"{self.address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}{tab}"
