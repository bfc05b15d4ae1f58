"""How a stage's run presents itself in MLflow: by which name, params, tags and description.

The same keys at every stage, so that one column of the runs table serves them all.
"""

from selftrain import tracking
from selftrain.benchmarks import benchmark
from selftrain.checkpoint import load_card
from selftrain.config import Config, TrainConfig
from selftrain.datasets import OpenData
from selftrain.descriptions import Facts, describe_stage
from selftrain.run_names import fraction, name_labels, name_network, name_training
from selftrain.shown_knobs import shown_knobs
from selftrain.stage import Product

BENCHMARK_TAG, SEED_TAG, NETWORK_TAG = (
    "selftrain.benchmark",
    "selftrain.seed",
    "selftrain.network",
)


def of_preparation(config: Config) -> Facts:
    """Return the facts of a look at the data."""
    return Facts(name=f"prepare {config.benchmark}", command="prepare", kind="prepare")


def of_training(
    role: str, config: TrainConfig, section: str, usual: Config, made_from: dict[str, str]
) -> Facts:
    """Return the facts of a training.

    Args:
        role: What its product is to the pipeline.
        config: What is trained.
        section: Of the whole config, that `config` belongs to.
        usual: The benchmark's own.
        made_from: What -> id of the run that has made it.
    """
    return Facts(
        name=name_training(role, config, getattr(usual, section)),
        command=section,
        kind="control" if role == "control" else section,
        seed=config.seed,
        network=name_network(config.network.name, config.network.backbone),
        made_from={what: [run_id] for what, run_id in made_from.items()},
    )


def of_labels(title: str, config: Config, teachers: list[Product], promoted: str) -> Facts:
    """Return the facts of a set of pseudo labels.

    Args:
        title: What the set is called.
        config: Its `pseudo_label` says who the teachers are.
        teachers: These.
        promoted: What the student is called that is the teacher; "" if none is.
    """
    run_ids = [teacher.run_id for teacher in teachers]
    is_own = config.pseudo_label.teacher == "none" and not promoted
    named = [f"run {run_id[:8]}" for run_id in run_ids]
    if config.pseudo_label.teacher == "none":
        named = [promoted or f"teacher s{config.teacher.seed}"]
    return Facts(
        name=name_labels(title, named),
        command="pseudo_label",
        kind="pseudo_label",
        seed=config.teacher.seed if is_own else None,
        network=", ".join(dict.fromkeys(map(network_of, teachers))),
        made_from={"teacher": run_ids},
        values={} if is_own else {"pseudo_label.teacher": "+".join(run_ids)},
    )


def of_evaluation(name: str, seed: int | None, model: Product) -> Facts:
    """Return the facts of a measurement of a network.

    Args:
        name: Of the network.
        seed: That it was trained with; None: it is not known.
        model: The network.
    """
    return Facts(
        name=f"evaluate {name}",
        command="evaluate",
        kind="evaluate",
        seed=seed,
        network=network_of(model),
        made_from={"model": [model.run_id]},
        values={"evaluate.model": model.run_id},
    )


def network_of(model: Product) -> str:
    """Return what the network of a training is called."""
    card = load_card(model.folder)
    return name_network(card.network, card.backbone)


def present(run: tracking.Run, facts: Facts, config: Config, data: OpenData) -> None:
    """Log params, tags and description of a stage's run.

    Args:
        run: That has just begun.
        facts: What it makes.
        config: From which it can be made again.
        data: The benchmark's samples.
    """
    if not run.run_id:
        return
    usual = benchmark(config.benchmark)
    seed = {} if facts.seed is None else {"seed": facts.seed}
    sections = ("data", *(() if facts.command == "prepare" else (facts.command,)))
    params = {"benchmark": config.benchmark, **seed}
    for section in sections:
        params |= shown_knobs(section, getattr(config, section), getattr(usual, section))
    run.log_params(params)
    run.set_tags(
        {
            BENCHMARK_TAG: config.benchmark,
            **({} if facts.seed is None else {SEED_TAG: str(facts.seed)}),
            **({NETWORK_TAG: facts.network} if facts.network else {}),
            **{f"{tracking.UPSTREAM}{what}": "+".join(it) for what, it in facts.made_from.items()},
        }
    )
    pages = {it: tracking.page_of(it) for run_ids in facts.made_from.values() for it in run_ids}
    run.describe(describe_stage(facts, config, usual, read=_count(data), pages=pages))


def _count(data: OpenData) -> str:
    splits, share = data.splits, data.config.labelled_fraction
    of_them = f" ({fraction(share)} of them)" if share < 1 and not data.config.shots else ""
    counts = [f"{len(splits.labelled)} labelled images{of_them}"]
    counts += [f"{len(splits.unlabelled)} unlabelled"] if splits.unlabelled else []
    parts = {"dev": splits.dev, **splits.evaluation}
    counts += [f"{len(part)} in {name}" for name, part in parts.items() if part]
    return f"{data.config.dataset}: {', '.join(counts)}."
