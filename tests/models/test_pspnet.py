import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from selftrain.models import SegmentationNetwork, build_network
from selftrain.models.pspnet import POOLED_SIZES, CellMeans, PSPHead, cell_shares


@pytest.fixture(scope="module")
def with_auxiliary() -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(
        "pspnet",
        num_classes=3,
        backbone="resnet50",
        output_stride=16,
        backbone_weights="none",
        auxiliary=True,
    )


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(POOLED_SIZES))
def test_the_exported_means_are_those_of_torch(height: int, width: int, cells: int) -> None:
    features = torch.arange(2 * height * width).view(1, 2, height, width).double().sin()
    rows, columns = cell_shares(height, cells).double(), cell_shares(width, cells).double()
    found = rows @ features @ columns.T
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(features, cells), rtol=1e-6, atol=1e-6)


def test_a_pyramid_is_exported_for_sizes_not_yet_known() -> None:
    module = CellMeans(6)
    side = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        module, (torch.zeros(1, 2, 13, 20),), dynamic_shapes=({2: side, 3: side},)
    ).module()
    for size in ((13, 20), (6, 5), (31, 100)):
        features = torch.randn(1, 2, *size)
        torch.testing.assert_close(exported(features), module(features))


def test_only_training_shows_the_auxiliary_logits(with_auxiliary: SegmentationNetwork) -> None:
    images = torch.randint(0, 256, (2, 3, 33, 48), dtype=torch.uint8)
    logits, auxiliary = with_auxiliary.train()(images)
    assert logits.shape == auxiliary.shape == (2, 3, 33, 48)
    assert logits.dtype == auxiliary.dtype == torch.float32
    assert not torch.equal(logits, auxiliary)
    with torch.inference_mode():
        assert with_auxiliary.eval()(images).shape == (2, 3, 33, 48)


def test_the_auxiliary_loss_reaches_only_what_is_before_it(
    with_auxiliary: SegmentationNetwork,
) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with_auxiliary.zero_grad()
    with_auxiliary.train()(images)[1].square().mean().backward()
    reached = {
        ".".join(name.split(".")[:2])
        for name, parameter in with_auxiliary.named_parameters()
        if parameter.grad is not None
    }
    expected = {f"backbone.{part}" for part in ("conv1", "bn1", "layer1", "layer2", "layer3")}
    assert reached == expected | {"auxiliary.classify"}


@torch.inference_mode()
def test_one_far_pixel_changes_the_logits_everywhere() -> None:
    torch.manual_seed(0)
    head = PSPHead(8, 3, channels=16).eval()
    features = torch.randn(1, 8, 24, 24)
    changed = features.clone()
    changed[..., 0, 0] += 50
    assert (head(features, features) != head(changed, changed)).any(dim=1).all()
