"""A search for better knobs by Optuna, on dev alone; its best is then trained with fresh seeds.

A trial is the pipeline's student with other knobs, an ordinary stage found again by its key. Its
MLflow run stands beside the stage's, under the run of the command that carries it out. Several
commands carry out one search together: its name follows from what is searched.
"""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.exceptions import TrialPruned
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.study import Study as Trials
from optuna.trial import FrozenTrial, Trial, TrialState

from selftrain import distributed, progress, tracking
from selftrain.config import Config
from selftrain.errors import InputError, Stopped
from selftrain.identity import changed_knobs
from selftrain.knobs import Scalar, flatten, override
from selftrain.pipeline import Pipeline
from selftrain.registry import STUDENT, register
from selftrain.search import REASON, RETRY_OF, draw, reported, search
from selftrain.space import Space, load_space, require_valid
from selftrain.study import Arm, Study, arm_config, run_arm
from selftrain.sweep_plots import draw_study
from selftrain.sweep_storage import SharedStudy, open_study

BEST, CONTROL = "best of sweep", "control of best"
"""Arms of the runs that hold what the best config has reached with fresh seeds."""
SWEEP_TAG, TRIAL_TAG, STATE_TAG = "selftrain.sweep", "selftrain.trial", "selftrain.state"
_COMMAND = "command"
"""Attribute of a trial: the MLflow run of the command that carries it out."""
_MEASUREMENTS = 9
"""Measurements on dev of a training, at which Hyperband, with its factor of 3, may stop it."""


@dataclass(frozen=True)
class Best:
    """The trial with the highest dev mIoU."""

    trial: int
    miou: float
    """0 to 1."""
    knobs: dict[str, Scalar]


def run_sweep(config: Config, run: tracking.Run) -> Best:
    """Search, log what was found, and train the best with fresh seeds.

    Whatever an earlier start or another worker has done is not done again.

    Args:
        config: The user's; its `sweep` says what is searched, and how long.
        run: The command's own run, above those of the trials.

    Returns:
        The best of all trials so far.

    Raises:
        InputError: the space, the storage or the config does not allow a search, or no trial of
            it could be trained.
    """
    settings = config.sweep
    _require_one_process(config)
    space = load_space(settings.name)
    require_valid(space, config, f"experiments/{settings.name}.py")
    searched = _with_rungs(config)
    pipeline = Pipeline(searched)
    _require_dev(pipeline)
    data = pipeline.data
    read = (data.labelled_digest, data.pool_digest, data.dev_digest)
    name = sweep_name(searched, space, read)
    run.set_tags({SWEEP_TAG: name})
    shown = flatten(settings) | {"storage": settings.storage.partition(":")[0]}  # no password
    run.log_params({f"sweep.{knob}": value for knob, value in shown.items()})
    progress.say(f"sweep {name}")
    is_timed = settings.objective == "dev_and_time"
    shared = open_study(
        settings.storage,
        name,
        config.machine.outputs / "sweeps",
        directions=("maximize", "minimize") if is_timed else ("maximize",),
        pruner=NopPruner() if is_timed else _pruner(searched),
    )
    with shared.lock("pseudo labels"):  # one worker makes them, the others wait and find them
        pipeline.pseudo_labels  # noqa: B018  # a property that runs the stage
    search(
        shared,
        Objective(searched, space, name, shared, run),
        trials=settings.trials,
        seed=settings.seed,
        timeout=settings.timeout,
        on_lost=_kill_runs,
    )
    best = log_study(shared.study, run)
    if shared.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        progress.say("Other workers go on; the last one to stop trains the best again.")
        return best
    retrain(config, best.knobs, shared)
    return best


