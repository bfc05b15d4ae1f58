"""Self-training (Figure 1) as three calls: teacher -> pseudo labels -> student.

Each is a stage that is run once and found again by its key. A product's key stands in the
identity of what is made from it, so keys chain: another teacher means other pseudo labels and
another student, and nothing else is made anew.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from selftrain import distributed, progress, summary, tracking
from selftrain.audit.record import measure_once
from selftrain.benchmarks import benchmark
from selftrain.clean_pool import require_clean_pool, require_new_to_teacher, write_labelled
from selftrain.config import Config, EpochConfig, TrainConfig
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.datasets import OpenData, open_data
from selftrain.descriptions import Facts
from selftrain.errors import InputError
from selftrain.evaluate import evaluate
from selftrain.identity import changed_knobs, decides_labels, decides_training
from selftrain.knobs import flatten, override
from selftrain.lineage_record import note_lineage
from selftrain.machine import count_workers, describe
from selftrain.prepare import prepare, scan_splits
from selftrain.presentation import of_evaluation, of_labels, of_preparation, of_training, present
from selftrain.pseudo_label import label_pool
from selftrain.run_names import name_training
from selftrain.stage import Make, Product, Stage, make_key, open_product, run_stage
from selftrain.summary import Made
from selftrain.train import OnDev, train
from selftrain.trained_runs import (
    TRAIN,
    dev_miou,
    open_fitting,
    start_of,
    weights_of,
    with_weights,
)
from selftrain.training_data import gather

PREPARE = Stage("prepare", version=2)
PSEUDO_LABEL = Stage("pseudo_label", version=2)
EVALUATE = Stage("evaluate", version=1)


def control_config(student: TrainConfig) -> TrainConfig:
    """Return the equal-iteration control: the student on as many crops, all of them real.

    Without it a student's gain cannot be told from that of training longer (Table 2b).
    """
    data = student.data
    crops = data.repeat * (1 + data.pseudo_ratio)
    return dataclasses.replace(student, data=EpochConfig(repeat=crops))


@dataclass(frozen=True)
class Pipeline:
    """The stages of one config; each is run at most once, when it is first asked for."""

    config: Config
    promoted: Product | None = None
    """The student of the round before, which is this round's teacher."""
    round: int = 1
    """Counts the students in a row (Config.rounds)."""
    on_dev: OnDev | None = None
    """Told what a student reaches on dev while it is trained; may raise `Stopped`."""
    opened: OpenData | None = None
    """The benchmark's samples, where another round has them already."""

    @property
    def outputs(self) -> Path:
        """Folder for the stages' products."""
        return self.config.machine.outputs

    @cached_property
    def data(self) -> OpenData:
        """The benchmark's samples."""
        return self.opened or open_data(self.config)

    @cached_property
    def prepared(self) -> Product:
        """The data's summary: counts, class pixels, pictures."""
        data, title = self.data, self.config.benchmark
        # Before any digest is asked for: a missing file is then one in a list of all mistakes.
        frames = scan_splits(
            data.splits,
            data.reader,
            title=title,
            tile=data.config.tile,
            workers=count_workers(self.config.machine) + 1,  # this process is idle meanwhile
            cache=data.cache,
            digests=data.digests,
        )

        def make(folder: Path, run: tracking.Run) -> None:
            _log_labelled(data, run)
            self._log_pool(run)
            self._log_evaluation(run)
            prepare(data.splits, frames, data.reader, folder, run, title=title)

        identity = {
            **self.data.inputs(),
            "labelled": self.data.labelled_digest,
            "pool": self.data.pool_digest,
            "dev": self.data.dev_digest,
            "evaluation": self.data.evaluation_digests,
            "to submit": self.data.to_submit_digest,
        }
        return self._run(PREPARE, identity, make, "prepare", of_preparation(self.config))

    @cached_property
    def teachers(self) -> list[Product]:
        """Figure 1a: a network trained on the labelled images; or the runs that are named."""
        if self.promoted is not None:
            return [self.promoted]
        named = self.config.pseudo_label.teacher
        if named == "none":
            return [self._train(self.config.teacher, "teacher", "teacher")]
        knob = "pseudo_label.teacher"
        found = [open_fitting(name, knob, self.data, self.outputs) for name in named.split("+")]
        if len({teacher.key for teacher in found}) < len(found):
            raise InputError(f"{knob} = {named} names a network twice: name each once.")
        return sorted(found, key=lambda teacher: teacher.key)  # their order decides nothing

    @property
    def teacher(self) -> Product:
        """The teacher, where there is one.

        Raises:
            InputError: several are named.
        """
        if len(self.teachers) > 1:
            raise InputError(
                f"pseudo_label.teacher = {self.config.pseudo_label.teacher} names "
                f"{len(self.teachers)} networks, but one is measured here: name one, or run the "
                "stages pseudo_label and student, which take several."
            )
        return self.teachers[0]

    @cached_property
    def pseudo_labels(self) -> Product:
        """Figure 1b: the teachers' labels for the pool."""
        if self.config.pseudo_label.job() not in ((0, 1), None):
            raise InputError(
                f"pseudo_label.shard = {self.config.pseudo_label.shard} labels a part of the pool: "
                "run the stage pseudo_label with it, then with merge, before students are trained."
            )
        self._require_clean_pool()
        teachers, config, data = self.teachers, self.config.pseudo_label, self.data

        def make(folder: Path, run: tracking.Run) -> None:
            self._log_pool(run)
            self._label(folder, run)

        if config.measure and not data.splits.pool_with_labels:
            raise InputError(
                "The pool has no labels to measure with: set pseudo_label.measure to false."
            )
        title = self._in_round("pseudo labels")
        promoted = "" if self.promoted is None else self.name_of("student", self.round - 1)
        facts = of_labels(title, self.config, teachers, promoted)
        product = self._run(PSEUDO_LABEL, self._labels_identity(), make, title, facts)
        if product.is_reused:
            product = self._mended(product)
        if config.measure and distributed.rank() == 0:
            measure_once(product.folder, data.splits, data.reader, tracking.Run(product.run_id))
        return product

    def _mended(self, product: Product) -> Product:
        """Return the set; one that is damaged is fetched from its run again."""
        if distributed.rank() == 0:
            try:
                PseudoLabelSet.open(product.folder)
            except InputError as error:
                progress.say(f"{error} It is fetched from its run.")
                shutil.rmtree(product.folder)
        distributed.barrier()
        return open_product(PSEUDO_LABEL, product.key, product.run_id, self.outputs)

    def label_part(self, run: tracking.Run) -> Path:
        """Label the shards of one of several jobs, `pseudo_label.shard` = K/N.

        The jobs write into one folder. `merge` makes the set of what they have written.

        Returns:
            The folder.

        Raises:
            InputError: the teacher is still to be trained: N jobs would train it N times.
        """
        config = self.config
        if config.pseudo_label.teacher == "none":
            identity = self._training_identity(
                config.teacher, None, start_of(config.teacher, "teacher", self.outputs)
            )
            key = make_key(TRAIN, identity)
            found = tracking.find_finished(key) if distributed.rank() == 0 else ""
            if distributed.broadcast(found) is None:
                raise InputError(
                    "The teacher is not trained yet, and each job would train it: run the stage "
                    "teacher first."
                )
        self._require_clean_pool()
        key = make_key(PSEUDO_LABEL, self._labels_identity())
        folder = PSEUDO_LABEL.folder(self.outputs, key)
        found = tracking.find_finished(key) if distributed.rank() == 0 else ""
        if distributed.broadcast(found) is None:
            self._label(folder, run)
        else:
            progress.say(f"The set is whole already: {folder}")
        return folder

    def _require_clean_pool(self) -> None:
        allow_labelled = self.config.pseudo_label.allow_labelled
        require_clean_pool(self.data, allow_labelled=allow_labelled)  # before a teacher is trained
        for teacher in () if allow_labelled else self.teachers:
            require_new_to_teacher(self.data, teacher.folder)

    def _label(self, folder: Path, run: tracking.Run) -> None:
        data, teachers = self.data, self.teachers
        label_pool(
            self.config.pseudo_label,
            data.splits,
            data.reader,
            [teacher.folder for teacher in teachers],
            self.config.machine,
            folder,
            run,
            teacher_keys=[teacher.key for teacher in teachers],
            pool_digest=data.pool_digest,
            tile=data.config.tile,
            real_pixels=data.labelled_pixels,
        )

    def _labels_identity(self) -> dict[str, object]:
        keys = [teacher.key for teacher in self.teachers]
        return {
            **self.data.inputs(),
            **decides_labels(self.config.pseudo_label),
            "teacher": keys[0] if len(keys) == 1 else keys,
            "pool": self.data.pool_digest,
        }

    @cached_property
    def student(self) -> Product:
        """Figure 1c: a network trained on real and pseudo labels together.

        With `rounds` above 1 each student labels the pool for the next one, as long as dev mIoU
        rises. The last one that rose is returned, at least the first.
        """
        title, rounds = self._in_round("student"), self.config.rounds
        student = self._train(self.config.student, title, "student")
        if rounds == 1:
            return student
        before = max(dev_miou(teacher) for teacher in self.teachers)
        reached = dev_miou(student)
        step = f"round {self.round} of {rounds}: dev mIoU {100 * before:.2f} -> {100 * reached:.2f}"
        if reached <= before:
            progress.say(f"{step}, no rise: this was the last round")
            return student if self.round == 1 else self.teachers[0]
        if self.round == rounds:
            progress.say(step)
            return student
        progress.say(f"{step}: the student becomes the teacher")
        return self._next_round(student)

    @cached_property
    def control(self) -> Product:
        """The student's equal-iteration control."""
        # Its record starts it again as a student of other values.
        return self._train(control_config(self.config.student), "control", "student")

    def _next_round(self, student: Product) -> Product:
        following = dataclasses.replace(
            self, promoted=student, round=self.round + 1, opened=self.data
        )
        return following.student

    def name_of(self, role: str, number: int | None = None) -> str:
        """Return what the run of a network of this pipeline is called.

        Args:
            role: teacher, student or control.
            number: Of the round, of a student; None: of this one.
        """
        number = self.round if number is None else number
        config = {
            "teacher": self.config.teacher,
            "student": self.config.student,
            "control": control_config(self.config.student),
        }[role]
        title = role if role != "student" or number == 1 else f"student of round {number}"
        usual = self._usual.teacher if role == "teacher" else self._usual.student
        return name_training(title, config, usual)

    @property
    def _usual(self) -> Config:
        return benchmark(self.config.benchmark)

    def _in_round(self, title: str) -> str:
        return title if self.round == 1 else f"{title} of round {self.round}"

    def _log_pool(self, run: tracking.Run) -> None:
        names = [sample.name for sample in self.data.splits.unlabelled]
        digest = self.data.pool_digest
        run.log_dataset(names, name="pool", digest=digest, context="unlabelled")

    def _log_evaluation(self, run: tracking.Run) -> None:
        for split, samples in self.data.splits.evaluation.items():
            names = [sample.name for sample in samples]
            digest = self.data.evaluation_digests[split]
            run.log_dataset(names, name=split, digest=digest, context="evaluation")

    def evaluate(self, model: Product, title: str) -> Product:
        """Measure a trained network on the evaluation splits."""
        data, config = self.data, self.config.evaluate

        def make(folder: Path, run: tracking.Run) -> None:
            self._log_evaluation(run)
            evaluate(
                config, data.splits, data.reader, model.folder, self.config.machine, folder, run
            )

        identity = {
            **data.inputs(),
            **changed_knobs(dataclasses.replace(config, model="none")),
            "model": model.key,
            "evaluation": data.evaluation_digests,
            **({"to submit": data.to_submit_digest} if config.submission else {}),
        }
        facts = self._facts_of_evaluation(model, title)
        return self._run(EVALUATE, identity, make, f"evaluate {title}", facts)

    def _facts_of_evaluation(self, model: Product, title: str) -> Facts:
        named = self.config.evaluate.model
        if title == "model":
            if named != "none":
                return of_evaluation(f"run {model.run_id[:8]}", None, model)
            title = "student"
        seed = self.config.teacher.seed if title == "teacher" else self.config.student.seed
        is_role = title in ("teacher", "student", "control")
        return of_evaluation(self.name_of(title) if is_role else title, seed, model)

    def model_to_evaluate(self) -> Product:
        """Return the run that `evaluate.model` names, or the student."""
        named = self.config.evaluate.model
        if named == "none":
            return self.student
        return open_fitting(named, "evaluate.model", self.data, self.outputs)

    @cached_property
    def finetuned(self) -> Product:
        """A network that goes on from another run's on the labelled images (Figure 3).

        Without `finetune.start` it starts from the backbone's weights, for comparison.
        """
        return self._train(self.config.finetune, "finetune", "finetune")

    def _training_identity(
        self, config: TrainConfig, pseudo: Product | None, start: Product | None
    ) -> dict[str, object]:
        data = self.data
        return {
            **data.inputs(),
            **decides_training(with_weights(config, self.outputs)),
            "labelled": data.labelled_digest,
            "dev": data.dev_digest,
            "pseudo_labels": pseudo.key if pseudo else None,
            **({"start": start.key} if start else {}),
        }

    def _train(self, config: TrainConfig, title: str, section: str) -> Product:
        """Train, or find what was trained.

        Args:
            config: What is trained.
            title: What the product is called.
            section: Of the config, that `config` belongs to.
        """
        data = self.data
        start = start_of(config, section, self.outputs)
        pseudo = self.pseudo_labels if config.data.pseudo_ratio > 0 else None

        def make(folder: Path, run: tracking.Run) -> None:
            _log_labelled(data, run)
            if pseudo is not None:
                names = [sample.name for sample in data.splits.unlabelled]
                run.log_dataset(names, name="pseudo", digest=pseudo.key, context="train")
            if distributed.rank() == 0:
                before = [trained.folder for trained in (start, weights) if trained is not None]
                write_labelled(folder, data, before)
            training_data = gather(
                config,
                data,
                self.config.machine,
                run,
                labels=PseudoLabelSet.open(pseudo.folder) if pseudo else None,
                start=start.folder if start else None,
            )
            train(
                with_weights(config, self.outputs),
                training_data,
                self.config.machine,
                folder,
                run,
                title=title,
                on_dev=self.on_dev if title == "student" else None,
            )

        identity = self._training_identity(config, pseudo, start)
        record = override(self.config, {f"{section}.{k}": v for k, v in flatten(config).items()})
        weights = weights_of(config, self.outputs)
        sources = {"start": start, "backbone_weights": weights, "pseudo_labels": pseudo}
        made_from = {what: it.run_id for what, it in sources.items() if it is not None}
        facts = of_training(title, config, section, self._usual, made_from)
        product = self._run(TRAIN, identity, make, title, facts, record)
        if not product.is_reused:
            note_lineage(product.run_id)
        return product

    def _run(
        self,
        stage: Stage,
        identity: Mapping[str, object],
        make: Make,
        title: str,
        facts: Facts,
        record: Config | None = None,
    ) -> Product:
        def make_and_log(folder: Path, run: tracking.Run) -> None:
            present(run, facts, record or self.config, self.data)
            run.set_tags(describe(self.config.machine))
            make(folder, run)

        product = run_stage(
            stage,
            identity,
            make_and_log,
            outputs=self.outputs,
            title=title,
            name=facts.name,
            config=flatten(record or self.config),
        )
        summary.note(
            Made(
                title=title,
                stage=stage.name,
                key=product.key,
                folder=product.folder,
                run=product.run_id,
                is_found=product.is_reused,
            )
        )
        return product


def _log_labelled(data: OpenData, run: tracking.Run) -> None:
    names = [sample.name for sample in data.splits.labelled]
    run.log_dataset(names, name="real", digest=data.labelled_digest, context="train")
    names = [sample.name for sample in data.splits.dev]
    run.log_dataset(names, name="dev", digest=data.dev_digest, context="dev")
