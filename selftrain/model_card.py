"""The card of a network, in Markdown: what it is, from what it was made, what it has reached.

All of it is read from finished runs. A card is the description of a registered version, which
holds 5000 characters: what is needed least stands last.
"""

from collections.abc import Iterator, Mapping, Sequence

from selftrain import licences
from selftrain.lineage import (
    Made,
    amount,
    data_of,
    day_of,
    describe_in_markdown,
    each,
    link_to,
    role_of,
    seed_of,
)
from selftrain.tracking import Finished

CLASSES_IN_TABLE = 40
"""With more classes their IoU stands in lines, which take less room."""
_SECTIONS = ("student.", "teacher.", "finetune.")


def write_card(made: Made, *, benchmark: str, evaluations: Sequence[Finished] = ()) -> str:
    """Return the card of a trained network.

    Args:
        made: The training, with what it was made from.
        benchmark: That the network is for.
        evaluations: Of this network, the newest first.
    """
    run = made.run
    assert run is not None
    knobs = _knobs(run)
    parts = [
        _what(run, knobs, benchmark),
        _labels(made, knobs),
        _reached(run),
        "\n".join(_tested(evaluations)),
        f"**Made from**\n\n{describe_in_markdown(made)}",
        "**Licences** (of what it was made from; they decide what it may be used for)\n\n"
        + "\n".join(f"- {line}" for line in dict.fromkeys(_licences(made))),
        _per_class(run),
    ]
    return "\n\n".join(part for part in parts if part)


def _knobs(run: Finished) -> dict[str, str]:
    """Return the knobs of a training, without the section of the config that they stood in."""
    return {
        name.partition(".")[2]: value
        for name, value in run.params.items()
        if name.startswith(_SECTIONS)
    }


def _what(run: Finished, knobs: Mapping[str, str], benchmark: str) -> str:
    name, backbone = knobs.get("network.name", "network"), knobs.get("network.backbone", "")
    network = name if name == "fast_scnn" or not backbone else f"{name} on {backbone}"
    seed = seed_of(run)
    details = [
        f"{knobs['epochs']} epochs" if "epochs" in knobs else "",
        f"crops of {knobs['crop.size']} pixels" if "crop.size" in knobs else "",
        f"frames scaled by {run.params.get('data.scale', '1.0')}",
        f"seed {seed}" if seed is not None else "",
    ]
    commit = run.tags.get("mlflow.source.git.commit", "")
    return (
        f"**{role_of(run).capitalize()}** for the benchmark {benchmark}: {network}, "
        f"{', '.join(detail for detail in details if detail)}. Trained by "
        f"{link_to(run, f'run {run.run_id[:8]}')} until {day_of(run)}"
        + (f", commit `{commit[:10]}`." if commit else ".")
    )


def _labels(made: Made, knobs: Mapping[str, str]) -> str:
    """Say which data and labels were used."""
    run = made.run
    assert run is not None
    real = next((it for it in data_of(run) if it.name == "real"), None)
    given = run.params
    lines = [
        f"- real labels: {amount(real)} of {given.get('data.dataset', '?')}"
        + _share(given)
        + f", digest `{real.digest}`"
        if real is not None
        else "- real labels: the run does not say"
    ]
    labels = next((it for it in made.sources if it.link == "pseudo_labels"), None)
    if labels is None:
        lines.append("- no pseudo labels")
    elif labels.run is None:
        lines.append(f"- pseudo labels of run `{labels.run_id}`, which is gone")
    else:
        lines.append(f"- pseudo labels: {_pseudo(run, labels.run, knobs)}")
        teachers = [it for it in labels.sources if it.link == "teacher"]
        names = [link_to(it.run, it.title) if it.run else f"run `{it.run_id}`" for it in teachers]
        lines.append(f"- teacher{'s' if len(names) > 1 else ''}: {', '.join(names) or 'unknown'}")
    weights = next((it for it in made.sources if it.link in ("start", "backbone_weights")), None)
    if weights is not None and weights.run is not None:
        lines.append(f"- started with the weights of {link_to(weights.run, weights.title)}")
    elif "network.backbone_weights" in knobs:
        start = knobs["network.backbone_weights"].rpartition("/")[2]
        lines.append(f"- weights at the start: {'random' if start == 'none' else start}")
    return "**Data and labels**\n\n" + "\n".join(lines)


