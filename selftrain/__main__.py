"""`python -m selftrain STAGE --dotted.path value ...`: run a stage and all that it needs."""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pandas import DataFrame

from selftrain import comparison, distributed, progress, signals, tracking
from selftrain import inspect_pseudo_labels as inspection
from selftrain.checkpoint import CARD, NETWORK
from selftrain.command_line import parse
from selftrain.config import Config
from selftrain.data.digests import digest_samples
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.errors import InputError, Terminated, printable
from selftrain.evaluate import read_metrics
from selftrain.export import export
from selftrain.files import is_folder
from selftrain.knobs import flatten
from selftrain.launch import launch, needs_launch
from selftrain.machine import count_workers, describe, enough_memory, enough_space
from selftrain.pipeline import Pipeline
from selftrain.predict import list_pictures, predict, predict_video
from selftrain.prepare import say_summary
from selftrain.sources import export_scenes
from selftrain.stage import PRODUCT, Product
from selftrain.study import run_study
from selftrain.sync import sync
from selftrain.video import digest_video, is_video

Action = Callable[[Pipeline, tracking.Run], None]


def _prepare(pipeline: Pipeline, run: tracking.Run) -> None:
    """Draw or read the benchmark's data, check them and summarise them."""
    config = pipeline.config
    if config.prepare.export == "cityscapes":
        if config.data.dataset != "cityscapes":
            raise InputError(
                "prepare.export = cityscapes draws the data of the benchmark cityscapes, but this "
                f"is {config.benchmark}: add --benchmark cityscapes, and a machine.data_root for "
                "the drawn files."
            )
        scenes, root = config.data.scenes, config.machine.data_root
        export_scenes(scenes, root, count_workers(config.machine))
    product = pipeline.prepared
    if config.prepare.cache == "raw":
        pipeline.data.build_raw_cache(count_workers(config.machine))
    say_summary(product.folder)


def _teacher(pipeline: Pipeline, run: tracking.Run) -> None:
    """Train the teacher on the labelled images."""
    _finish(pipeline.teacher, run)


def _pseudo_label(pipeline: Pipeline, run: tracking.Run) -> None:
    """Label the unlabelled pool with the teacher."""
    config = pipeline.config.pseudo_label
    if config.job() in ((0, 1), None):
        _finish(pipeline.pseudo_labels, run)
        return
    folder = pipeline.label_part(run)
    progress.say(
        f"job {config.shard} is done: {folder}. When all are, make the set of their shards by the "
        "same command with --pseudo_label.shard merge"
    )


def _student(pipeline: Pipeline, run: tracking.Run) -> None:
    """Train the student on real and pseudo labels."""
    _finish(pipeline.student, run)


def _study(pipeline: Pipeline, run: tracking.Run) -> None:
    """Run a table or figure of the paper: its arms, with several seeds."""
    failed = run_study(pipeline.config, run)
    if failed:
        raise InputError(f"{len(failed)} arms failed: {'; '.join(failed)}")


def _sweep(pipeline: Pipeline, run: tracking.Run) -> None:
    """Search better knobs by Optuna on dev, and train the best with fresh seeds."""
    from selftrain.sweep import run_sweep  # Optuna takes 0.7 s to import

    run_sweep(pipeline.config, run)


def _inspect(pipeline: Pipeline, run: tracking.Run) -> None:
    """Show what a set of pseudo labels holds, and draw one of its images."""
    config = pipeline.config.inspect_pseudo_labels
    with tempfile.TemporaryDirectory() as temporary:
        labels = PseudoLabelSet.open(_find_set(config.labels, Path(temporary)), verify=True)
        progress.say(inspection.describe(labels))
        if config.image != "none":
            pool = {sample.name: sample for sample in pipeline.data.splits.unlabelled}
            image = pool[config.image].image if config.image in pool else None
            for path in inspection.draw(labels, config.image, image, config.output):
                progress.say(f"written: {path}")


def _find_set(name: str, temporary: Path) -> Path:
    """Return the folder of a set named as a folder, a run id, or an MLflow URI."""
    if is_folder(name):
        return Path(name)
    if name == "none":
        raise InputError("inspect_pseudo_labels.labels is not set: name a run id or a folder.")
    if ":/" not in name:
        name = f"runs:/{tracking.finished(name).run_id}"
    if name.startswith("runs:/") and name.count("/") == 1:
        name += f"/{PRODUCT}"
    return tracking.download(name, temporary)


