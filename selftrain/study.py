"""A table or figure of the paper as data: arms, each a config, times seeds.

`experiments/` holds the studies, one file each. Teachers and pseudo labels are shared between arms
by their keys. What an arm has reached is a run of its own, from which `analysis/` makes the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

from selftrain import distributed, experiment_files, progress, tracking
from selftrain.benchmarks import benchmark
from selftrain.config import Config
from selftrain.errors import InputError, Unavailable
from selftrain.evaluate import read_metrics
from selftrain.knobs import Scalar, flatten, override
from selftrain.pipeline import Pipeline, control_config
from selftrain.presentation import NETWORK_TAG, network_of
from selftrain.stage import Product, Stage, alone, lock_file, make_key

ARM = Stage("arm", version=1)
"""Its runs hold what an arm has reached with one seed; it has no product."""
SELF_TRAINING = (
    "scenes",
    "scenes_abroad",
    "camvid_small",
    "camvid",
    "camvid_original",
    "cityscapes",
    "bdd100k",
    "folder",
)
"""Benchmarks that have a pool of unlabelled images of their own."""
SMALL_SCENES: Mapping[str, Scalar] = {
    "data.scenes.width": 128,
    "data.scenes.images": 512,
    "data.scenes.test": 256,
    "data.labelled_fraction": 0.0625,
    "data.tile": 32,
    **{
        f"{who}.{knob}": value
        for who in ("teacher", "student")
        for knob, value in {
            "epochs": 150,
            "eval_every": 50,
            "crop.size": 64,
            "augment.scale_min": 1.0,
            "augment.scale_max": 1.0,
        }.items()
    },
}
"""Size of `scenes` for studies: 600 steps on 32 labelled frames. Four times the crops of the same
labels then gain about as much on dev as the paper's control does on its data, 1 point
(results/scenes/table2_pseudo_ratio.csv). Without random scales, with which a network of this size
would go on learning for hours."""
Role = Literal["teacher", "student", "control", "finetune"]


@dataclass(frozen=True)
class Arm:
    """One row of a table: what is trained, by the knobs that differ from the benchmark's."""

    knobs: Mapping[str, Scalar] = field(default_factory=dict)
    stage: Role = field(default="student", kw_only=True)
    """Which network of the pipeline the row is about."""
    paper: float | None = field(default=None, kw_only=True)
    """mIoU that the paper prints, in percent."""
    control: str | None = field(default=None, kw_only=True)
    """Arm that trains on as many crops, all of them real; every student's arm has one."""
    start: Literal["none", "teacher", "student"] = field(default="none", kw_only=True)
    """Of `finetune`: which network of the study's source benchmark it goes on from."""
    benchmarks: Sequence[str] = field(default=(), kw_only=True)
    """Where the arm makes sense; empty: wherever the study does."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The arms of a table or figure."""

    title: str
    arms: Mapping[str, Arm]
    benchmarks: Sequence[str] = ()
    """Where the study makes sense; empty: on every benchmark."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Benchmark -> the one whose networks its `finetune` arms start from."""
    common: Mapping[str, Scalar] = field(default_factory=dict)
    """Knobs of all arms."""
    sizes: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    """Benchmark -> knobs that fit the study to what a machine for that benchmark can do."""

    def arms_on(self, name: str) -> dict[str, Arm]:
        """Return the arms that make sense on a benchmark."""
        return {k: arm for k, arm in self.arms.items() if name in (arm.benchmarks or (name,))}


def study_names() -> list[str]:
    """Return the names of the studies in `experiments/`."""
    return [name for name in experiment_files.names() if not name.startswith("sweep")]


def load_study(name: str) -> Study:
    """Return a study by the name of its file.

    Raises:
        InputError: there is no such study.
    """
    if name not in (names := study_names()):
        raise InputError(f"study.name = {name} is no study; there are {', '.join(names)}.")
    found = experiment_files.load(name).STUDY
    if not isinstance(found, Study):
        raise TypeError(f"experiments/{name}.py has no STUDY")
    return found


