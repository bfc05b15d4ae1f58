"""Jitter and blur on the device: the CPU's definitions, and draws that follow from the seed."""

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from selftrain.data.augment import Augmentation
from selftrain.data.device_augment import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    Variation,
    draw_variation,
    jitter_and_blur,
    vary,
)
from selftrain.errors import InputError

PAPER = Augmentation()
LAYOUTS = [torch.contiguous_format, torch.channels_last]

factors = st.floats(0.5, 1.5)
variations = st.builds(
    Variation,
    brightness=factors,
    contrast=factors,
    saturation=factors,
    hue=st.floats(-0.5, 0.5),
    order=st.permutations(range(4)).map(tuple),
    sigma=st.floats(0, 1.3),
)


def draw_images(count: int = 4, height: int = 20, width: int = 24, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    pixels[:, :, :4] = pixels[:, :1, :4]  # gray ones too
    pixels[:, :, 4, :3] = [[0], [255], [255]]
    return torch.from_numpy(pixels)


def albumentations_result(image: Tensor, variation: Variation) -> NDArray[np.float32]:
    """Return what the CPU's way makes of an image (3, H, W), uint8 or 0..1, in its units."""
    pixels = A.ColorJitter(p=1).apply(
        np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
        brightness=variation.brightness,
        contrast=variation.contrast,
        saturation=variation.saturation,
        hue=variation.hue,
        order=list(variation.order),
    )
    if variation.sigma > 0:
        sigmas = (variation.sigma, variation.sigma)
        pixels = A.GaussianBlur(blur_limit=0, sigma_limit=sigmas, p=1)(image=pixels)["image"]
    return np.asarray(pixels, dtype=np.float32).transpose(2, 0, 1)


@settings(deadline=None, max_examples=60)
@given(st.lists(variations, min_size=1, max_size=4), st.integers(0, 100))
def test_images_are_varied_as_albumentations_varies_them(drawn: list[Variation], seed: int) -> None:
    images = draw_images(len(drawn), seed=seed)
    found = vary(images, drawn)
    for image, variation, varied in zip(images, drawn, found, strict=True):
        # Of floats it computes the same; of bytes it rounds after each step.
        exact = 255 * albumentations_result(image.float() / 255, variation)
        np.testing.assert_allclose(varied.numpy(), exact, atol=0.02)


def test_rounding_between_the_steps_is_all_that_differs_from_the_loaders_bytes() -> None:
    images = torch.from_numpy(
        cv2.resize(  # smooth: where colours jump, hues do
            draw_images(1)[0].permute(1, 2, 0).numpy(), (64, 64), interpolation=cv2.INTER_CUBIC
        )
    ).permute(2, 0, 1)[None]
    for seed in range(20):
        variation = draw_variation(seed, PAPER)
        found = vary(images, [variation])[0].numpy()
        difference = found - albumentations_result(images[0], variation)
        assert np.abs(difference).mean() < 2.5
        assert abs(difference.mean()) < 1.5


def test_nothing_is_changed_at_strength_zero() -> None:
    images = draw_images()
    found = jitter_and_blur(images, range(4), jitter=0, blur=0)
    assert found.dtype == torch.float32
    assert torch.equal(found, images.float())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_is_varied_the_same_in_any_batch(layout: torch.memory_format) -> None:
    images = draw_images(12).contiguous(memory_format=layout)
    seeds = list(range(100, 112))
    whole = jitter_and_blur(images, seeds, jitter=0.25, blur=0.5)
    for rows in ([3], [11, 0], list(range(1, 12, 2))):
        part = images[rows].contiguous(memory_format=layout)
        found = jitter_and_blur(part, [seeds[row] for row in rows], jitter=0.25, blur=0.5)
        torch.testing.assert_close(found, whole[rows], rtol=0, atol=1e-3)


def test_the_same_call_twice_is_identical_and_leaves_random_states_and_images_alone() -> None:
    images = draw_images().float()
    before, state = images.clone(), torch.get_rng_state()
    first = jitter_and_blur(images, range(4), jitter=0.25, blur=1)
    assert torch.equal(first, jitter_and_blur(images, range(4), jitter=0.25, blur=1))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_bytes_and_floats_are_varied_alike() -> None:
    images = draw_images()
    found = jitter_and_blur(images.float(), range(4), jitter=0.25, blur=0.5)
    assert torch.equal(found, jitter_and_blur(images, range(4), jitter=0.25, blur=0.5))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_format_is_kept(layout: torch.memory_format) -> None:
    images = draw_images().contiguous(memory_format=layout)
    found = jitter_and_blur(images, range(4), jitter=0.25, blur=1)
    assert found.is_contiguous(memory_format=layout)
    expected = jitter_and_blur(draw_images(), range(4), jitter=0.25, blur=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.lists(variations, min_size=3, max_size=3))
def test_pixels_stay_in_range(drawn: list[Variation]) -> None:
    found = vary(draw_images(3), drawn)
    assert found.min() >= -1e-3
    assert found.max() <= 255 + 1e-3


def test_draws_have_the_distributions_of_the_loaders_augmentation() -> None:
    drawn = [draw_variation(seed, PAPER) for seed in range(2000)]
    for name in ("brightness", "contrast", "saturation", "hue"):
        values = np.array([getattr(it, name) for it in drawn]) - (name != "hue")
        counts, _ = np.histogram(values, bins=5, range=(-0.25, 0.25))
        assert counts.sum() == 2000
        assert (abs(counts - 400) < 80).all()  # 4.5 standard deviations
    blurred = [it.sigma for it in drawn if it.sigma > 0]
    assert abs(len(blurred) - 1000) < 100
    counts, _ = np.histogram(blurred, bins=5, range=(0.15, 1.3))
    assert counts.sum() == len(blurred)
    assert (abs(counts - len(blurred) / 5) < 60).all()
    firsts = np.bincount([it.order[0] for it in drawn])
    assert (abs(firsts - 500) < 90).all()
    assert len({it.order for it in drawn}) == 24


def test_choices_are_independent_of_each_other() -> None:
    drawn = [draw_variation(seed, PAPER) for seed in range(2000)]
    table = [[it.brightness, it.contrast, it.saturation, it.hue, it.sigma > 0] for it in drawn]
    correlations = np.corrcoef(np.array(table).T) - np.eye(5)
    assert np.abs(correlations).max() < 0.1


def test_a_blur_keeps_a_flat_image_and_spreads_a_point_by_its_sigma() -> None:
    flat = torch.full((1, 3, 16, 16), 77.0)
    blurred = vary(flat, [Variation(sigma=1.3)])
    torch.testing.assert_close(blurred, flat)
    point = torch.zeros(1, 3, 33, 33)
    point[..., 16, 16] = 255
    spread = vary(point, [Variation(sigma=1.0)])[0, 0] / 255
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    offsets = torch.arange(33) - 16.0
    variance = (spread.sum(dim=0) * offsets**2).sum().item()
    assert variance == pytest.approx(1, abs=0.05)  # the kernel ends at 3.5 sigma


def test_gray_images_have_no_hue_to_turn() -> None:
    gray = draw_images()[:, :1].expand(-1, 3, -1, -1)
    found = vary(gray, [Variation(hue=0.3, saturation=0.2, order=(HUE, SATURATION, 0, 1))] * 4)
    torch.testing.assert_close(found, gray.float(), rtol=0, atol=1e-3)


def test_the_order_decides_what_is_clipped() -> None:
    image = torch.full((1, 3, 4, 4), 250.0)
    image[..., :2] = 100
    brighter = {"brightness": 1.25, "contrast": 0.75}
    first = vary(image, [Variation(**brighter, order=(BRIGHTNESS, CONTRAST, SATURATION, HUE))])
    last = vary(image, [Variation(**brighter, order=(CONTRAST, BRIGHTNESS, SATURATION, HUE))])
    # 125 and a clipped 255 drawn towards their mean; against 118.75 and 231.25, made brighter.
    torch.testing.assert_close(first[0, 0, 0, [0, 3]], torch.tensor([141.25, 238.75]))
    torch.testing.assert_close(last[0, 0, 0, [0, 3]], torch.tensor([148.4375, 255.0]))


@pytest.mark.parametrize(("jitter", "blur"), [(0.6, 0.5), (0.25, 1.5)])
def test_strengths_out_of_range_are_refused(jitter: float, blur: float) -> None:
    with pytest.raises(InputError, match=f"jitter in .* not .*{blur}, {jitter}"):
        jitter_and_blur(draw_images(1), [0], jitter=jitter, blur=blur)


def test_every_image_needs_a_seed() -> None:
    with pytest.raises(ValueError, match="4 images, but 3 variations"):
        jitter_and_blur(draw_images(), [0, 1, 2], jitter=0.25, blur=0.5)