def _finetune(pipeline: Pipeline, run: tracking.Run) -> None:
    """Train on a benchmark's labels, from any teacher or student."""
    if pipeline.config.finetune.start == "none":
        raise InputError(
            "finetune.start is not set: name the run of a teacher or a student, as in "
            "--finetune.start RUN_ID."
        )
    _finish(pipeline.finetuned, run)


def _evaluate(pipeline: Pipeline, run: tracking.Run) -> None:
    """Measure a model on the evaluation splits."""
    product = pipeline.evaluate(pipeline.model_to_evaluate(), "model")
    _finish(product, run)
    if distributed.rank() == 0:
        metrics = read_metrics(product.folder)
        comparison.show(_table(pipeline, {"model": metrics}), "IoU in percent")
        run.log_metrics(metrics)


def _predict(pipeline: Pipeline, run: tracking.Run) -> None:
    """Write masks and overlays for pictures, or an overlay video."""
    config = pipeline.config
    run.log_params({f"predict.{knob}": value for knob, value in flatten(config.predict).items()})
    run.set_tags(describe(config.machine))
    place, output = config.predict.images, config.predict.output
    if is_video(place):
        _predict_video(config, run)
        return
    samples = list_pictures(place, leave_out=output)
    names = [sample.name for sample in samples]
    digest = digest_samples(samples, labels=False)
    run.log_dataset(names, name="pictures", digest=digest, context="predict")
    with tempfile.TemporaryDirectory() as temporary:
        folder = _find_model("predict.model", config.predict.model, Path(temporary))
        predict(config.predict, samples, folder, config.machine)
    progress.say(f"{len(samples)} pictures labelled: {output}")


def _predict_video(config: Config, run: tracking.Run) -> None:
    if distributed.rank() > 0:  # frames are written in their order, by one process
        return
    video, output = config.predict.images, config.predict.output
    digest = digest_video(video)
    run.log_dataset([video.name], name="video", digest=digest, context="predict")
    with tempfile.TemporaryDirectory() as temporary:
        folder = _find_model("predict.model", config.predict.model, Path(temporary))
        frames = predict_video(config.predict, folder, config.machine)
    progress.say(f"{frames} frames labelled: {output}")


def _find_model(knob: str, name: str, temporary: Path) -> Path:
    """Return the folder of a network named as a folder, a run id, or an MLflow URI."""
    has_folder = is_folder(name)
    if has_folder and (Path(name) / CARD).is_file():
        return Path(name)
    if name == "none":
        raise InputError(f"{knob} is not set: name runs:/ID, models:/NAME or a folder.")
    if has_folder:
        raise InputError(f"{knob} = {name} holds no network: {CARD} is missing.")
    if ":/" not in name:
        name = f"runs:/{tracking.finished(name).run_id}"
    if name.startswith("runs:/") and name.count("/") == 1:
        name += f"/{tracking.MODEL}"
    return tracking.download(name, temporary) / "artifacts" / NETWORK


def _export(pipeline: Pipeline, run: tracking.Run) -> None:
    """Write a network as a file that other programs run: ONNX, torch.export."""
    if distributed.rank() > 0:
        return
    config = pipeline.config.export
    run.log_params({f"export.{knob}": value for knob, value in flatten(config).items()})
    with tempfile.TemporaryDirectory() as temporary:
        model = _find_model("export.model", config.model, Path(temporary))
        files = export(
            model,
            config.output,
            format=config.format,
            height=config.height,
            width=config.width,
            dynamic=config.dynamic,
        )
    for file in files:
        kind = file.path.suffix[1:]  # onnx, pt2
        progress.say(f"written: {file.path} ({file.size / 2**20:.1f} MiB)")
        run.log_metrics(
            {f"{kind}/bytes": file.size, f"{kind}/difference_from_pytorch": file.difference}
        )
        run.set_tags({f"selftrain.{kind}.sha256": file.sha256})