def arm_config(config: Config, study: Study, arm: Arm, seed: int) -> Config:
    """Return the config of an arm: the arm's knobs, then the user's, then the study's size."""
    seeds: dict[str, Scalar] = {f"{who}.seed": seed for who in ("teacher", "student", "finetune")}
    changed = _changed(config)
    size = study.sizes.get(config.benchmark, {})
    fitting = {knob: value for knob, value in size.items() if knob not in changed}
    return override(config, {**study.common, **fitting, **arm.knobs, **seeds})


def run_study(config: Config, run: tracking.Run) -> list[str]:
    """Train and measure the arms of `config.study`; what was measured before is found again.

    Seeds come outermost, so that complete sets of arms exist early. A mistake in one arm does not
    keep the others from being measured.

    Args:
        config: The user's; its `study` says what is run.
        run: The command's own run, above those of the arms.

    Returns:
        The arms that failed, with their reasons.

    Raises:
        InputError: the study or an arm of it does not exist, or it is not for this benchmark.
    """
    settings = config.study
    study = load_study(settings.name)
    _require_benchmark(study, config)
    chosen = _choose(study.arms_on(config.benchmark), settings.arms)
    if seeded := [knob for knob in _changed(config) if knob.endswith(".seed")]:
        raise InputError(
            f"{seeded[0]} is set, but a study gives each arm its seeds: set study.first_seed and "
            "study.seeds."
        )
    for name in chosen:
        _require_equal_iterations(config, study, name)
    run.set_tags({"selftrain.study": settings.name})
    failed = []
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    for seed, name in product(seeds, chosen):
        progress.say(f"{settings.name}: {name}, seed {seed}")
        try:
            run_arm(config, study, name, seed)
        except Unavailable:
            raise  # the other arms would meet it too
        except InputError as error:
            if distributed.world_size() > 1:
                raise  # another process may be without the mistake, and wait for this one
            progress.say(f"{name}, seed {seed}, failed: {error}")
            failed.append(f"{name}, seed {seed}: {error}")
    return failed


def run_arm(config: Config, study: Study, name: str, seed: int) -> None:
    """Train and measure one arm with one seed, and leave a run that says what it has reached.

    Args:
        config: The user's, without the arm's knobs.
        study: Has the arm.
        name: Of the arm.
        seed: Of its trainings, the teacher's too.
    """
    arm = study.arms[name]
    mine = arm_config(config, study, arm, seed)
    if arm.start != "none":
        start = _trained(Pipeline(source_config(config, study, seed)), arm.start)
        mine = override(mine, {"finetune.start": start.run_id})
    pipeline = Pipeline(mine)
    trained = _trained(pipeline, arm.stage)
    evaluated = pipeline.evaluate(trained, f"{name} s{seed}")
    found = _tags(config, name, seed, trained, evaluated) if distributed.rank() == 0 else {}
    tags = distributed.broadcast(found)
    key, title = make_key(ARM, tags), f"{name} s{seed}"
    folder = ARM.folder(config.machine.outputs, key)  # never made: it names the lock

    def is_done() -> bool:
        return distributed.rank() > 0 or tracking.find_finished(key) is not None

    # A lock file that was left: somebody was killed when all was done but its run's end.
    if distributed.broadcast(is_done() and not lock_file(folder).exists()):
        return
    with alone(folder, title) as lock:  # another command may be at the same study
        if is_done():
            return
        with tracking.stage_run(ARM.name, title, key, f"arm {title}") as run:
            lock.add(run=run.run_id)
            run.set_tags({**tags, NETWORK_TAG: network_of(trained)})
            run.log_params({"benchmark": config.benchmark, "seed": seed, **arm.knobs})
            run.describe(_describe_arm(study, name, trained, evaluated))
            run.log_metrics(read_metrics(evaluated.folder) | _cost(trained))


def _tags(
    config: Config, name: str, seed: int, trained: Product, evaluated: Product
) -> dict[str, str]:
    """Return what an arm's run is known by."""
    tags = {
        "selftrain.study": config.study.name,
        "selftrain.benchmark": config.benchmark,
        "selftrain.arm": name,
        "selftrain.seed": str(seed),
        "selftrain.trained": trained.run_id,
        "selftrain.evaluated": evaluated.run_id,
    }
    labels = tracking.finished(trained.run_id).upstream.get("pseudo_labels")
    if labels is not None:
        tags["selftrain.pseudo_labels"] = labels
    return tags


