import torch
import torch.nn.functional as F

from selftrain.losses import cross_entropy


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator).requires_grad_()
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    labels[0, :2] = 255
    return logits, labels


def test_the_loss_is_the_mean_over_labelled_pixels() -> None:
    logits, labels = draw()
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


def test_a_batch_without_labels_has_neither_loss_nor_gradient() -> None:
    logits, labels = draw()
    loss = cross_entropy(logits, torch.full_like(labels, 255))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_labels_may_be_bytes() -> None:
    logits, labels = draw()
    found = cross_entropy(logits, labels.to(torch.uint8))
    torch.testing.assert_close(found, cross_entropy(logits, labels))


def test_another_label_can_be_ignored() -> None:
    logits, labels = draw()
    labels[labels == 255] = 0
    expected = F.cross_entropy(logits, labels, ignore_index=0)
    torch.testing.assert_close(cross_entropy(logits, labels, ignore_index=0), expected)


def test_the_loss_is_float32_under_autocast() -> None:
    logits, labels = draw()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(logits.bfloat16(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits.bfloat16().float(), labels))
