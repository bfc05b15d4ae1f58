"""What a person sees of the runs: MLflow's UI in a real browser, on a store of a real `main`.

    SELFTRAIN_SCREENSHOTS=DIR pytest -m browser tests/integration/test_browser.py

keeps the pictures of the pages. With SELFTRAIN_BROWSER_STORE=URI, of a store in which `prepare`,
`main` and `report` have run, they are that store's; the README's were taken so.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from workspace import REPOSITORY, Workspace

from selftrain.knobs import Scalar

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

VALUES: dict[str, Scalar] = {
    "data.scenes.width": 128,
    "data.scenes.images": 16,
    "data.scenes.dev": 3,
    "pseudo_label.measure": True,
    "teacher.epochs": 2,
    "student.epochs": 2,
    "student.crop.size": 64,
    "student.data.pseudo_ratio": 3.0,
    "student.crop.schedule": "coarse2fine_plus",
}
STUDENT = "student 1:3 CS coarse2fine_plus s0"
TRAININGS = ("teacher CS s0", re.compile(r"^control x\d CS coarse2fine_plus s0$"), STUDENT)
PATIENCE = 120_000
"""Milliseconds for what is waited for: the machine may be busy."""
START = 300.0
"""Seconds in which the server must answer."""
SIZE = (1600, 1000)
WIDTH = 1200
"""Of the pictures that are kept, in pixels."""
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTLED = """
    localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
    localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""
"""Keeps MLflow's assistant from covering a quarter of the first page."""
WITHOUT_BANNER = """
    for (const box of document.querySelectorAll("[role=alert]"))
        if (box.textContent.includes("viewing a shared view")) box.style.display = "none";
"""
"""Hides what MLflow says above each saved view."""


@dataclass(frozen=True)
class Site:
    """MLflow's UI on a store."""

    client: MlflowClient
    address: str
    page: "Page"
    pictures: Path

    def run(self, stage: str, role: str = "") -> Run:
        """Return the newest run of a stage, in the role if one is given."""
        experiments = [it.experiment_id for it in self.client.search_experiments()]
        wanted = f"tags.selftrain.stage = '{stage}' and attributes.status = 'FINISHED'"
        wanted += f" and tags.selftrain.role = '{role}'" if role else ""
        return next(iter(self.client.search_runs(experiments, wanted)))

    def command(self, name: str) -> Run:
        """Return the newest run of a command."""
        experiments = [it.experiment_id for it in self.client.search_experiments()]
        return next(iter(self.client.search_runs(experiments, f"run_name LIKE '{name} %'")))

    def open_experiment(self, what: str) -> None:
        """Open a page of the experiment that has the trainings."""
        experiment = self.run("train").info.experiment_id
        self._open(f"experiments/{experiment}/{what}")

    def open_run(self, run: Run, tab: str = "") -> None:
        """Open a run's page, or one of its tabs."""
        self._open(f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}{tab}")

    def _open(self, path: str) -> None:
        self.page.goto("about:blank")  # else only the fragment would change, and nothing be loaded
        word = "&" if "?" in path else "?"
        self.page.goto(f"{self.address}/#/{path}{word}workflowType=machine_learning")

    def see(self, text: "str | re.Pattern[str]") -> "Locator":
        """Wait until a text is seen, and return where."""
        exact = isinstance(text, str)
        found = self.page.get_by_text(text, exact=exact).locator("visible=true").first
        found.wait_for()
        return found

    def keep(self, name: str) -> None:
        """Keep a picture of what is seen, small enough for a README."""
        file = self.pictures / f"{name}.png"
        self.page.evaluate(WITHOUT_BANNER)
        self.page.wait_for_timeout(1500)  # charts move into their place
        self.page.screenshot(path=file)
        picture = Image.open(file).convert("RGB")
        height = round(picture.height * WIDTH / picture.width)
        small = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
        small.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


