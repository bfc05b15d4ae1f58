"""What is looked at: coloured label maps, panels of pictures, matrices and histograms.

Pictures are RGB uint8 (H, W, 3). Figures are drawn without pyplot, so that nothing global is
touched and threads may draw at once.
"""

import io
from collections.abc import Iterable, Mapping, Sequence

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""RGB (H, W, 3)."""
Colors = Sequence[tuple[int, int, int]]
"""RGB 0..255 for each class."""

SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#666666")
"""Colours of what is compared in a plot: those of Okabe and Ito, told apart by every kind of colour
vision."""

UNLABELLED = (0, 0, 0)
# One hue from light to dark: the same to every kind of colour vision, and in print.
_SHADES = matplotlib.colormaps["Blues"].with_extremes(bad="0.85")
_BLUE = "#4a7ab0"
_TICKS = (0, 1, 5, 20, 50, 100)  # percent
_DPI = 120
_PANEL_WIDTH = 3.2  # inches
_LETTERS = 13  # of a title to the inch
_IN_LEGEND = 6  # names in a line


def colorize(label: NDArray[np.uint8], colors: Colors) -> Picture:
    """Paint a label map (H, W); ids without a colour, such as 255, are black."""
    table = np.full((256, 3), UNLABELLED, dtype=np.uint8)
    table[: len(colors)] = colors
    return np.asarray(table[label])


def overlay(
    image: Picture, label: NDArray[np.uint8], colors: Colors, *, alpha: float = 0.5
) -> Picture:
    """Lay a label map over its image; the image shows untouched where the label is none.

    Args:
        image: RGB (H, W, 3).
        label: (H, W), of the image's size.
        colors: One for each class.
        alpha: In [0, 1], the weight of the colour.
    """
    if image.shape[:2] != label.shape:
        raise ValueError(f"the image is {image.shape[:2]} but its label {label.shape}")
    mixed = cv2.addWeighted(image, 1 - alpha, colorize(label, colors), alpha, 0.0)
    return np.where((label < len(colors))[..., None], mixed, image).astype(np.uint8)


def encode_png(picture: NDArray[np.uint8] | Figure) -> bytes:
    """Return a picture (RGB or gray (H, W)) or a figure as a PNG file."""
    if isinstance(picture, Figure):
        file = io.BytesIO()
        # Without a date and a version equal figures are equal files.
        picture.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
        return file.getvalue()
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    ok, png = cv2.imencode(".png", bgr)
    if not ok:
        raise ValueError(f"{picture.dtype} {picture.shape} cannot be encoded as PNG")
    return png.tobytes()


def encode_jpeg(picture: Picture | Figure, *, quality: int) -> bytes:
    """Return a picture or a figure as a JPEG file of a quality from 0 to 100."""
    picture = rasterize(picture) if isinstance(picture, Figure) else picture
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def encode_webp(picture: Picture, *, quality: int) -> bytes:
    """Return a picture as a lossy WebP file of a quality from 0 to 100."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes())