def sweep_name(config: Config, space: Space, data: Sequence[str]) -> str:
    """Return the name of a search: the same for commands that may carry it out together.

    It follows from what is searched, the knobs and the data. How many trials there are, and where
    they lie, may differ.

    Args:
        config: The trials' config, without what is searched.
        space: What is searched.
        data: Digests of the images and labels that trials read.
    """
    settings = config.sweep
    decides = {
        "space": repr(space),
        "objective": settings.objective,
        "seed": settings.seed,
        "data": [*data, changed_knobs(config.data)],
        "teacher": changed_knobs(config.teacher),
        "pseudo_label": changed_knobs(config.pseudo_label),
        "student": changed_knobs(config.student),
    }
    text = json.dumps(decides, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{settings.name}-{config.benchmark}-{digest}"


def _require_one_process(config: Config) -> None:
    if config.machine.processes > 1 or distributed.world_size() > 1:
        raise InputError(
            f"machine.processes = {config.machine.processes}, but a sweep trains in one process: "
            "leave it at 1 and start the command once for each GPU instead, with one storage."
        )
    if config.rounds > 1:
        raise InputError(
            f"rounds = {config.rounds}, but a trial of a sweep is one student: set rounds to 1."
        )


def _require_dev(pipeline: Pipeline) -> None:
    if not pipeline.data.splits.dev:
        raise InputError(
            f"data.train_on = {pipeline.config.data.train_on} leaves no dev split, on which a "
            "sweep chooses: set data.train_on to train."
        )


def _with_rungs(config: Config) -> Config:
    """Return the config with as many measurements on dev as Hyperband needs."""
    if config.sweep.objective == "dev_and_time":
        return config  # nothing is stopped early
    every = max(1, config.student.epochs // _MEASUREMENTS)
    return override(config, {"student.eval_every": every})


def _pruner(config: Config) -> BasePruner:
    student = config.student
    return HyperbandPruner(min_resource=student.eval_every, max_resource=student.epochs)


def _kill_runs(lost: FrozenTrial) -> None:
    if _COMMAND in lost.user_attrs:
        tracking.kill_runs_of(lost.user_attrs[_COMMAND], {STATE_TAG: TrialState.FAIL.name})


@dataclass(frozen=True)
class Objective:
    """Trains the student of a trial and returns what it has reached on dev."""

    config: Config
    space: Space
    name: str
    """Of the search."""
    shared: SharedStudy
    command: tracking.Run

    def __call__(self, trial: Trial) -> Sequence[float]:
        """Return (dev mIoU,) or (dev mIoU, seconds of training).

        Raises:
            TrialPruned: Hyperband has stopped it.
            InputError: its parameters cannot be trained.
        """
        trial.set_user_attr(_COMMAND, self.command.run_id)
        drawn = draw(self.space, trial)
        tags = {SWEEP_TAG: self.name, TRIAL_TAG: str(trial.number)}
        try:
            with tracking.trial_run(self.command, f"trial {trial.number}", tags) as run:
                state = TrialState.FAIL
                try:
                    run.log_params({"benchmark": self.config.benchmark, **trial.params})
                    values = self._train(trial, drawn, run, tags)
                    state = TrialState.COMPLETE
                except Stopped:
                    state = TrialState.PRUNED
                    raise
                finally:
                    run.set_tags({STATE_TAG: state.name})
        except Stopped:
            progress.say(f"trial {trial.number}: stopped early")
            # Raised here, where no run is open: inside one it would mark the run as FAILED.
            raise TrialPruned from None
        return values

    def _train(
        self, trial: Trial, drawn: dict[str, Scalar], run: tracking.Run, tags: dict[str, str]
    ) -> tuple[float, ...]:
        watch = DevWatch(trial, run, tags, epochs=self.config.student.epochs)
        for epochs, miou in sorted(reported(trial).items()):
            watch.look(epochs, miou)  # a retry goes on from the lost one's checkpoint
        config = override(self.config, drawn)
        # Two workers with one config would write into one folder: the second finds the product.
        with self.shared.lock(f"student {sorted(drawn.items())}"):
            product = Pipeline(config, on_dev=watch).student
        if not product.is_reused:
            tracking.Run(product.run_id).set_tags(tags)
        run.set_tags({"selftrain.trained": product.run_id})
        for step, miou in tracking.metric_steps(product.run_id, "dev/mIoU").items():
            watch.log(step, miou)
        metrics = tracking.finished(product.run_id).metrics
        values = [metrics["dev/mIoU"]]
        if self.config.sweep.objective == "dev_and_time":
            if "train/seconds" not in metrics:
                raise InputError(
                    f"Run {product.run_id} does not say how long it trained: delete it "
                    f"(mlflow runs delete --run-id {product.run_id}), and it is made anew."
                )
            values.append(metrics["train/seconds"])
            run.log_metrics({"train/seconds": values[1]})
        progress.say(f"trial {trial.number}: dev mIoU {100 * values[0]:.2f}")
        return tuple(values)


class DevWatch:
    """Is told each measurement on dev of a training, and stops it if Hyperband says so."""

    def __init__(
        self, trial: Trial, run: tracking.Run, tags: dict[str, str], *, epochs: int
    ) -> None:
        self._trial, self._run, self._tags, self._epochs = trial, run, tags, epochs
        self._logged: set[int] = set()
        self._prunes = len(trial.study.directions) == 1

    def __call__(self, epochs: int, miou: float) -> None:
        """Report a measurement after so many epochs; called while the stage's run is open.

        Raises:
            Stopped: the trial is not worth going on with.
        """
        tracking.active_run().set_tags(self._tags)
        self.look(epochs, miou)

    def look(self, epochs: int, miou: float) -> None:
        """Report a measurement; the last epoch's stops nothing."""
        is_new = epochs - 1 not in self._logged
        self.log(epochs - 1, miou)
        if self._prunes and is_new:
            self._trial.report(miou, epochs)
            if epochs < self._epochs and self._trial.should_prune():
                raise Stopped(f"after {epochs} epochs")

    def log(self, step: int, miou: float) -> None:
        """Log a measurement in the trial's run, at the step at which its training has it."""
        if step not in self._logged:
            self._run.log_metrics({"dev/mIoU": miou}, step=step)
            self._logged.add(step)


def log_study(study: Trials, run: tracking.Run) -> Best:
    """Log the trials, pictures of them and the best config in the command's run.

    Returns:
        The best: of two objectives, that of the highest dev mIoU on the front.

    Raises:
        InputError: no trial is complete.
    """
    trials = study.get_trials(deepcopy=False)
    run.log_text(_table(trials), "trials.csv")
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        reasons = [trial.user_attrs[REASON] for trial in trials if REASON in trial.user_attrs]
        raise InputError(
            f"None of {len(trials)} trials is complete, so there is no best one: mend what the "
            f"first says ({reasons[0] if reasons else 'none has ended'}), or raise sweep.trials."
        )
    best = max(complete, key=lambda trial: (trial.values[0], -trial.number))
    knobs: dict[str, Scalar] = {knob: v for knob, v in best.params.items() if "." in knob}
    for name, figure in draw_study(study, front_of="student.crop.schedule"):
        run.log_figure(figure, f"sweep/{name}.png")
    run.log_json(knobs, "best.json")
    flags = " ".join(f"--{knob} {value}" for knob, value in knobs.items())
    run.log_text(flags, "best_flags.txt")
    run.log_metrics({"best/dev/mIoU": best.values[0], "best/trial": best.number})
    states = [f"{sum(it.state == state for it in trials)} {state.name}" for state in TrialState]
    progress.say(f"trials: {', '.join(states)}")
    progress.say(f"best: trial {best.number}, dev mIoU {100 * best.values[0]:.2f}: {flags}")
    return Best(best.number, best.values[0], knobs)


def _table(trials: Sequence[FrozenTrial]) -> str:
    """Return a row for each trial as CSV."""
    params = sorted({name for trial in trials for name in trial.params})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "dev/mIoU", "train/seconds", RETRY_OF, *params, REASON])
    for trial in trials:
        values = [*(trial.values or ()), "", ""][:2]
        retries = " ".join(map(str, trial.user_attrs.get(RETRY_OF, ())))
        drawn = [trial.params.get(name, "") for name in params]
        reason = trial.user_attrs.get(REASON, "")
        writer.writerow([trial.number, trial.state.name, *values, retries, *drawn, reason])
    return text.getvalue()