def _share(params: Mapping[str, str]) -> str:
    if params.get("data.shots", "0") != "0":
        return f" ({params['data.shots']} images a class)"
    if "data.labelled_fraction" not in params:
        return ""
    return f" ({params['data.labelled_fraction']} of {params.get('data.train_on', 'train')})"


def _pseudo(run: Finished, labels: Finished, knobs: Mapping[str, str]) -> str:
    """Say which pseudo labels a student has learned, and how they were chosen."""
    images = run.metrics.get("pseudo/images")
    kept = run.metrics.get("pseudo/kept_share")
    pool = next((it for it in labels.data if it.name == "pool"), None)
    said = "the set " + link_to(labels, labels.key)
    if images is not None:
        of = f" of {pool.images}" if pool is not None and pool.images is not None else ""
        said += f", {images:.0f}{of} images"
    if kept is not None:
        said += f", {100 * kept:.1f} % of their pixels"
    ratio = knobs.get("data.pseudo_ratio")
    return said + (f"; {ratio} pseudo-labelled crops for each real one" if ratio else "")


def _reached(run: Finished) -> str:
    if "dev/mIoU" not in run.metrics:
        return "**dev mIoU**: not measured while it was trained (no dev split)."
    return (
        f"**dev mIoU {100 * run.metrics['dev/mIoU']:.2f}**, in percent, at the end of the "
        "training. Choices are made on dev: it belongs in no table."
    )


def _per_class(run: Finished) -> str:
    """Return the IoU of each class on dev; a class that does not occur has none."""
    prefix = "dev/IoU/"
    classes = {k.removeprefix(prefix): v for k, v in run.metrics.items() if k.startswith(prefix)}
    if not classes:
        return ""
    if len(classes) > CLASSES_IN_TABLE:
        return "**IoU on dev** " + " · ".join(f"{k} {100 * v:.1f}" for k, v in classes.items())
    rows = [f"| {name} | {100 * value:.2f} |" for name, value in classes.items()]
    return "\n".join(["| class | IoU on dev |", "| :-- | --: |", *rows])


def _tested(evaluations: Sequence[Finished]) -> Iterator[str]:
    """Yield what `evaluate` has measured on val and test, once for each way of asking."""
    asked: set[tuple[tuple[str, str], ...]] = set()
    for run in evaluations:
        ways = {k: v for k, v in run.params.items() if k.startswith("evaluate.inference.")}
        way = tuple(sorted(ways.items()))
        mious = [(k, v) for k, v in sorted(run.metrics.items()) if k.endswith("/mIoU")]
        if way in asked or not mious:
            continue
        if not asked:
            yield "**On evaluation splits** (measured by `evaluate`; nothing was chosen by them)\n"
        asked.add(way)
        reached = ", ".join(f"{k.removesuffix('/mIoU')} mIoU {100 * v:.2f}" for k, v in mious)
        yield f"- {link_to(run, reached)}{_how(ways)}"


def _how(ways: Mapping[str, str]) -> str:
    """Say how a network was asked, if the run says so."""
    asked = {name.rpartition(".")[2]: value for name, value in ways.items()}
    if "scales" not in asked:
        return ""
    window = asked.get("window", "0")
    frames = "whole images" if window == "0" else f"windows of {window} pixels"
    mirrored = ", mirrored too" if asked.get("flip") == "True" else ""
    return f" ({frames}, scales {asked['scales']}{mirrored})"


def _licences(made: Made) -> Iterator[str]:
    """Yield what is known of the licences of all data and weights of a chain."""
    for station in each(made):
        run = station.run
        if run is None:
            yield f"what run {station.run_id} was made from: not known, for the run is gone"
            continue
        if run.stage not in ("train", "pseudo_label"):
            continue
        dataset = run.params.get("data.dataset", "unknown data")
        pool = run.params.get("data.pool", "") if run.stage == "pseudo_label" else ""
        yield from (f"data: {line}" for line in licences.of_data(dataset, pool))
        weights = _knobs(run).get("network.backbone_weights", "none")
        has_start = any(it.link == "start" for it in station.sources)
        if _knobs(run).get("network.name") == "fast_scnn" or has_start:
            continue  # it has no backbone, or had another network's weights
        if (line := licences.of_weights(weights)) is not None:
            yield f"weights: {line}"