def rasterize(figure: Figure) -> Picture:
    """Return a figure as a picture."""
    png = np.frombuffer(encode_png(figure), dtype=np.uint8)
    return np.asarray(cv2.imdecode(png, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def shrink(picture: NDArray[np.uint8], widest: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) or a label map (H, W) at most `widest` pixels wide."""
    height, width = picture.shape[:2]
    if width <= widest:
        return picture
    size = (widest, max(1, round(height * widest / width)))
    how = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST_EXACT
    return np.asarray(cv2.resize(picture, size, interpolation=how), dtype=np.uint8)


def confusion_figure(matrix: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Draw a confusion matrix, each row as percent of the pixels of its true class.

    Args:
        matrix: (K, K) pixels: rows are truth, columns are predictions.
        names: Of the K classes. A class without pixels has a grey row.
    """
    true = matrix.sum(axis=1, keepdims=True)
    percent = np.where(true > 0, 100 * matrix / np.maximum(true, 1), np.nan)
    size = 2.6 + 0.46 * len(names)
    figure = _new_figure(size + 0.6, size)
    axes = figure.add_subplot()
    shown = axes.imshow(percent, cmap=_SHADES, norm=_percent())
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:  # a zero in every cell would hide the few that matter
            color = "white" if value > 40 else "black"
            axes.text(
                column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=8
            )
    bar = figure.colorbar(shown, ticks=_TICKS, fraction=0.04, pad=0.02)
    bar.set_label("% of the true class")
    return figure


def confidence_figure(
    histogram: NDArray[np.int64], starts: Sequence[int], names: Sequence[str]
) -> Figure:
    """Draw how confident the teacher was about the pixels it gave to each class.

    Args:
        histogram: (K, B) pixels by 8-bit confidence.
        starts: The lowest of the 256 levels in each of the B bins. Bins may differ in width, so
            what is drawn is the density; the axis gives all of them the same room.
        names: Of the K classes. A class without pixels has a grey row.
    """
    edges = np.array([*starts, 256])
    widths = np.diff(edges)
    total = histogram.sum(axis=1, keepdims=True)
    density = np.where(total > 0, 100 * histogram / np.maximum(total, 1) / widths, np.nan)
    rows = np.arange(len(names)) + 0.5
    figure = _new_figure(7.2, 1.6 + 0.3 * len(names))
    axes = figure.add_subplot()
    extent = (0, len(starts), len(names), 0)
    most = max(1.0, float(np.nanmax(density))) if total.any() else 1.0
    norm = PowerNorm(0.5, vmin=0, vmax=most)
    shown = axes.imshow(density, cmap=_SHADES, norm=norm, aspect="auto", extent=extent)
    axes.set_yticks(rows, names)
    marks = [0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1]
    places = np.interp([255 * mark for mark in marks], edges, np.arange(len(edges)))
    axes.set_xticks(places, [f"{mark:g}" for mark in marks])
    axes.set_xlabel("confidence (stretched towards 1)")
    middle = (edges[:-1] + widths / 2) / 256
    mean = histogram @ middle / np.maximum(total[:, 0], 1)
    right = axes.secondary_yaxis("right")
    labels = [f"{m:.2f}" if n else "none" for m, n in zip(mean, total[:, 0], strict=True)]
    right.set_yticks(rows, labels)
    right.set_ylabel("mean")
    right.tick_params(length=0)
    bar = figure.colorbar(shown, ax=axes, aspect=30, pad=0.02)
    bar.set_label("% of the class on one of 256 levels")
    return figure


def reliability_figure(
    confidence: NDArray[np.float64], accuracy: NDArray[np.float64], pixels: NDArray[np.int64]
) -> Figure:
    """Draw how often labels of a confidence are right.

    Args:
        confidence: Mean in each of the bins, which are equal and run from 0 to 1; nan: empty.
        accuracy: Share of a bin's pixels that are right; nan: empty.
        pixels: In each bin.
    """
    figure = _new_figure(5.0, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    left = np.arange(len(pixels)) / len(pixels)
    width = 1 / len(pixels)
    upper.bar(left, np.nan_to_num(accuracy), width, align="edge", color=_BLUE, edgecolor="white")
    upper.plot([0, 1], [0, 1], "--", color="0.5", linewidth=1)
    upper.plot(confidence, accuracy, "o", color="black", markersize=3)
    upper.set_ylabel("accuracy")
    upper.set_ylim(0, 1)
    share = 100 * pixels / max(int(pixels.sum()), 1)
    lower.bar(left, share, width, align="edge", color="0.6", edgecolor="white")
    lower.set_ylabel("% of pixels")
    lower.set_xlabel("confidence")
    lower.set_xlim(0, 1)
    return figure


def risk_coverage_figure(
    coverage: NDArray[np.float64],
    risk: NDArray[np.float64],
    marks: Sequence[tuple[str, float, float]] = (),
) -> Figure:
    """Draw how much of what is kept is wrong, against how much is kept.

    Args:
        coverage: Share of the pixels that is kept, rising.
        risk: Share of these that is wrong.
        marks: (text, coverage, risk) of points to name.
    """
    figure = _new_figure(5.0, 4.6)
    axes = figure.add_subplot()
    axes.plot(100 * coverage, 100 * risk, color=_BLUE)
    for text, kept, wrong in marks:
        axes.plot([100 * kept], [100 * wrong], "o", color="black", markersize=4)
        side, shift = ("right", -4) if kept > 0.1 else ("left", 4)  # not over the axis
        at = 100 * kept, 100 * wrong
        axes.annotate(text, at, (shift, 5), textcoords="offset points", ha=side)
    axes.set_xlim(0, 102)
    axes.set_ylim(0, max(1.0, 110 * float(risk.max(initial=0))))
    axes.set_xlabel("% of the pixels kept")
    axes.set_ylabel("% of these wrong")
    axes.grid(color="0.92")
    return figure


def side_by_side(pictures: Mapping[str, Picture], *, gap: int = 6) -> Picture:
    """Join pictures of any size in a row, each under its title, at the height of the tallest.

    Args:
        pictures: Title -> picture; drawn in this order.
        gap: White pixels between two.
    """
    if not pictures:
        raise ValueError("there are no pictures to join")
    height = max(picture.shape[0] for picture in pictures.values())
    strip = max(14, round(height * 0.07))
    columns: list[Picture] = []
    for title, picture in pictures.items():
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        column = np.full((strip + height, width, 3), 255, dtype=np.uint8)
        column[strip:] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)
        _write(column[:strip], title)
        columns += [column, np.full((strip + height, gap, 3), 255, dtype=np.uint8)]
    return np.concatenate(columns[:-1], axis=1)


def legend(names: Sequence[str], colors: Colors, *, columns: int = _IN_LEGEND) -> Figure:
    """Draw the classes' names beside their colours, row by row."""
    figure = _new_figure(1.5 * columns, 0.26 * -(-len(names) // columns) + 0.1)
    axes = figure.add_subplot()
    _draw_legend(axes, names, colors, columns)
    return figure


def rows_figure(
    rows: Sequence[tuple[str, Sequence[tuple[str, Picture]]]],
    *,
    legends: Sequence[tuple[Sequence[str], Colors]] = (),
    panel_width: float = _PANEL_WIDTH,
) -> Figure:
    """Draw rows of pictures, each under its title.

    Args:
        rows: Name of the row ("a  teacher", ...; "": none) -> its (title, picture) from left to
            right. Rows may differ in length, pictures in shape.
        legends: (names, a colour for each) of what is below the pictures.
        panel_width: Inches for each picture.
    """
    across = max(len(pictures) for _, pictures in rows)
    heights = [panel_width * _highest(it for _, it in pictures) + 0.35 for _, pictures in rows]
    heights += [0.26 * -(-len(names) // _IN_LEGEND) + 0.1 for names, _ in legends]
    figure = _new_figure(panel_width * across + 0.4, sum(heights) + 0.1 * len(heights))
    grid = figure.add_gridspec(len(heights), across, height_ratios=heights)
    for y, (step, pictures) in enumerate(rows):
        for x, (title, picture) in enumerate(pictures):
            axes = figure.add_subplot(grid[y, x])
            axes.imshow(picture)
            axes.set_title(_shown(title, panel_width), fontsize=9, pad=4, parse_math=False)
            axes.set_xticks([])
            axes.set_yticks([])
            if x == 0:
                text = _shown(step, heights[y])
                axes.set_ylabel(text, fontsize=10, fontweight="bold", parse_math=False)
    for y, (names, colors) in enumerate(legends, len(rows)):
        _draw_legend(figure.add_subplot(grid[y, :]), names, colors, _IN_LEGEND)
    return figure


def _highest(pictures: Iterable[Picture]) -> float:
    """Return the height over the width of the most upright picture, at most 1."""
    return min(1.0, max(float(it.shape[0] / it.shape[1]) for it in pictures))


def _shown(text: str, inches: float) -> str:
    """Return the end of a text that fits, without what no font can draw."""
    most = max(8, int(inches * _LETTERS))
    clean = "".join(it if it.isprintable() else "?" for it in text)
    return clean if len(clean) <= most else f"…{clean[1 - most :]}"


def _percent() -> PowerNorm:
    # By the square root: the few percent that matter would else be one shade with nothing.
    return PowerNorm(0.5, vmin=0, vmax=100)


def _new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(strip: Picture, title: str) -> None:
    """Write a title into a white strip, as large as fits."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = strip.shape[0] / 44
    (width, _), _ = cv2.getTextSize(title, font, scale, 1)
    scale *= min(1.0, (strip.shape[1] - 4) / max(width, 1))
    (width, _), _ = cv2.getTextSize(title, font, scale, 1)
    at = ((strip.shape[1] - width) // 2, round(strip.shape[0] * 0.7))
    cv2.putText(strip, title, at, font, scale, (0, 0, 0), 1, cv2.LINE_AA)


def _draw_legend(axes: Axes, names: Sequence[str], colors: Colors, columns: int) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, columns)
    axes.set_ylim(-(-len(names) // columns), 0)
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        x, y = i % columns, i // columns + 0.5
        rgb = [channel / 255 for channel in color]
        axes.plot([x + 0.08], [y], "s", color=rgb, markersize=9, markeredgecolor="0.4")
        axes.text(x + 0.17, y, name, va="center", fontsize=9, parse_math=False)