def retrain(config: Config, best: dict[str, Scalar], shared: SharedStudy) -> None:
    """Train the best config and its equal-iteration control with seeds that chose nothing.

    Workers that end at the same time share the trainings. The student of the first seed is
    registered: its dev mIoU is not the highest of many, as that of the trial is which has won.

    Args:
        config: The user's, without the best knobs.
        best: Knobs that the search has found.
        shared: The search.
    """
    study = Study(
        title="The best of a sweep, with fresh seeds",
        arms={BEST: Arm(best, control=CONTROL), CONTROL: Arm(best, stage="control")},
    )
    named = override(config, {"study.name": config.sweep.name})
    seeds = fresh_seeds(config)
    for seed in seeds:
        for arm in study.arms:
            with shared.lock(f"{arm} {seed}", wait=False) as is_free:
                if is_free:
                    run_arm(named, study, arm, seed)
                    if arm == BEST and seed == seeds[0]:
                        _register(arm_config(named, study, study.arms[arm], seed))
                else:
                    progress.say(f"{arm}, seed {seed}: another worker trains it")


def _register(config: Config) -> None:
    pipeline = Pipeline(config)  # whose student is found: it was just trained
    classes = pipeline.data.splits.classes.names
    register(config, classes, [(pipeline.student.run_id, STUDENT)])


def fresh_seeds(config: Config) -> list[int]:
    """Return the lowest seeds that no training of the search has used."""
    used = {config.teacher.seed, config.student.seed}
    unused = (seed for seed in range(config.sweep.retrain + len(used)) if seed not in used)
    return list(unused)[: config.sweep.retrain]
