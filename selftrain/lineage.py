"""From what a product was made, from what that was made, and so on to the digests of the data.

Every run of a stage names the runs that it was made from in its tags (`tracking.UPSTREAM`), and the
data that it has read with their digests. A chain is read from the store alone: no product is
opened, nothing is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from selftrain import tracking
from selftrain.errors import InputError
from selftrain.tracking import DataRead, Finished

LINKS = {
    "teacher": "labelled by",
    "pseudo_labels": "trained on",
    "start": "went on from",
    "backbone_weights": "backbone of",
    "model": "measured",
}
"""What a run was made from, by the name of its tag, and how the product says that of itself."""
SEEDED = ("student", "teacher", "finetune")
"""Sections of the config that are a training's, which is logged under one of them."""


@dataclass(frozen=True)
class Made:
    """A stage's run, and those that it was made from."""

    run_id: str
    run: Finished | None
    """None: the store does not have it as a finished run."""
    link: str
    """What it is to that which was made from it: a name of `LINKS`; "" where the chain begins."""
    sources: tuple["Made", ...] = ()
    lost: str = ""
    """Why there is no run."""

    @property
    def title(self) -> str:
        """Return the word for what was made, and its key."""
        if self.run is None:
            return f"{self.link.replace('_', ' ')} (gone)"
        return f"{role_of(self.run)} {self.run.key}"


def trace(name: str) -> Made:
    """Read the chain of a finished run.

    Args:
        name: A run id, `runs:/ID`, `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        InputError: there is no such run, it is no stage's, it is not finished or it is deleted.
    """
    run = tracking.finished(name)
    if run.is_deleted:
        raise InputError(
            f"Run {run.run_id} is deleted: restore it by `mlflow runs restore --run-id "
            f"{run.run_id}` to see what it was made from."
        )
    return _made(run, "", {}, (run.run_id,))


def _made(run: Finished, link: str, known: dict[str, Made], below: tuple[str, ...]) -> Made:
    """Return a run with its sources.

    Args:
        run: That was found.
        link: What it is to that which was made from it.
        known: Runs that were read before: one that stands in several places is asked for once.
        below: It, and what was made from it; these cannot be its sources, whatever a tag says.
    """
    sources: list[Made] = []
    for name, run_ids in sorted(run.upstream.items(), key=_place):
        for run_id in run_ids.split("+"):
            if run_id in below:
                continue
            if run_id not in known:
                known[run_id] = _read(run_id, known, below)
            found = known[run_id]
            sources.append(Made(run_id, found.run, name, found.sources, found.lost))
    return Made(run.run_id, run, link, tuple(sources))


def _place(item: tuple[str, str]) -> int:
    return list(LINKS).index(item[0]) if item[0] in LINKS else len(LINKS)


def _read(run_id: str, known: dict[str, Made], below: tuple[str, ...]) -> Made:
    try:
        return _made(tracking.finished(run_id), "", known, (*below, run_id))
    except InputError as error:
        if type(error) is not InputError:
            raise  # the store is away: that says nothing of the run
        return _lost(run_id, "this store does not have it, or it is not finished")


def _lost(run_id: str, why: str) -> Made:
    return Made(run_id, None, "", lost=why)


def each(made: Made) -> Iterator[Made]:
    """Yield a chain's stations, each run once, the newest first."""
    seen: set[str] = set()
    waiting = [made]
    while waiting:
        found = waiting.pop(0)
        if found.run_id not in seen:
            seen.add(found.run_id)
            yield found
            waiting.extend(found.sources)


def role_of(run: Finished) -> str:
    """Return what a run has made: student, teacher, pseudo labels."""
    return run.tags.get(tracking.ROLE_TAG, run.stage.replace("_", " "))


def day_of(run: Finished) -> str:
    """Return when a run ended, in UTC."""
    return f"{datetime.fromtimestamp(run.ended / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def seed_of(run: Finished) -> str | None:
    """Return the seed of a training; None: it has none."""
    return next((run.params[f"{it}.seed"] for it in SEEDED if f"{it}.seed" in run.params), None)


def facts(run: Finished) -> list[str]:
    """Return what is said of a run in a few words each: when, by what code, what came out."""
    commit = run.tags.get("mlflow.source.git.commit")
    seed, metrics = seed_of(run), run.metrics
    found = [day_of(run), f"commit {commit[:10]}" if commit else "commit not known"]
    if seed is not None:
        found.append(f"seed {seed}")
    if run.stage == "train":
        miou = metrics.get("dev/mIoU")
        found.append("dev not measured" if miou is None else f"dev mIoU {100 * miou:.2f}")
    if "labels/mIoU" in metrics:
        found.append(f"mIoU of the labels {100 * metrics['labels/mIoU']:.2f}")
    if run.stage == "evaluate":
        mious = [(k, v) for k, v in metrics.items() if k.endswith("mIoU")]
        found += [f"{name.replace('/', ' ')} {100 * value:.2f}" for name, value in sorted(mious)]
    return found