def _describe_arm(study: Study, name: str, trained: Product, evaluated: Product) -> list[str]:
    found = {"network": trained, "measured": evaluated}
    links = [f"[{it}]({tracking.page_of(product.run_id)})" for it, product in found.items()]
    paper = study.arms[name].paper
    printed = "" if paper is None else f" The paper prints {paper:g} mIoU, on its own data."
    return [
        f"The arm *{name}* of: {study.title}.{printed}",
        "",
        f"**Made from:** {', '.join(links)}",
    ]


def source_config(config: Config, study: Study, seed: int) -> Config:
    """Return the config of the networks that the study's fine-tuning starts from.

    It is the source benchmark's, with what the user has changed of how networks are trained. Its
    data are its own; where they lie is asked for apart (`study.source_root`).
    """
    source = study.sources[config.benchmark]
    others = ("machine.data_root", "machine.pool_root", "data.", "finetune.")
    changed = {
        knob: value
        for knob, value in _changed(config).items()
        if knob.startswith("data.scenes.") or not knob.startswith(others)
    }
    if config.study.source_root != "none":
        changed["machine.data_root"] = Path(config.study.source_root)
    return arm_config(override(benchmark(source), changed), study, Arm(), seed)


def _changed(config: Config) -> dict[str, Scalar]:
    """Return the knobs that the user has set to other values than the benchmark's."""
    plain = flatten(benchmark(config.benchmark))
    return {knob: value for knob, value in flatten(config).items() if value != plain[knob]}


def _trained(pipeline: Pipeline, stage: Role) -> Product:
    if stage == "teacher":
        return pipeline.teacher
    if stage == "control":
        return pipeline.control
    return pipeline.finetuned if stage == "finetune" else pipeline.student


def _cost(trained: Product) -> dict[str, float]:
    """Return what the training took, and its dev score."""
    metrics = tracking.finished(trained.run_id).metrics
    return {k: metrics[k] for k in ("train/seconds", "dev/mIoU") if k in metrics}


def _require_benchmark(study: Study, config: Config) -> None:
    name, allowed = config.benchmark, [*study.benchmarks, *study.sources]
    if allowed and name not in allowed:
        raise InputError(
            f"The study {config.study.name} makes no sense on the benchmark {name}: choose "
            f"{' or '.join(sorted(set(allowed)))}."
        )


def _require_equal_iterations(config: Config, study: Study, name: str) -> None:
    """Raise InputError unless a student's control trains as long, whatever the user has set."""
    arm = study.arms[name]
    if arm.control is None:
        return
    control = study.arms[arm.control]
    mine, theirs = (_length(arm_config(config, study, it, 0), it.stage) for it in (arm, control))
    for (knob, value), other in zip(mine.items(), theirs.values(), strict=True):
        if value != other:
            raise InputError(
                f"The arm {name} would be trained with {knob} = {value:g}, and its control "
                f"{arm.control} with {other:g}: give teacher and student the same, or the "
                "difference between them says nothing."
            )


def _length(config: Config, stage: Role) -> dict[str, float]:
    """Return what decides how many steps a network is trained."""
    trained = {
        "teacher": config.teacher,
        "control": control_config(config.student),
        "student": config.student,
        "finetune": config.finetune,
    }[stage]
    data = trained.data
    return {
        "epochs": trained.epochs,
        "optim.batch_size": trained.optim.batch_size,
        "crops for each labelled image": data.repeat * (1 + data.pseudo_ratio),
    }


def _choose(arms: Mapping[str, Arm], names: str) -> list[str]:
    if names == "all":
        return list(arms)
    wanted = [name.strip() for name in names.split(";")]
    for name in wanted:
        if name not in arms:
            raise InputError(f"study.arms: there is no arm {name}; there are {', '.join(arms)}.")
    return wanted