def _main(pipeline: Pipeline, run: tracking.Run) -> None:
    """Train teacher, student and control, evaluate all three and compare them."""
    models = {
        "teacher": pipeline.teacher,
        "control": pipeline.control,
        "student": pipeline.student,
    }
    evaluations = {name: pipeline.evaluate(model, name) for name, model in models.items()}
    if distributed.rank() > 0:
        return
    measured = {name: read_metrics(product.folder) for name, product in evaluations.items()}
    table = _table(pipeline, measured)
    comparison.show(table, f"{pipeline.config.benchmark}: IoU in percent")
    made = {f"train {name}": product for name, product in models.items()}
    labels = tracking.finished(models["student"].run_id).upstream.get("pseudo_labels")
    made |= {f"evaluate {name}": product for name, product in evaluations.items()}
    notes = [_conditions(pipeline.config)]
    notes += [f"{what}: key {product.key}, run {product.run_id}" for what, product in made.items()]
    if labels is not None:  # of the last round, if there are several
        notes.append(f"pseudo labels: key {tracking.finished(labels).key}, run {labels}")
    for line in notes:
        progress.say(line)
    name = f"main-{pipeline.config.benchmark}-{models['student'].key[:6]}"
    written = comparison.write(table, notes, pipeline.config.machine.outputs / name)
    progress.say(f"table: {written}")
    split = next(iter(pipeline.data.splits.evaluation.values()))
    networks = {name: models[name].folder for name in ("teacher", "student")}
    inference, machine = pipeline.config.evaluate.inference, pipeline.config.machine
    reader, folder = pipeline.data.reader, written.parent
    drawn = comparison.draw(networks, split, reader, inference, machine, folder)
    progress.say(f"pictures: {drawn}")
    run.log_files(written.parent, "comparison")
    for name, product in models.items():
        run.set_tags({f"selftrain.{name}": product.run_id})
        run.log_metrics(
            {
                f"{name}/{key}": value
                for key, value in measured[name].items()
                if key.endswith("mIoU")
            }
        )


def _table(pipeline: Pipeline, measured: Mapping[str, Mapping[str, float]]) -> DataFrame:
    splits = pipeline.data.splits
    return comparison.compare(measured, list(splits.evaluation), splits.classes.names)


def _conditions(config: Config) -> str:
    """Say how the numbers of a table were made."""
    inference, hardware = config.evaluate.inference, describe(config.machine)
    seen = (
        f"windows of {inference.window} pixels, overlap {inference.overlap:g}"
        if inference.window
        else "whole images"
    )
    return (
        f"{config.data.dataset}, {config.data.labelled_fraction:g} labelled, frames scaled by "
        f"{config.data.scale:g}; {seen}, scales {inference.scales}, flip "
        f"{str(inference.flip).lower()}; last epoch; one seed each (teacher "
        f"{config.teacher.seed}, student and control {config.student.seed}): the spread over "
        f"seeds is not measured; {hardware['selftrain.hardware']}, torch "
        f"{hardware['selftrain.torch']}"
    )


def _finish(product: Product, run: tracking.Run) -> None:
    run.set_tags({"selftrain.product": product.run_id})


ACTIONS: dict[str, Action] = {
    "prepare": _prepare,
    "teacher": _teacher,
    "pseudo_label": _pseudo_label,
    "student": _student,
    "finetune": _finetune,
    "study": _study,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "export": _export,
    "predict": _predict,
    "inspect_pseudo_labels": _inspect,
    "main": _main,
}


def run(argv: Sequence[str]) -> None:
    """Run the stage that a command line asks for.

    Raises:
        InputError: the user can mend it.
    """
    lines = {name: str(action.__doc__) for name, action in ACTIONS.items()}
    stage, config = parse(argv, {**lines, "sync": "Deliver what waits for the tracking store."})
    outputs, patience = config.machine.outputs, config.machine.tracking_patience
    if stage == "sync":  # no stage of the pipeline, and no run
        sync(outputs, patience)
        return
    # A sweep's workers are commands of their own, one process each: it says so itself.
    if stage != "sweep" and needs_launch(config.machine.processes):
        distributed.require_devices(config.machine.device, config.machine.processes)
        sys.exit(launch(argv, config.machine.processes))
    device = distributed.choose_device(config.machine.device)
    with distributed.process_group(device):
        if distributed.rank() == 0:
            tracking.connect(outputs, patience)
            distributed.barrier()
            with tracking.parent_run(stage) as parent:
                ACTIONS[stage](Pipeline(config), parent)
        else:
            distributed.barrier()
            tracking.connect(outputs, patience)
            ACTIONS[stage](Pipeline(config), tracking.SILENT)


def main() -> None:
    """Run a command; a mistake of the user's ends in one sentence and exit code 1.

    A signal that asks it to end does so with a line, and with 128 and the signal's number.
    """
    try:
        with signals.heard(), distributed.told_once(), enough_memory(), enough_space():
            run(sys.argv[1:])
        return
    except InputError as error:
        ended: str | int = f"error: {printable(error)}"
    except Terminated as error:
        ended = 128 + error.signal
        if os.environ.get("RANK", "0") == "0":
            print(error, file=sys.stderr)
    # Not above: what the error holds, as a loader and its processes, ends before Python does.
    sys.exit(ended)


if __name__ == "__main__":
    main()