def data_of(run: Finished) -> list[DataRead]:
    """Return the data that a run has read; what other runs have made stands in its sources."""
    return sorted((it for it in run.data if it.name != "pseudo"), key=lambda it: it.name != "real")


def amount(data: DataRead) -> str:
    """Return how many images there are, in words."""
    return "an unknown number of images" if data.images is None else f"{data.images} images"


def describe(made: Made) -> str:
    """Return a chain as text: a tree that grows downwards, from the product to the data."""
    return "\n".join(_lines(made, set()))


def _lines(made: Made, seen: set[str]) -> list[str]:
    how = f"{LINKS.get(made.link, made.link)} " if made.link else ""
    head = f"{how}{made.title}  run {made.run_id}"
    if made.run is None:
        return [f"{head}: {made.lost}"]
    if made.run_id in seen:
        return [f"{head}: see above"]
    seen.add(made.run_id)
    bar = "│  " if made.sources else "   "
    lines = [head, bar + ", ".join(facts(made.run))]
    for data in data_of(made.run):
        lines.append(f"{bar}{data.name}: {amount(data)}, digest {data.digest}")
    for source in made.sources:
        is_last = source is made.sources[-1]
        first, *rest = _lines(source, seen)
        lines.append(f"{'└─ ' if is_last else '├─ '}{first}")
        lines += [f"{'   ' if is_last else '│  '}{line}" for line in rest]
    return lines


def describe_in_markdown(made: Made) -> str:
    """Return what a product was made from as a list whose names lead to the runs in MLflow."""
    seen: set[str] = set()
    lines = [line for source in made.sources for line in _items(source, 0, seen)]
    return "\n".join([*lines, *_data_items(made, 0)])


def describe_in_a_line(made: Made) -> str:
    """Return what a product was made from as one sentence of links, and the digests of all data.

    MLflow folds a description of more than some lines up, and its links with it.
    """
    data = {
        (it.name, it.digest): it
        for station in each(made)
        if station.run is not None
        for it in data_of(station.run)
    }
    read = "; ".join(f"{it.name}: {amount(it)}, `{it.digest}`" for it in data.values())
    return f"{_clause(made, set())}. Data: {read or 'unknown'}."


def _clause(made: Made, seen: set[str], *, is_alone: bool = True) -> str:
    """Return a product's name and those of its sources, in brackets if it has not come alone."""
    if made.run is None:
        return f"{made.title} `{made.run_id}`"
    title = f"{role_of(made.run)} {made.run.key[:6]}"
    name = link_to(made.run, title) if seen else f"{title}:"
    if made.run_id in seen or not made.sources:
        return name
    is_first, are_alone = not seen, len(made.sources) == 1
    seen.add(made.run_id)
    by_link: dict[str, list[str]] = {}
    for source in made.sources:
        by_link.setdefault(source.link, []).append(_clause(source, seen, is_alone=are_alone))
    said = ", ".join(f"{LINKS.get(it, it)} {' and '.join(by_link[it])}" for it in by_link)
    if is_first:
        return f"{name} {said}"
    return f"{name}, {said}" if is_alone else f"{name} ({said})"


def link_to(run: Finished, text: str) -> str:
    """Return a link to a run that works from any page of MLflow's UI."""
    return f"[{text}](#/experiments/{run.experiment}/runs/{run.run_id})"


def _items(made: Made, depth: int, seen: set[str]) -> list[str]:
    indent = " " * 4 * depth
    how = LINKS.get(made.link, made.link)
    if made.run is None:
        return [f"{indent}- {how} run `{made.run_id}`: {made.lost}"]
    head = f"{indent}- {how} {link_to(made.run, made.title)}"
    if made.run_id in seen:
        return [f"{head}: see above"]
    seen.add(made.run_id)
    lines = [f"{head}: {', '.join(facts(made.run))}"]
    for source in made.sources:
        lines += _items(source, depth + 1, seen)
    return lines + _data_items(made, depth + 1)


def _data_items(made: Made, depth: int) -> list[str]:
    indent = " " * 4 * depth
    data = data_of(made.run) if made.run else []
    return [f"{indent}- {it.name}: {amount(it)}, digest `{it.digest}`" for it in data]
