"""The state of a training, and the steps that change it.

What is random follows from (seed, epoch, crop), or from a generator whose state is kept, so that an
interrupted training goes on as if nothing had happened: bit for bit on the CPU, within rounding on
CUDA.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selftrain import checkpoint, distributed, progress
from selftrain.checkpoint import ModelCard
from selftrain.config import MachineConfig, TrainConfig
from selftrain.data.centroids import Centroids
from selftrain.data.plan import Crop, Pool, global_batches, plan_epoch, rank_batches
from selftrain.data.reader import Reader
from selftrain.data.sample import Sample
from selftrain.data.statistics import count_pixels
from selftrain.divergence import Sight, Watch, name_crops
from selftrain.engine import Engine
from selftrain.epochs import (
    Epoch,
    count_crops,
    count_parts,
    crops_of_step,
    learning_rate,
    plan_epochs,
    require_shares,
)
from selftrain.errors import InputError
from selftrain.examples import Examples
from selftrain.inference import Predictor, score
from selftrain.losses import weigh_classes
from selftrain.machine import count_workers
from selftrain.metrics import ConfusionMatrix
from selftrain.models import build_network
from selftrain.models.weights import name_some, not_finite
from selftrain.prefetch import prefetch

History = list[dict[str, float]]


@dataclass(frozen=True)
class TrainingData:
    """What a training reads."""

    reader: Reader
    """Reads real samples as they are trained on."""
    real: Sequence[Sample]
    real_centroids: Centroids
    pseudo: Sequence[Sample]
    """Empty unless the config's pseudo_ratio is above 0."""
    pseudo_centroids: Centroids
    """Rows count positions in `pseudo`."""
    dev: Sequence[Sample]
    """Empty: nothing is measured while training."""
    start: Path | None = None
    """Folder of a network to start from; None: the config's `backbone_weights`."""
    keep_from: tuple[int, ...] = ()
    """Of each class, the confidence from which pseudo-labelled pixels count (Reader.keep_from)."""


@dataclass
class Begun:
    """How far an epoch is."""

    watch: Watch
    steps: int = 0
    seconds: float = 0.0
    generators: Sequence[Mapping[str, Tensor]] = field(default_factory=tuple)
    """Of an epoch to go on with: torch's random states of each rank, by kind of device."""