@pytest.fixture(scope="module")
def browser() -> str:
    """The browser's path; without one there is nothing to look at."""
    pytest.importorskip("playwright.sync_api", reason="playwright is missing: `make setup`")
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no browser: there is no chromium on PATH (Debian: apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def store(browser: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a store in which the commands have run, those of README's first page among them."""
    if "SELFTRAIN_BROWSER_STORE" in os.environ:
        return os.environ["SELFTRAIN_BROWSER_STORE"]
    folder = tmp_path_factory.mktemp("browser")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    workspace = Workspace(folder, tracking_uri=uri, values=VALUES)
    for package in ("analysis", "experiments"):
        shutil.copytree(REPOSITORY / package, workspace.checkout / package)
    for command in ("prepare", "main"):
        done = workspace.selftrain(command)
        assert done.code == 0, done.output
    words = ["run", str(workspace.checkout), "-e", "report", "--env-manager", "local"]
    done = workspace.call(["-m", "mlflow", *words, "--experiment-name", "selftrain"])
    assert done.code == 0, done.output
    return uri


@contextmanager
def serving(uri: str, log: Path) -> Iterator[str]:
    """Serve MLflow's UI while the block works, unless the store is a server; yields its address."""
    if uri.startswith("http"):
        yield uri
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    words = ["ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, "--workers", "1"],
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as server,
    ):
        try:
            deadline = time.monotonic() + START
            while not _answers(address):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield address
        finally:
            server.terminate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def site(browser: str, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("pages")
    pictures = Path(os.environ.get("SELFTRAIN_SCREENSHOTS", folder / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    with serving(store, folder / "server.log") as address, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder / "profile",
            executable_path=browser,
            args=ARGUMENTS,
            headless=True,
            viewport={"width": SIZE[0], "height": SIZE[1]},
        )
        context.set_default_timeout(PATIENCE)
        context.add_init_script(SETTLED)
        yield Site(MlflowClient(store), address, context.new_page(), pictures)
        context.close()


def test_the_runs_table_shows_what_a_run_is_and_what_it_has_reached(site: Site) -> None:
    site.open_experiment("runs?viewStateShareKey=selftrain-results")
    for name in (*TRAININGS, "main scenes", f"evaluate {STUDENT}", "pseudo labels of teacher s0"):
        site.see(name)
    for column in ("selftrain.stage", "benchmark", "seed", "dev/mIoU", "test/mIoU"):
        site.see(column)
    site.see("teacher/test/mIoU")
    site.see("student/test/mIoU")
    main = site.command("main")
    assert main.data.params["benchmark"] == "scenes"
    reached = f"{main.data.metrics['student/test/mIoU']:.7f}"[:7]  # as far as it is seen
    assert site.page.get_by_text(reached).count() == 2  # its evaluation's, and main's own
    site.keep("runs")


def test_a_saved_view_is_offered_by_its_name(site: Site) -> None:
    site.open_experiment("runs")
    site.see("main scenes")
    site.page.get_by_role("button", name="Views").click()
    site.see("trainings").click()
    for name in TRAININGS:
        site.see(name)
    assert site.page.get_by_text("pseudo labels of teacher s0").count() == 0


@pytest.mark.parametrize(
    ("tags", "seen"),
    [
        ("tags.selftrain.role = 'student'", STUDENT),
        ("tags.selftrain.stage = 'pseudo_label'", "pseudo labels of teacher s0"),
    ],
)
def test_a_tag_filters_the_table(tags: str, seen: str, site: Site) -> None:
    site.open_experiment("runs?viewStateShareKey=selftrain-results")
    site.see("main scenes")
    box = site.page.get_by_placeholder("metrics.rmse")
    box.fill(tags)
    box.press("Enter")
    site.page.get_by_text("main scenes").wait_for(state="detached")
    site.see(seen)
    assert site.page.get_by_text("teacher CS s0", exact=True).count() == 0


def test_the_three_networks_are_compared_by_curves_and_by_bars_of_each_class(site: Site) -> None:
    site.open_experiment("runs?viewStateShareKey=selftrain-trainings&compareRunsMode=CHART")
    for name in TRAININGS:
        site.see(name)
    for curve in ("dev/mIoU", "train/loss"):
        card = _card(site, curve)
        lines = card.locator(".scatterlayer .trace")
        lines.first.wait_for()
        assert lines.count() in (3, 6)  # and each once more, unsmoothed
    card = _card(site, "dev/IoU/road")
    card.locator(".barlayer .point").first.wait_for()
    assert card.locator(".barlayer .point").count() == 3
    site.page.get_by_placeholder("Search metric charts").fill("dev/IoU")
    site.keep("compare")


def _card(site: Site, title: "str | re.Pattern[str]") -> "Locator":
    """Scroll to a chart and return it."""
    card = site.page.get_by_test_id("experiment-view-compare-runs-card").filter(
        has=site.page.get_by_text(title, exact=isinstance(title, str))
    )
    card.first.scroll_into_view_if_needed()
    return card.first


def test_a_description_says_what_a_run_is_and_leads_to_what_it_was_made_from(site: Site) -> None:
    student, labels = site.run("train", "student"), site.run("pseudo_label")
    site.open_run(student)
    site.see(STUDENT)
    site.see(re.compile("A student: a network trained on real and pseudo labels together"))
    site.see(re.compile("python -m selftrain student --benchmark=scenes"))
    site.keep("run")
    site.page.get_by_role("link", name=labels.info.run_id[:8]).first.click()
    site.see(re.compile("Pseudo labels: what the teachers see in the unlabelled pool"))
    assert len(student.data.params) <= 60
    assert site.page.url.partition("?")[0].endswith(f"/runs/{labels.info.run_id}")


def test_a_slider_shows_how_the_networks_learned_the_same_frames(site: Site) -> None:
    site.open_experiment("runs?viewStateShareKey=selftrain-trainings&compareRunsMode=CHART")
    card = _card(site, "dev frames")
    images = card.locator("img")
    images.nth(8).wait_for()
    assert images.count() == 9  # three frames of three trainings
    assert all(it.evaluate("it => it.complete && it.naturalWidth > 0") for it in images.all())
    first = images.first.get_attribute("src")
    slider = card.get_by_role("slider").first
    slider.focus()
    slider.press("ArrowRight")
    card.locator(f"img:not([src='{first}'])").first.wait_for()
    assert first not in [it.get_attribute("src") for it in images.all()]
    site.page.get_by_placeholder("Search metric charts").fill("dev frames")
    site.keep("frames")


def test_overlays_and_pages_are_seen_among_the_artifacts(site: Site) -> None:
    labels = site.run("pseudo_label")
    site.open_run(labels, "/artifacts/audit/audit.html")
    frame = site.page.frame_locator("iframe")
    frame.get_by_role("heading", name="Pseudo labels").first.wait_for()
    picture = frame.locator("img").first
    assert picture.evaluate("it => it.complete && it.naturalWidth > 0")
    site.keep("audit")

    prepared = site.run("prepare")
    folder = "product/overlays"
    overlay = site.client.list_artifacts(prepared.info.run_id, folder)[0].path
    site.open_run(prepared, f"/artifacts/{overlay}")
    site.page.locator("img[src*='overlays']").first.wait_for()
    site.keep("overlay")

    site.open_run(site.command("report"), "/artifacts/report/report.html")
    frame.get_by_role("heading").first.wait_for()
    site.keep("report")


def test_the_model_page_shows_the_signature_and_the_run_it_comes_from(site: Site) -> None:
    student = site.run("train", "student")
    wanted = f"source_run_id = '{student.info.run_id}'"
    (model,) = site.client.search_logged_models([student.info.experiment_id], wanted)
    site.open_experiment(f"models/{model.model_id}")
    site.see(STUDENT)
    site.page.get_by_role("tab", name="Artifacts").click()
    site.see(re.compile(r"Tensor \(dtype: uint8, shape: \[-1,-1,-1,3\]\)"))
    site.keep("model")
