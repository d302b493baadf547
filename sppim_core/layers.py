"""Networks in words: fully connected layers as numbers, convolutions as Conv; their default formats (A9)."""

import re
from dataclasses import dataclass, replace

from sppim_core import _core, check
from sppim_core.errors import ShapeError
from sppim_core.formats import RULES, LayerFormat, Window, check_window, from_core, window_row


@dataclass(frozen=True)
class Conv:
    """A convolution in a list of layers: channels of its output, kernel (one number or rows and columns), stride,
    padding (default: (shorter side - 1) div 2, which keeps the size if the kernel is odd), pool (size of maximum
    pooling, or ("max", size), ("mean", size)), score_window (A12.4; default: what leaves at most 4 x 4 features a
    channel)."""

    channels: int
    kernel: int | tuple[int, int] = 3
    stride: int = 1
    padding: int | None = None
    pool: int | tuple[str, int] | None = None
    score_window: int | None = None

    def __post_init__(self):
        check.integer("channels", self.channels, 1, 65535)
        for size in self.kernel_size:
            check.integer("kernel", size, 1, 255)
        check.integer("stride", self.stride, 1, 255)
        if self.padding is not None:
            check.integer("padding", self.padding, 0, min(self.kernel_size) - 1)
        _ = self.pooling  # checks it
        if self.score_window is not None:
            check.integer("score_window", self.score_window, 1, 16)

    @property
    def kernel_size(self) -> tuple[int, int]:
        if isinstance(self.kernel, tuple):
            if len(self.kernel) != 2:
                raise ValueError(f"kernel must be a size or (rows, columns), not {self.kernel!r}")
            return self.kernel
        return self.kernel, self.kernel

    @property
    def pooling(self) -> tuple[str, int]:
        """Kind and size."""
        if self.pool is None:
            return "none", 0
        kind, size = self.pool if isinstance(self.pool, tuple) else ("max", self.pool)
        return check.choice("pool", kind, _core.POOLINGS[1:]), check.integer("pool", size, 2, 16)

    def window(self, image: tuple[int, int, int]) -> Window:
        """This kernel on images of (height, width, channels)."""
        rows, columns = self.kernel_size
        padding = _default_padding(rows, columns) if self.padding is None else self.padding
        return Window(*image, rows, columns, self.stride, padding)


def _image(value) -> tuple[int, int, int]:
    """The first element of a list of layers: a number of inputs, or (height, width, channels)."""
    if not isinstance(value, tuple):
        return 1, 1, check.integer("layers[0]", value, 1, 65535)
    if len(value) != 3:
        raise ShapeError(f"layers[0] must be a number of inputs or (height, width, channels), not {value!r}")
    height, width, channels = (check.integer("layers[0]", size, 1, 65535) for size in value)
    return height, width, channels


def reads_images(layers) -> bool:
    """Whether hidden layers want images, not vectors."""
    return any(isinstance(layer, Conv) for layer in layers)


