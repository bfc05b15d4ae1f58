"""What the ends of several commands have in common."""

from collections.abc import Mapping, Sequence

from selftrain.stage import Product
from selftrain.summary import Made, Next, Summary, noted
from selftrain.trained_runs import read_dev_miou


def end_of_training(product: Product, following: Sequence[Next]) -> Summary:
    """Return the end of a training, after which comes a measurement, or what `following` says."""
    reached = read_dev_miou(product.folder)
    measure = Next(
        why="measure it on the test splits",
        stage="evaluate",
        knobs={"evaluate.model": product.run_id},
    )
    metrics = {} if reached is None else {"dev/mIoU": reached}
    return Summary(
        what=say_how(product, "trained"),
        facts={**say_mious(metrics), **say_where(product)},
        product=find_made(product),
        metrics=metrics,
        following=[measure, *following],
    )


def label_pictures(model: str) -> Next:
    """Return the command that labels one's own pictures with the network of a run."""
    return Next(
        why="label your own pictures",
        stage="predict",
        knobs={"predict.model": model, "predict.images": "DIR"},
    )


def say_how(product: Product, made: str = "made") -> str:
    """Say whether a product was made now, or before."""
    return "found, made before" if product.is_reused else made


def say_where(product: Product) -> dict[str, str]:
    """Say where a product lies, and which run has it."""
    return {"folder": str(product.folder), "run": product.run_id}


def find_made(product: Product) -> Made | None:
    """Return what was noted of a product; of one that was named by its run, nothing."""
    return next((it for it in reversed(noted()) if it.key == product.key), None)


def count_products() -> dict[str, str]:
    """Say how many products were made and how many found."""
    found = sum(it.is_found for it in noted())
    return {"products": f"{len(noted()) - found} made, {found} found"}


def say_mious(metrics: Mapping[str, float]) -> dict[str, str]:
    """Say the mIoU of each split, in percent."""
    return {
        f"{name.removesuffix('/mIoU')} mIoU": f"{100 * value:.2f} %"
        for name, value in metrics.items()
        if name.endswith("/mIoU")
    }


def say_in_percent(metrics: Mapping[str, float]) -> str:
    """Say the mIoU of all splits in one line."""
    return ", ".join(f"{name} {value}" for name, value in say_mious(metrics).items())
