"""What the commands do; each returns what is to be said at its end."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pandas import DataFrame

from selftrain import comparison, distributed, progress, tracking
from selftrain import inspect_pseudo_labels as inspection
from selftrain.audit.record import FOLDER as AUDIT
from selftrain.audit.record import PAGE as AUDIT_PAGE
from selftrain.checkpoint import CARD, NETWORK
from selftrain.config import Config
from selftrain.data.digests import digest_samples
from selftrain.data.pseudo_labels import PseudoLabelSet
from selftrain.descriptions import describe_command
from selftrain.endings import (
    count_products,
    end_of_training,
    find_made,
    label_pictures,
    say_how,
    say_in_percent,
    say_mious,
    say_where,
)
from selftrain.errors import InputError
from selftrain.evaluate import read_metrics
from selftrain.export import CARD as EXPORT_CARD
from selftrain.export import export
from selftrain.files import is_folder
from selftrain.knobs import Scalar, flatten
from selftrain.lineage_record import show_lineage
from selftrain.machine import count_workers, describe
from selftrain.pipeline import Pipeline
from selftrain.predict import SHEET, list_pictures, predict, predict_video
from selftrain.prepare import PAGE, read_summary
from selftrain.registry import CONTROL, FINETUNED, STUDENT, TEACHER, register, renew_card
from selftrain.sources import export_scenes
from selftrain.stage import PRODUCT, Product
from selftrain.study import run_study
from selftrain.summary import Next, Summary
from selftrain.video import digest_video, is_video

Action = Callable[[Pipeline, tracking.Run], Summary | None]


def _prepare(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
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
    found = read_summary(product.folder)
    for line in [found["rule"], *(f"warning: {text}" for text in found["warnings"])]:
        if line:
            progress.say(line)
    images, warnings = found["images"], len(found["warnings"])
    return Summary(
        what=f"data {say_how(product)}, {warnings or 'no'} warning{'' if warnings == 1 else 's'}",
        facts={
            "images": ", ".join(f"{count} {split}" for split, count in images.items()),
            "look at": str(product.folder / PAGE),
            **say_where(product),
        },
        product=find_made(product),
        details={"images": images, "warnings": found["warnings"]},
        following=[
            Next(why="train the teacher", stage="teacher"),
            Next(why="or the whole pipeline", stage="main"),
        ],
    )


def _teacher(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Train the teacher on the labelled images."""
    product = pipeline.teacher
    _finish(product, run)
    _register(pipeline, {TEACHER: product})
    label = Next(
        why="label the pool with it",
        stage="pseudo_label",
        knobs={"pseudo_label.teacher": product.run_id},
    )
    return end_of_training(product, [label])