def _score_window(conv: Conv, window: Window) -> int:
    """A9: what leaves at most 4 x 4 features a channel."""
    if conv.score_window is not None:
        return conv.score_window
    size = conv.pooling[1] or 1
    return min(16, max(1, *(-(-(count // size) // 4) for count in window.positions)))


def _convolution(conv: Conv, image: tuple[int, int, int], rule: int, bits: int, centred: bool, first: bool):
    window = conv.window(image)
    kind, size = conv.pooling
    check_window(window, conv.channels, size)
    row = _core.convolution_defaults(
        window_row(window),
        conv.channels,
        _core.POOLINGS.index(kind),
        size,
        _score_window(conv, window),
        rule,
        bits,
        centred,
        first,
    )
    return from_core(row)


def layer_formats(layers, rule: str = "local", product_bits: int = 8, centred: bool = True) -> list[LayerFormat]:
    """A9: default formats of a network. layers = [inputs or (height, width, channels), hidden ..., classes]; hidden: a
    number of outputs, or Conv."""
    layers = list(layers)
    if len(layers) < 2:
        raise ShapeError(f"layers must name inputs and classes at least, not {layers}")
    rule_index = RULES.index(check.choice("rule", rule, RULES))
    product_bits = check.integer("product_bits", product_bits, 2, 16)
    centred = check.flag("centred", centred)
    last, image, formats = len(layers) - 1, _image(layers[0]), list[LayerFormat]()
    check.integer(f"layers[{last}] (classes)", layers[-1], 2, 1024)
    for i, layer in enumerate(layers[1:], 1):
        if isinstance(layer, Conv):
            try:
                formats.append(_convolution(layer, image, rule_index, product_bits, centred, i == 1))
            except ShapeError as error:
                raise ShapeError(f"layers[{i}]: {error}") from None
        else:
            outputs = check.integer(f"layers[{i}]", layer, 1, 65535)
            inputs = check.integer(f"values into layers[{i}]", image[0] * image[1] * image[2], 1, 65535)
            row = _core.layer_defaults(inputs, outputs, rule_index, product_bits, centred, i == 1, i == last)
            formats.append(from_core(row))
        image = formats[-1].image
    return formats


def coarser_activations(formats: list[LayerFormat], bits: int) -> list[LayerFormat]:
    """A9: activations of `bits` 1..7 bits over the same range, so with 7 - bits fraction bits less than by default."""
    less = 7 - check.integer("activation_bits", bits, 1, 7)
    result = []
    for i, layer in enumerate(formats):
        if i:
            layer = replace(layer, update_shift=max(0, layer.update_shift - less))
        if i == len(formats) - 1:
            layer = replace(layer, margin_log2=max(7, layer.margin_log2 - (less if i else 0)))
        else:
            layer = replace(
                layer,
                activation_max=2**bits - 1,
                fp_shift=layer.fp_shift if i else layer.fp_shift + less,
                margin_log2=max(7, layer.margin_log2 - less),
            )
        result.append(layer)
    return result


_WORD = re.compile(
    r"(?P<channels>\d+)(c(?P<rows>\d+)(x(?P<columns>\d+))?(s(?P<stride>\d+))?(p(?P<padding>\d+))?"
    r"((?P<kind>[ma])(?P<size>\d+))?(v(?P<score>\d+))?)?"
)


def parse(text: str) -> list[int | Conv]:
    """Hidden layers in words, separated by commas: 256 is fully connected; 32c3m2 a convolution to 32 channels by a
    3 x 3 window with maximum pooling by 2. In this order: c rows [x columns], s stride, p padding, m or a (maximum or
    mean) pooling, v score window."""
    return [_parse_word(word.strip()) for word in text.split(",")] if text.strip() else []


def _parse_word(word: str) -> int | Conv:
    match = _WORD.fullmatch(word)
    if match is None:
        raise ValueError(
            f"{word!r} is not a layer like 256 or 32c3m2 (channels, c window, s stride, p padding, m or a pooling)"
        )
    part = {name: int(text) for name, text in match.groupdict().items() if text and name != "kind"}
    if "rows" not in part:
        return check.integer(f"layer {word!r}", part["channels"], 1, 65535)
    pool = ("mean" if match["kind"] == "a" else "max", part["size"]) if match["kind"] else None
    kernel = (part["rows"], part.get("columns", part["rows"]))
    return Conv(part["channels"], kernel, part.get("stride", 1), part.get("padding"), pool, part.get("score"))


def _default_padding(rows: int, columns: int) -> int:
    return (min(rows, columns) - 1) // 2


def describe(formats: list[LayerFormat]) -> str:
    """784-256-10, or 32x32x3-32c3m2-10 in the words of parse(); score windows are not told."""
    first = formats[0].window
    words = [str(formats[0].inputs) if first is None else f"{first.height}x{first.width}x{first.channels}"]
    for layer in formats:
        window, word = layer.window, str(layer.outputs)
        if window is not None:
            word += f"c{window.rows}" + (f"x{window.columns}" if window.columns != window.rows else "")
            word += f"s{window.stride}" if window.stride > 1 else ""
            word += f"p{window.padding}" if window.padding != _default_padding(window.rows, window.columns) else ""
            word += {"none": "", "max": f"m{layer.pooling_size}", "mean": f"a{layer.pooling_size}"}[layer.pooling]
        words.append(word)
    return "-".join(words)
