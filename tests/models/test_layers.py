import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from selftrain.models import SegmentationNetwork, build_network
from selftrain.models.layers import Backbone, conv_bn_relu
from selftrain.models.wide_resnet import PreActivationBlock


class Small(Backbone):
    """Blocks of WideResNet38 in small, with dropout."""

    low_channels, deep_channels = 4, 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 4, 3)
        self.blocks = nn.Sequential(
            PreActivationBlock(4, (4, 4), stride=1, dilation=1, dropout=0.0),
            PreActivationBlock(4, (4, 6, 8), stride=2, dilation=1, dropout=0.5),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        low = self.stem(images)
        return low, self.run(self.blocks, low)


class SmallHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Sequential(nn.Conv2d(8, 3, 1))

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        logits: Tensor = self.classify(deep)
        return logits


def small() -> SegmentationNetwork:
    return SegmentationNetwork(Small(), SmallHead())


def resnet50() -> SegmentationNetwork:
    return build_network(
        "linear", num_classes=3, backbone="resnet50", output_stride=32, backbone_weights="none"
    )


def step(network: SegmentationNetwork, images: Tensor) -> dict[str, Tensor]:
    """Return the logits, all gradients and all running statistics of one step."""
    torch.manual_seed(5)  # for dropout
    logits = network.train()(images)
    logits.square().mean().backward()
    gradients = {name: it.grad for name, it in network.named_parameters() if it.grad is not None}
    return {"logits": logits.detach(), **gradients, **dict(network.named_buffers())}


@pytest.mark.parametrize("make", [small, resnet50])
def test_checkpointed_blocks_change_neither_gradients_nor_statistics(
    make: Callable[[], SegmentationNetwork],
) -> None:
    torch.manual_seed(0)
    network = make()
    checkpointed = copy.deepcopy(network)
    checkpointed.checkpoint_blocks()
    images = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)
    expected, found = step(network, images), step(checkpointed, images)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, msg=f"{name} differs")


def saved_bytes(network: SegmentationNetwork, images: Tensor) -> int:
    """Return the bytes of distinct tensors that the backward pass would find."""
    sizes: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        logits = network.train()(images)
    assert logits.requires_grad
    return sum(sizes.values()) - sum(it.untyped_storage().nbytes() for it in network.parameters())


def test_checkpointed_blocks_keep_less() -> None:
    network = resnet50()
    images = torch.zeros(2, 3, 128, 128, dtype=torch.uint8)
    plain = saved_bytes(network, images)
    network.checkpoint_blocks()
    assert saved_bytes(network, images) < plain / 3


def test_checkpointed_blocks_run_once_without_a_gradient() -> None:
    network = small()
    network.checkpoint_blocks()
    images = torch.zeros(1, 3, 32, 32)
    with torch.inference_mode():
        assert network.eval()(images).shape == (1, 3, 32, 32)


def test_checkpointing_adds_no_weights_and_renames_none() -> None:
    network = small()
    before = list(network.state_dict())
    network.checkpoint_blocks()
    assert list(network.state_dict()) == before
