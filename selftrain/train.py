"""The one training loop: teacher, student and control are this with another config.

An epoch: draw its crops (`plan_epoch`), cut them into batches, step through them, save a
checkpoint. The training may be interrupted after any step (`resume.py`), and goes on with the next
one (`training.py`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from torch import Tensor

from selftrain import checkpoint, distributed, progress, signals, tracking
from selftrain.config import MachineConfig, TrainConfig
from selftrain.data.augment import Augmentation
from selftrain.data.dataset import EpochBatches, SegmentationDataset, make_loader
from selftrain.data.strong_augment import StrongAugmentation
from selftrain.epochs import Epoch, snapshot_epochs
from selftrain.errors import InputError, LostWorker, Terminated
from selftrain.files import write_atomically
from selftrain.machine import count_workers
from selftrain.metrics import ConfusionMatrix
from selftrain.pictures import confusion_figure
from selftrain.resume import GO_ON, KEEP, Pace
from selftrain.training import Training, TrainingData

__all__ = ["OnDev", "Training", "TrainingData", "train"]

OnDev = Callable[[int, float], None]


def train(
    config: TrainConfig,
    data: TrainingData,
    machine: MachineConfig,
    folder: Path,
    run: tracking.Run,
    *,
    title: str,
    on_dev: OnDev | None = None,
) -> None:
    """Train a network and leave it, its history and its dev scores in `folder` and in the run.

    A checkpoint in the folder is continued. The last epoch's weights are the result: no epoch
    is chosen by its score. With `snapshots` above 0 the folder holds earlier ones beside it
    (`checkpoint.snapshots`), and so does the logged model.

    Raises:
        Stopped: by `on_dev`, which is told the epochs done and the mIoU of each measurement on
            dev but the last, those before an interruption included; the checkpoint stays.
        Terminated: a signal asks to end; what is done is in the checkpoint, but for a step.
        InputError: a loss or the network is no number, the checkpoint is damaged or another
            training's, or a process that reads images was killed.
    """
    training = Training(config, data, machine)
    saved = checkpoint.load_checkpoint(folder, training.device)
    if saved is not None:
        _restore(training, saved, folder, title)
    training.warm()
    for row in training.history:
        _log(run, row)  # the run of the interrupted attempt is not this one
        _tell(on_dev, row, config)  # it may have ended before it could say so
    for number, pictures in training.examples.drawn.items():
        run.log_images(pictures, step=number)
    batches = EpochBatches()
    loader = make_loader(
        SegmentationDataset(
            [*data.real, *data.pseudo],
            replace(data.reader, keep_from=data.keep_from),
            _augmentation(config),
            strong=_strong_augmentation(config),
            with_confidence=config.loss.confidence_gamma > 0,
            with_soft=config.loss.soft,
        ),
        batches,
        workers=count_workers(machine),
        pin_memory=training.device.type == "cuda",
    )
    done = sum(epoch.steps for epoch in training.epochs[: training.next_epoch])
    pace = Pace(machine.checkpoint_minutes, training.device)
    done += training.steps_done
    with progress.bar(title, training.total_steps, done=done, unit="crops") as bar:
        for epoch in training.epochs[training.next_epoch :]:
            batches.batches = training.batches(epoch)[training.steps_done :]
            left = loader if batches.batches else ()  # the last attempt ended at its last step
            try:
                row = _step_through(training, epoch, left, bar, pace, folder)
                is_last = epoch.number + 1 == config.epochs  # measured when all is done
                if data.dev and not is_last and (epoch.number + 1) % config.eval_every == 0:
                    row |= _dev_metrics(training.measure_dev())
                drawn = {} if is_last else dict(training.draw_dev(epoch.number))
                with signals.deferred():
                    _end_epoch(training, row, folder)
                    pace.begin()
                # Now that it is kept: the store may refuse it.
                run.log_images(drawn, step=epoch.number)
                _log(run, row)
            except (Terminated, LostWorker) as error:
                _interrupt(training, epoch, folder, error)
            _tell(on_dev, row, config)
    matrix = training.measure_dev()  # by all ranks
    if distributed.rank() == 0:
        _finish(training, matrix, folder, run)
    distributed.barrier()


def _restore(training: Training, saved: Mapping[str, Any], folder: Path, title: str) -> None:
    try:
        training.load_state(saved)
    except InputError as error:
        raise InputError(f"{folder / checkpoint.CHECKPOINT}: {error}") from error
    step = f", after {training.steps_done} of its steps" if training.steps_done else ""
    of = training.config.epochs
    progress.say(f"{title}: goes on with epoch {training.next_epoch} of {of}{step}")


def _step_through(
    training: Training,
    epoch: Epoch,
    batches: Iterable[tuple[Tensor, ...]],
    bar: progress.Bar,
    pace: Pace,
    folder: Path,
) -> dict[str, float]:
    """Take the steps of an epoch and return its row of the history.

    Raises:
        Terminated: after a step, the same on all ranks; the training is not kept yet.
    """
    with signals.deferred() as asked:

        def look() -> None:
            decision = pace.decide(asked.signal)
            if decision == GO_ON:
                return
            if decision != KEEP:
                asked.obey(-decision)
            _keep(training, epoch, folder)

        row = training.train_epoch(epoch, batches, bar, look)
    training.require_finite_network(epoch)  # before it is measured or kept
    return {"epoch": float(epoch.number), **row}


def _end_epoch(training: Training, row: dict[str, float], folder: Path) -> None:
    training.end_epoch(row)
    if distributed.rank() == 0:
        # First: with its checkpoint an epoch is done, and is not done again.
        if training.next_epoch in snapshot_epochs(training.config):
            training.save(checkpoint.snapshot_folder(folder, training.next_epoch))
        checkpoint.save_checkpoint(folder, training.state())


def _keep(training: Training, epoch: Epoch, folder: Path) -> None:
    """Write a checkpoint inside an epoch; by all ranks together, but after its last step."""
    begun = training.begun
    is_inside = begun is not None and begun.steps < epoch.steps
    generators = distributed.gather(training.random_states()) if is_inside else []
    if distributed.rank() == 0:
        checkpoint.save_checkpoint(folder, training.state(generators))
    if is_inside:
        distributed.barrier()


def _interrupt(
    training: Training, epoch: Epoch, folder: Path, error: Terminated | LostWorker
) -> NoReturn:
    """Keep what is done of an epoch, and raise the error with that.

    Raises:
        Terminated: if that is the error.
        InputError: else.
    """
    begun = training.begun
    steps = begun.steps if begun is not None else training.steps_done
    if training.next_epoch > epoch.number:  # its end was put off, and not torn
        steps = epoch.steps
    at = f"step {epoch.first_step + steps} in epoch {epoch.number}"
    # One rank that has lost a process cannot keep the training: the others wait elsewhere.
    is_together = isinstance(error, Terminated) or distributed.world_size() == 1
    if begun is not None and steps > 0 and is_together:
        with signals.deferred():
            _keep(training, epoch, folder)
    if isinstance(error, LostWorker):
        raise LostWorker(f"After {at}: {error}") from None
    is_kept = epoch.first_step + steps > 0
    raise Terminated(error.signal, f"the checkpoint of {at} is written" if is_kept else "")


def _finish(training: Training, matrix: ConfusionMatrix, folder: Path, run: tracking.Run) -> None:
    """Write and log the product."""
    if training.data.dev:
        names = training.data.reader.classes.names
        per_class = {f"dev/IoU/{name}": iou for name, iou in zip(names, matrix.iou(), strict=True)}
        training.history[-1] |= _dev_metrics(matrix)
        last = training.config.epochs - 1
        run.log_metrics(_dev_metrics(matrix), step=last)
        # Without a step: MLflow then draws bars, side by side for the runs that are compared.
        run.log_metrics(per_class)
        run.log_images(training.draw_dev(last), step=last)
        run.log_figure(confusion_figure(matrix.matrix, names), "dev_confusion.png")
    seconds = sum(row["train/epoch_seconds"] for row in training.history)
    run.log_metrics({"train/seconds": seconds})
    table = pd.DataFrame(training.history).to_csv(index=False)
    run.log_text(table, "history.csv")
    write_atomically(folder / "history.csv", table.encode())
    training.save(folder)
    run.log_model(folder)  # with its snapshots
    checkpoint.drop_older_checkpoint(folder)


def _dev_metrics(matrix: ConfusionMatrix) -> dict[str, float]:
    return {"dev/mIoU": matrix.miou(), "dev/accuracy": matrix.accuracy()}


def _log(run: tracking.Run, row: Mapping[str, float]) -> None:
    run.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))


def _tell(on_dev: OnDev | None, row: Mapping[str, float], config: TrainConfig) -> None:
    epochs = int(row["epoch"]) + 1
    if on_dev is not None and "dev/mIoU" in row and epochs < config.epochs:
        on_dev(epochs, row["dev/mIoU"])


def _augmentation(config: TrainConfig) -> Augmentation:
    augment = config.augment
    return Augmentation(
        scale_min=augment.scale_min,
        scale_max=augment.scale_max,
        flip=augment.flip,
        jitter=0.0 if augment.on_device else augment.jitter,
        blur=0.0 if augment.on_device else augment.blur,
    )


def _strong_augmentation(config: TrainConfig) -> StrongAugmentation:
    strong = config.strong
    return StrongAugmentation(
        jitter=strong.jitter, gray=strong.gray, blur=strong.blur, cutout=strong.cutout
    )
