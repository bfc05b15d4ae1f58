"""A step of training: what decides it, and what must not."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from selftrain.config import MachineConfig, TrainConfig
from selftrain.engine import Engine
from selftrain.errors import InputError
from selftrain.knobs import Scalar, override
from selftrain.labels import IGNORE_INDEX
from selftrain.models.layers import Backbone, SegmentationNetwork

CPU = torch.device("cpu")
CLASSES = 4
# Plain steps down the gradient: the change of a weight is the gradient.
PLAIN: dict[str, Scalar] = {
    "optim.lr": 1.0,
    "optim.momentum": 0.0,
    "optim.weight_decay": 0.0,
}


class TwoLayers(Backbone):
    """Features without batch statistics: an image's do not depend on its neighbours."""

    low_channels = deep_channels = 6

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, 2, 1)
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        low = self.first(images)
        return low, self.run([self.second], low)


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Sequential(nn.Conv2d(6, CLASSES, 1))

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        logits: Tensor = self.classify(low + deep)
        return logits


class Normalised(OneLayer):
    """Keeps statistics of the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        return super().forward(self.norm(low), deep)


class Doubled(SegmentationNetwork):
    """Has an auxiliary classifier: the same again."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = super().forward(images)
        assert isinstance(logits, Tensor)
        return logits, logits


def small(kind: type[SegmentationNetwork] = SegmentationNetwork) -> SegmentationNetwork:
    torch.manual_seed(0)
    return kind(TwoLayers(), OneLayer())


def engine(
    network: SegmentationNetwork,
    values: dict[str, Scalar] | None = None,
    *,
    class_weights: Tensor | None = None,
    **machine: bool | str,
) -> Engine:
    config = override(TrainConfig(), {**PLAIN, **(values or {})})
    hardware = override(MachineConfig(), dict(machine))
    return Engine(network, config, hardware, CPU, class_weights=class_weights)


def batch(*, count: int = 4, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, labels and confidences; each image has fewer labelled pixels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (count, side, side), dtype=torch.uint8, generator=generator)
    for number in range(count):
        labels[number, : 3 * number] = IGNORE_INDEX
    confidence = torch.randint(256, labels.shape, dtype=torch.uint8, generator=generator)
    return images, labels, confidence


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def change(trained: Engine, given: Sequence[Tensor], **how: object) -> Tensor:
    """Take a step and return how the weights have changed."""
    before = weights(trained.network)
    trained.step(given, lr=1.0, **how)  # type: ignore[arg-type]
    return weights(trained.network) - before


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"loss.label_smoothing": 0.1},
        {"loss.name": "ohem"},
        {"loss.name": "boundary"},
        {"loss.confidence_gamma": 2.0},
        {"loss.name": "ohem", "loss.confidence_gamma": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("class_weights", [None, [0.5, 1.0, 2.0, 4.0]])
def test_the_parts_of_a_step_add_up_to_it(
    values: dict[str, Scalar], class_weights: list[float] | None
) -> None:
    given = torch.tensor(class_weights) if class_weights else None
    found = []
    for parts in (1, 3):  # of four images: 2, 1, 1
        trained = engine(small(), values, class_weights=given)
        before = weights(trained.network)
        loss, norm = trained.step(batch(), lr=1.0, parts=parts)
        found.append((loss, norm, weights(trained.network) - before))
    assert found[0][2].abs().max() > 1e-3
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-6)


def test_a_batch_without_a_label_changes_nothing() -> None:
    images, labels, _ = batch()
    trained = engine(small())
    assert (change(trained, (images, torch.full_like(labels, IGNORE_INDEX))) == 0).all()


def test_a_pixel_without_confidence_counts_like_one_without_label() -> None:
    images, labels, confidence = batch()
    unsure = confidence < 128
    sure = torch.where(unsure, 0, 255).to(torch.uint8)
    weighted = change(engine(small(), {"loss.confidence_gamma": 3.0}), (images, labels, sure))
    hidden = labels.masked_fill(unsure, IGNORE_INDEX)
    torch.testing.assert_close(weighted, change(engine(small()), (images, hidden)))


def test_an_auxiliary_classifier_adds_its_share() -> None:
    images, labels, _ = batch()
    alone = change(engine(small()), (images, labels))
    both = change(engine(small(Doubled), {"loss.auxiliary_weight": 0.25}), (images, labels))
    torch.testing.assert_close(both, 1.25 * alone)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not() -> None:
    images, labels, _ = batch()
    free = change(engine(small()), (images, labels))
    norm = float(free.norm())
    clipped = change(engine(small(), {"optim.clip_norm": norm / 10}), (images, labels))
    torch.testing.assert_close(clipped, free / 10, rtol=1e-4, atol=1e-7)
    untouched = change(engine(small(), {"optim.clip_norm": norm * 10}), (images, labels))
    assert torch.equal(untouched, free)
    _, told = engine(small(), {"optim.clip_norm": norm / 10}).step((images, labels), lr=1.0)
    assert float(told) == pytest.approx(norm, rel=1e-5)