class Training:
    """The state of a training and the steps that change it."""

    def __init__(self, config: TrainConfig, data: TrainingData, machine: MachineConfig) -> None:
        self.config, self.data, self.machine = config, data, machine
        self.device = distributed.choose_device(machine.device)
        require_shares(config, len(data.real), processes=distributed.world_size())
        self.epochs = plan_epochs(config, len(data.real))
        self.total_steps = sum(epoch.steps for epoch in self.epochs)
        torch.manual_seed(config.seed)
        network = build_network(
            config.network.name,
            num_classes=len(data.reader.classes),
            backbone=config.network.backbone,
            output_stride=config.network.output_stride,
            head_channels=config.network.head_channels,
            backbone_weights="none" if data.start else config.network.backbone_weights,
            auxiliary=config.network.auxiliary,
        )
        if data.start is not None:
            checkpoint.load_start(network, data.start, data.reader.classes.names)
        self.engine = Engine(
            network, config, machine, self.device, class_weights=self._class_weights()
        )
        self.history: History = []
        self.examples = Examples(
            data.dev, data.reader, epochs=config.epochs, every=config.eval_every
        )
        self.next_epoch = 0
        self.begun: Begun | None = None
        """Of the next epoch, once it has begun."""
        self._restored: Begun | None = None

    @property
    def steps_done(self) -> int:
        """Steps of the next epoch that a restored state has behind it."""
        return self._restored.steps if self._restored else 0

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        return self.engine.network

    def _class_weights(self) -> Tensor | None:
        """Return the classes' weights in the loss, from the real labels alone."""
        rule, data = self.config.loss.class_weights, self.data
        if rule == "none":
            return None
        first = distributed.rank() == 0
        pixels = distributed.broadcast(count_pixels(data.real, data.reader) if first else None)
        assert pixels is not None  # the first rank has counted them
        return weigh_classes(pixels, rule)

    def state(self, generators: Sequence[Mapping[str, Tensor]] = ()) -> dict[str, Any]:
        """Return all that an exact resume needs.

        Args:
            generators: `random_states` of all ranks, inside an epoch; at its end random states
                follow from the next one.
        """
        begun = self.begun
        return {
            "network": self.network.state_dict(),
            "optimizer": self.engine.optimizer.state_dict(),
            "average": self.engine.average.state_dict() if self.engine.average else None,
            "history": self.history,
            "examples": self.examples.state(),
            "next_epoch": self.next_epoch,
            "begun": begun
            and {
                "watch": begun.watch.state(),
                "steps": begun.steps,
                "seconds": begun.seconds,
                "generators": list(generators),
            },
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state.

        Raises:
            InputError: it is of another network or config.
        """
        try:
            self.network.load_state_dict(state["network"])
            kinds = (self.engine.optimizer.state_dict(), state["optimizer"])
            own, other = (kind["param_groups"][0].keys() for kind in kinds)
            if own != other or (self.engine.average is None) != (state["average"] is None):
                raise ValueError("it is of another optimizer, or averages and this does not")
            self.engine.optimizer.load_state_dict(state["optimizer"])
            if self.engine.average is not None:
                self.engine.average.load_state_dict(state["average"])
            self.history = list(state["history"])
            self.next_epoch = int(state["next_epoch"])
            # Not in one that was written before they were drawn.
            self.examples.load_state(state.get("examples", {}), next_epoch=self.next_epoch)
            begun = state["begun"]
            if begun is not None:
                watch = Watch(self.device)
                watch.load_state(begun["watch"])
                self._restored = Begun(**{**begun, "watch": watch})
            left = [epoch.steps for epoch in self.epochs[self.next_epoch :]] or [0]
            if self.next_epoch > len(self.epochs) or self.steps_done > left[0]:
                raise ValueError("it is of more steps")
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                "The checkpoint is of another network or another config: delete it, and the "
                "training starts from the first epoch."
            ) from error

    def random_states(self) -> dict[str, Tensor]:
        """Return the states of the generators that dropout draws from, by kind of device."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def crops(self, epoch: Epoch) -> list[Crop]:
        """Draw the crops of an epoch; the same list on every rank."""
        num_real = len(self.data.real)
        real, pseudo = count_crops(self.config, num_real)
        offset = np.array([num_real, 0, 0], dtype=np.int32)
        shifted = {
            class_id: rows + offset  # positions in real + pseudo
            for class_id, rows in self.data.pseudo_centroids.items()
        }
        return plan_epoch(
            Pool(range(num_real), self.data.real_centroids),
            Pool(range(num_real, num_real + len(self.data.pseudo)), shifted),
            real_crops=real,
            pseudo_crops=pseudo,
            centroid_fraction=self.config.sampling.centroid_fraction,
            crop_size=epoch.crop_size,
            seed=self.config.seed,
            epoch=epoch.number,
            cutmix=self.config.strong.cutmix,
            classmix=self.config.strong.classmix,
        )

    def batches(self, epoch: Epoch) -> list[list[Crop]]:
        """Draw this rank's crops of each step of an epoch."""
        return rank_batches(
            self.crops(epoch),
            batch_size=epoch.batch_size,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )

    def _parts(self, epoch: Epoch) -> int:
        processes = distributed.world_size()
        return count_parts(self.config, epoch, len(self.data.real), processes=processes)

    def warm(self) -> None:
        """Compile the network for all epochs' crop sizes; do nothing unless it is compiled."""
        rank, world_size = distributed.rank(), distributed.world_size()
        # As many on every rank, whose normalisations wait for each other: so a shape may come
        # twice, which costs no second graph.
        shapes: list[tuple[int, int, int]] = []
        kinds = {(it.batch_size, it.crop_size): it for it in self.epochs[self.next_epoch :]}
        for epoch in kinds.values():
            together = crops_of_step(self.config, epoch, len(self.data.real))
            crops = len(range(rank, together, world_size))
            parts = self._parts(epoch)
            shapes += [
                (size, epoch.crop_size, epoch.usual_batches)
                for size in (-(-crops // parts), crops // parts)
            ]
        self.engine.warm(shapes)

    def train_epoch(
        self,
        epoch: Epoch,
        batches: Iterable[tuple[Tensor, ...]],
        bar: progress.Bar,
        after_step: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Step through an epoch's batches and return its metrics.

        Args:
            epoch: The next one.
            batches: Those that are left of it: without the first `steps_done`.
            bar: Counts steps.
            after_step: May raise; the training can then be kept, and goes on with the next step.

        Raises:
            InputError: a loss or a gradient is infinite or NaN; the step and its crops are named.
                All ranks raise it, and the checkpoint before is as it was.
        """
        begun = self._begin(epoch)
        self.engine.forward.train()
        self.engine.remember(epoch.usual_batches)
        start = time.perf_counter() - begun.seconds
        watch, parts = begun.watch, self._parts(epoch)
        on_device = self.config.augment.on_device
        crops = self.batches(epoch) if on_device else []
        crops_a_step = crops_of_step(self.config, epoch, len(self.data.real))
        for number, batch in enumerate(prefetch(batches, self.device), start=begun.steps):
            lr = self._learning_rate(epoch, number)
            seeds = [crop.seed for crop in crops[number]] if on_device else []
            watch.note(*self.engine.step(batch, lr=lr, parts=parts, seeds=seeds))
            if number % 10 == 0 and (sight := watch.glance()) is not None:
                self._require_finite(epoch, sight)
                bar.advance(0, f"{self._dev_note()}loss {sight.loss:.3f}")
            bar.advance(items=crops_a_step)
            begun.steps, begun.seconds = number + 1, time.perf_counter() - start
            after_step()
        sight = watch.look()
        self._require_finite(epoch, sight)
        crops_seen = epoch.steps * crops_a_step
        seconds = time.perf_counter() - start
        return {
            "train/loss": sight.loss,
            "train/lr": self._learning_rate(epoch, epoch.steps - 1),
            "train/crop_size": epoch.crop_size,
            "train/images_per_second": crops_seen / seconds,
            "train/epoch_seconds": seconds,
        }

    def require_finite_network(self, epoch: Epoch) -> None:
        """Stop behind an epoch that has left a network that answers nonsense.

        Running statistics may become so without the loss, which does not read them.

        Raises:
            InputError: it holds NaN or infinity. All ranks raise it, and the checkpoint before is
                as it was.
        """
        if broken := not_finite(self.engine.result().state_dict()):
            raise InputError(
                f"After epoch {epoch.number} there is NaN or infinity in {len(broken)} of the "
                f"network's tensors ({name_some(broken)}): lower optim.lr = "
                f"{self.config.optim.lr:g}, clip gradients by optim.clip_norm = "
                f"{self.config.optim.clip_norm:g}, or set machine.precision to fp32."
            )

    def _begin(self, epoch: Epoch) -> Begun:
        """Begin an epoch, or go on with one that a restored state has begun."""
        # Dropout draws from the global generator: start it anew, so that a resumed training
        # drops the same units.
        torch.manual_seed(hash((self.config.seed, epoch.number, distributed.rank())))
        begun, self._restored = self._restored or Begun(Watch(self.device)), None
        if distributed.rank() < len(begun.generators):  # else it was begun by fewer processes
            states = begun.generators[distributed.rank()]
            torch.set_rng_state(states["cpu"].cpu())
            if "cuda" in states and self.device.type == "cuda":
                torch.cuda.set_rng_state(states["cuda"].cpu(), self.device)
        self.begun = begun
        return begun

    def end_epoch(self, row: dict[str, float]) -> None:
        """Take an epoch for done, and its row into the history."""
        self.history.append(row)
        self.next_epoch += 1
        self.begun = None

    def _learning_rate(self, epoch: Epoch, number: int) -> float:
        """Return the learning rate of a step, which counts from the epoch's first."""
        step = epoch.first_step + number
        return learning_rate(self.config, epoch, step, total_steps=self.total_steps)

    def _require_finite(self, epoch: Epoch, sight: Sight) -> None:
        """Stop with the crops of the step that made a loss or a gradient no number."""
        if sight.bad_step is None:
            return
        batch = global_batches(self.crops(epoch), batch_size=epoch.batch_size)[sight.bad_step]
        optim = self.config.optim
        what = "gradient is not finite" if math.isfinite(sight.bad_loss) else "loss is not finite"
        raise InputError(
            f"The {what} at step {epoch.first_step + sight.bad_step} in epoch {epoch.number}: "
            f"lower optim.lr = {optim.lr:g}, clip gradients by optim.clip_norm = "
            f"{optim.clip_norm:g}, or look at the {len(batch)} crops of {epoch.crop_size} pixels "
            f"that it has seen: {name_crops(batch, [*self.data.real, *self.data.pseudo])}."
        )

    def _dev_note(self) -> str:
        measured = [row["dev/mIoU"] for row in self.history if "dev/mIoU" in row]
        return f"dev mIoU {100 * measured[-1]:.2f}, " if measured else ""

    def measure_dev(self) -> ConfusionMatrix:
        """Score the result on dev, whole images, single scale; an empty dev gives zeros."""
        # The ranks' batch statistics may differ by rounding; rank 0's are the ones that are kept.
        distributed.share(self.engine.result().buffers())
        return score(
            self._predictor(),
            self.data.dev,
            self.data.reader,
            workers=count_workers(self.machine),
        )

    def draw_dev(self, epoch: int) -> Mapping[str, bytes]:
        """Draw a few dev frames as the result labels them after an epoch; see `Examples`."""
        return self.examples.draw(self._predictor(), epoch)

    def _predictor(self) -> Predictor:
        network = self.engine.result().eval()
        return Predictor(network, self.device, precision=self.machine.precision)

    def save(self, folder: Path) -> None:
        """Write the result, as it is by now."""
        checkpoint.save_network(folder, self.engine.result(), self._card())

    def _card(self) -> ModelCard:
        """Describe the network for those who load it."""
        network, reader = self.config.network, self.data.reader
        return ModelCard(
            network=network.name,
            backbone=network.backbone,
            output_stride=network.output_stride,
            head_channels=network.head_channels,
            classes=list(reader.classes.names),
            colors=[list(color) for color in reader.classes.colors],
            scale=reader.scale,
            short_side=reader.short_side,
        )