def _pseudo_label(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Label the unlabelled pool with the teacher."""
    config = pipeline.config.pseudo_label
    if config.job() not in ((0, 1), None):
        folder = pipeline.label_part(run)
        merge = Next(
            why="when all jobs are done, make the set of their shards",
            stage="pseudo_label",
            knobs={"pseudo_label.shard": "merge"},
        )
        return Summary(
            what=f"job {config.shard} done", facts={"folder": str(folder)}, following=[merge]
        )
    product = pipeline.pseudo_labels
    _finish(product, run)
    images = len(PseudoLabelSet.open(product.folder))
    inspected = {"inspect_pseudo_labels.labels": product.run_id}
    return Summary(
        what=f"{images} images labelled, {say_how(product)}",
        facts={**say_where(product), "audit": f"{AUDIT}/{AUDIT_PAGE} among the run's artifacts"},
        product=find_made(product),
        details={"images": images},
        following=[
            Next(why="train a student on them", stage="student"),
            Next(why="look at them", stage="inspect_pseudo_labels", knobs=inspected),
        ],
    )


def _student(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Train the student on real and pseudo labels."""
    product = pipeline.student
    _finish(product, run)
    _register(pipeline, {STUDENT: product})
    return end_of_training(product, [label_pictures(product.run_id)])


def _study(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Run a table or figure of the paper: its arms, with several seeds."""
    failed = run_study(pipeline.config, run)
    if failed:
        raise InputError(f"{len(failed)} arms failed: {'; '.join(failed)}")
    return Summary(
        what=f"{pipeline.config.study.name} measured",
        facts={"run": run.run_id, **count_products()},
        following=[Next(why="draw the tables and figures", stage="report")],
    )


def _sweep(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Search better knobs by Optuna on dev, and train the best with fresh seeds."""
    from selftrain.sweep import run_sweep  # Optuna takes 0.7 s to import

    best = run_sweep(pipeline.config, run)
    return Summary(
        what=f"{pipeline.config.sweep.name} searched",
        facts={
            "best": f"trial {best.trial}, dev mIoU {100 * best.miou:.2f}",
            "run": run.run_id,
            **count_products(),
        },
        metrics={"best/dev/mIoU": best.miou},
        details={"best": {"trial": best.trial, "knobs": best.knobs}},
        following=[
            Next(why="train the best alone", stage="student", knobs=best.knobs),
            Next(why="draw the tables and figures", stage="report"),
        ],
    )


def _inspect(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Show what a set of pseudo labels holds, and draw one of its images."""
    config = pipeline.config.inspect_pseudo_labels
    with tempfile.TemporaryDirectory() as temporary:
        labels = inspection.open_set(
            _find_set(config.labels), Path(temporary), image=config.image, verify=config.verify
        )
        progress.say(inspection.describe(labels))
        files: list[Path] = []
        if config.image != "none":
            pool = {sample.name: sample for sample in pipeline.data.splits.unlabelled}
            image = pool[config.image].image if config.image in pool else None
            files = inspection.draw(labels, config.image, image, config.output)
    return Summary(
        what=f"{config.labels} looked at",
        facts={"written": ", ".join(map(str, files))} if files else {},
        files=files,
        details={"images": len(labels)},
    )


def _find_set(name: str) -> Path | str:
    """Return where a set lies that is named as a folder, a run id, or an MLflow URI."""
    if is_folder(name):
        return Path(name)
    if name == "none":
        raise InputError("inspect_pseudo_labels.labels is not set: name a run id or a folder.")
    if ":/" not in name:
        name = f"runs:/{tracking.finished(name).run_id}"
    if name.startswith("runs:/") and name.count("/") == 1:
        name += f"/{PRODUCT}"
    return name


def _finetune(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Train on a benchmark's labels, from any teacher or student."""
    if pipeline.config.finetune.start == "none":
        raise InputError(
            "finetune.start is not set: name the run of a teacher or a student, as in "
            "--finetune.start RUN_ID."
        )
    product = pipeline.finetuned
    _finish(product, run)
    _register(pipeline, {FINETUNED: product})
    return end_of_training(product, [label_pictures(product.run_id)])


def _evaluate(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Measure a model on the evaluation splits."""
    model = pipeline.model_to_evaluate()
    product = pipeline.evaluate(model, "model")
    run.set_tags({tracking.PRODUCT_TAG: product.run_id})
    renew_card(pipeline.config, model.run_id)
    if distributed.rank() > 0:
        return None
    metrics = read_metrics(product.folder)
    comparison.show(_table(pipeline, {"model": metrics}), "IoU in percent")
    run.log_metrics(metrics)
    return Summary(
        what=f"measured ({say_how(product)})",
        facts={**say_mious(metrics), **say_where(product), "model": f"run {model.run_id}"},
        product=find_made(product),
        metrics=metrics,
        details={"model": model.run_id},
        following=[
            label_pictures(model.run_id),
            Next(why="give it to others", stage="export", knobs={"export.model": model.run_id}),
        ],
    )


def _predict(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Write masks and overlays for pictures, or an overlay video."""
    config = pipeline.config
    run.log_params({f"predict.{knob}": value for knob, value in flatten(config.predict).items()})
    run.set_tags(describe(config.machine))
    if is_video(config.predict.images):
        return _predict_video(config, run)
    samples = list_pictures(config.predict.images, leave_out=config.predict.output)
    names = [sample.name for sample in samples]
    digest = digest_samples(samples, labels=False)
    run.log_dataset(names, name="pictures", digest=digest, context="predict")
    with tempfile.TemporaryDirectory() as temporary:
        folder = _find_model("predict.model", config.predict.model, Path(temporary))
        predict(config.predict, samples, folder, config.machine)
    output = config.predict.output
    labels: dict[str, Scalar] = {
        "benchmark": "NAME",
        "pseudo_label.teacher": config.predict.model,
        "pool": config.predict.images,
    }
    keep = Next(why="keep such labels, for a student", stage="pseudo_label", knobs=labels)
    return Summary(
        what=f"{len(samples)} pictures labelled",
        facts={"masks": f"{output / 'masks'} (class ids)", "look at": str(output / "overlays")},
        files=[output / name for name in ("masks", "colors", "overlays", SHEET)],
        details={"pictures": len(samples)},
        following=[] if is_folder(config.predict.model) else [keep],
    )


def _predict_video(config: Config, run: tracking.Run) -> Summary | None:
    if distributed.rank() > 0:  # frames are written in their order, by one process
        return None
    video, output = config.predict.images, config.predict.output
    digest = digest_video(video)
    run.log_dataset([video.name], name="video", digest=digest, context="predict")
    with tempfile.TemporaryDirectory() as temporary:
        folder = _find_model("predict.model", config.predict.model, Path(temporary))
        frames = predict_video(config.predict, folder, config.machine)
    return Summary(
        what=f"{frames} frames labelled",
        facts={"look at": str(output)},
        files=[output],
        details={"frames": frames},
    )


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


def _export(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Write a network as a file that other programs run: ONNX, torch.export."""
    if distributed.rank() > 0:
        return None
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
        run.log_metrics(
            {f"{kind}/bytes": file.size, f"{kind}/difference_from_pytorch": file.difference}
        )
        run.set_tags({f"selftrain.{kind}.sha256": file.sha256})
    sizes = (f"{it.path} ({it.size / 2**20:.1f} MiB)" for it in files)
    return Summary(
        what=f"{len(files)} files written" if len(files) > 1 else "1 file written",
        facts={"written": ", ".join(sizes), "how to use": str(config.output / EXPORT_CARD)},
        files=[*(it.path for it in files), config.output / EXPORT_CARD],
        metrics={f"{it.path.suffix[1:]}/difference_from_pytorch": it.difference for it in files},
        following=[
            Next(
                why="see what the same network says of pictures",
                stage="predict",
                knobs={"predict.model": config.model, "predict.images": "DIR"},
            )
        ],
    )


def _main(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Train teacher, student and control, evaluate all three and compare them."""
    models = {
        "teacher": pipeline.teacher,
        "control": pipeline.control,
        "student": pipeline.student,
    }
    evaluations = {name: pipeline.evaluate(model, name) for name, model in models.items()}
    if distributed.rank() > 0:
        return None
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
    split = next(iter(pipeline.data.splits.evaluation.values()))
    drawn = comparison.draw(
        {name: models[name].folder for name in ("teacher", "student")},
        split,
        pipeline.data.reader,
        pipeline.config.evaluate.inference,
        pipeline.config.machine,
        written.parent,
    )
    run.log_files(written.parent, "comparison")
    metrics = {
        f"{name}/{key}": value
        for name in models
        for key, value in measured[name].items()
        if key.endswith("mIoU")
    }
    run.set_tags({f"selftrain.{name}": product.run_id for name, product in models.items()})
    run.log_metrics(metrics)
    _register(
        pipeline,
        {TEACHER: models["teacher"], CONTROL: models["control"], STUDENT: models["student"]},
    )
    student = models["student"]
    return Summary(
        what="teacher, control and student compared",
        facts={
            **{name: say_in_percent(measured[name]) for name in models},
            "table": str(written),
            "pictures": str(drawn),
            "student in": str(student.folder),
            "its run": student.run_id,
        },
        product=find_made(student),
        metrics=metrics,
        files=[written, drawn],
        following=[
            label_pictures(student.run_id),
            Next(why="search better knobs for it", stage="sweep"),
        ],
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
    if not run.run_id:
        return
    run.set_tags({tracking.PRODUCT_TAG: product.run_id})
    metrics = tracking.finished(product.run_id).metrics
    run.log_metrics({key: value for key, value in metrics.items() if key.endswith("/mIoU")})


def _register(pipeline: Pipeline, networks: Mapping[str, Product]) -> None:
    classes = pipeline.data.splits.classes.names
    register(pipeline.config, classes, [(it.run_id, role) for role, it in networks.items()])


def _lineage(pipeline: Pipeline, run: tracking.Run) -> Summary | None:
    """Show from what a run was made: labels, teachers, data."""
    config = pipeline.config.lineage
    text = show_lineage(config)
    files = [] if config.output == "none" else [Path(config.output)]
    return Summary(
        what=f"{config.run} traced",
        files=files,
        details={"lineage": text},
    )


_WITHOUT_SEED = ("prepare", "study", "sweep", "export", "predict", "inspect_pseudo_labels")
"""Stages that draw nothing at random, or with several seeds."""


def present(run: tracking.Run, stage: str, config: Config, words: Sequence[str]) -> None:
    """Say in a command's own run what it does, under the keys that its stages have too.

    Args:
        run: The command's.
        stage: Of `ACTIONS`.
        config: That the words ask for.
        words: That were typed, without the program's name.
    """
    seeds = {"teacher": config.teacher.seed, "finetune": config.finetune.seed}
    known: dict[str, object] = {"benchmark": config.benchmark}
    if stage not in _WITHOUT_SEED:
        known["seed"] = seeds.get(stage, config.student.seed)
    run.log_params(known)
    run.set_tags({f"selftrain.{name}": str(value) for name, value in known.items()})
    run.describe(describe_command(str(ACTIONS[stage].__doc__), words))


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
    "lineage": _lineage,
    "main": _main,
}