def test_the_first_steps_hardly_weigh_in_a_short_average() -> None:
    """The averages decay by 2/11, 3/12, ... and at last by the knob's value."""
    trained = engine(small(), {"optim.ema": 0.4})
    expected = torch.empty(0)
    for number in range(8):
        trained.step(batch(seed=number)[:2], lr=0.1)
        decay = min(0.4, (1 + number) / (10 + number)) if number else 0.0
        now = weights(trained.network)
        expected = decay * expected + (1 - decay) * now if number else now
        torch.testing.assert_close(weights(trained.result()), expected)
    assert not torch.allclose(weights(trained.result()), weights(trained.network))


def test_colours_varied_on_the_device_follow_from_the_crops_seeds() -> None:
    images, labels, _ = batch()
    varied: dict[str, Scalar] = {"augment.on_device": True}

    def step(*seeds: int) -> Tensor:
        return change(engine(small(), varied), (images, labels), seeds=seeds)

    assert torch.equal(step(1, 2, 3, 4), step(1, 2, 3, 4))
    assert not torch.allclose(step(1, 2, 3, 4), step(4, 3, 2, 1))
    assert not torch.allclose(step(1, 2, 3, 4), change(engine(small()), (images, labels)))
    # In parts each image keeps its own seed.
    parts = change(engine(small(), varied), (images, labels), seeds=(1, 2, 3, 4), parts=2)
    torch.testing.assert_close(parts, step(1, 2, 3, 4), rtol=1e-4, atol=1e-6)


def test_a_batch_of_several_usual_ones_weighs_as_much_in_the_statistics() -> None:
    images, labels, _ = batch()
    means = []
    for steps, batches in ((3, 1), (1, 3)):
        network = small()
        network.head = Normalised()
        trained = engine(network)
        trained.remember(batches)
        for _ in range(steps):
            trained.step((images, labels), lr=0.0)
        means.append(network.get_submodule("head.norm").get_buffer("running_mean"))
    assert means[0].abs().min() > 1e-3
    torch.testing.assert_close(means[1], means[0])


def test_checkpointing_changes_no_step() -> None:
    images, labels, _ = batch()
    kept = change(engine(small()), (images, labels))
    trained = engine(small(), checkpointing=True)
    assert isinstance(trained.network, SegmentationNetwork)
    assert isinstance(trained.network.backbone, Backbone)
    assert trained.network.backbone.recomputes
    torch.testing.assert_close(change(trained, (images, labels)), kept)


def test_bf16_is_near_fp32_and_not_the_same() -> None:
    images, labels, _ = batch()
    fp32 = change(engine(small(), precision="fp32"), (images, labels))
    bf16 = change(engine(small(), precision="bf16"), (images, labels))
    assert not torch.equal(bf16, fp32)
    assert (bf16 - fp32).norm() < 0.05 * fp32.norm()


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Size]]:
    """The shapes of the images for which torch has made a graph; each is then run as it is."""
    made: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        shapes = [given.shape for given in inputs if given.dtype == torch.uint8]
        assert len(shapes) == 1  # the whole network is one graph
        made.extend(shapes)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield made
    torch.compiler.reset()


def test_no_step_waits_for_the_compiler(compilations: list[torch.Size]) -> None:
    network = small()
    network.head = Normalised()
    trained = engine(network, compile=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    # Smaller crops come in larger batches, for which statistics have another weight.
    usual = {32: 4, 48: 2, 64: 1}
    shapes = [(count, side, usual[side]) for side in usual for count in (3, 2)]
    trained.warm(shapes)
    for name, tensor in network.state_dict().items():  # weights, and statistics of the batches
        assert torch.equal(tensor, before[name]), name
    assert [(*size,) for size in compilations] == [(n, 3, side, side) for n, side, _ in shapes]
    for side in (32, 64, 48, 32):  # the schedule changes sizes, and 5 images are parts of 3 and 2
        images, labels, _ = batch(count=5, side=side)
        trained.network.eval()  # as after a measurement on dev
        trained.forward.train()
        trained.remember(usual[side])
        assert trained.network.training
        trained.step((images, labels), lr=1e-3, parts=2)
    assert len(compilations) == len(shapes)


def test_a_compiled_step_is_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, _ = batch()
    eager = change(engine(small()), (images, labels))
    torch.compiler.reset()
    # The compiler's own differentiation, without the minutes of its code generation.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    trained = engine(small(), compile=True)
    trained.warm([(4, 16, 1)])
    torch.testing.assert_close(change(trained, (images, labels)), eager)
    assert list(trained.network.state_dict()) == list(small().state_dict())


def test_a_compiler_that_is_missing_is_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        raise RuntimeError("no C++ compiler found")

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    trained = engine(small(), compile=True)
    with pytest.raises(InputError, match=r"no C\+\+ compiler found.*machine\.compile to false"):
        trained.warm([(2, 32, 1)])
    torch.compiler.reset()
