"""Float backpropagation of the same network, for comparison: PyTorch, float32, cross-entropy, Adam.

The same layers, images in the same order, augmentation, batches, epochs and steps of the rate (2^-shift); only the
learning differs. PyTorch is an extra: pip install 'sppim_core[compare]'."""

import time
from dataclasses import dataclass

import numpy as np

from sppim_core.arithmetic import image_order
from sppim_core.data import Dataset
from sppim_core.formats import LayerFormat

RATE = 1e-3  # Adam's usual one
_SCALE = 1 / 128  # of inputs with 7 fraction bits (A2)


@dataclass(frozen=True)
class FloatEpoch:
    """One epoch: its number from 0, accuracy on the test images after it."""

    epoch: int
    test_accuracy: float
    seconds: float


def _torch():
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "float backpropagation of a network needs PyTorch: pip install 'sppim_core[compare]'"
        ) from error
    return torch


def _layer(torch, layer: LayerFormat, output: bool) -> list:
    """What one layer is in PyTorch; weights as A5.1 draws them, uniform within sqrt(6 / K), half of it in the last."""
    nn, window = torch.nn, layer.window
    if window is None:
        modules = [nn.Flatten(), nn.Linear(layer.inputs, layer.outputs)]
    else:
        kernel, padding = (window.rows, window.columns), window.padding
        modules = [nn.Conv2d(window.channels, layer.outputs, kernel, window.stride, padding)]
    bound = (6 / layer.fan_in) ** 0.5 / (2 if output else 1)
    nn.init.uniform_(modules[-1].weight, -bound, bound)
    nn.init.zeros_(modules[-1].bias)
    if not output:
        modules.append(nn.ReLU())
    if layer.pooling != "none":
        modules.append((nn.MaxPool2d if layer.pooling == "max" else nn.AvgPool2d)(layer.pooling_size))
    return modules


def build(formats: list[LayerFormat]):
    """The network as a torch.nn.Sequential on images (n, channels, height, width)."""
    torch = _torch()
    last = len(formats) - 1
    modules = [module for i, layer in enumerate(formats) for module in _layer(torch, layer, i == last)]
    return torch.nn.Sequential(*modules).to(memory_format=torch.channels_last)


def _images(torch, x: np.ndarray, image: tuple[int, int, int], mean: np.ndarray):
    """Images of int8 rows as floats, less the mean of each channel over the training images."""
    values = torch.from_numpy(x.reshape(len(x), *image)).float() * _SCALE - torch.from_numpy(mean)
    return values.permute(0, 3, 1, 2)


def _accuracy(torch, model, x: np.ndarray, y: np.ndarray, image, mean, rows: int = 500) -> float:
    right = 0
    with torch.no_grad():
        for first in range(0, len(x), rows):
            part = slice(first, first + rows)
            right += int((model(_images(torch, x[part], image, mean)).argmax(1).numpy() == y[part]).sum())
    return right / len(x)


def train(
    data: Dataset,
    formats: list[LayerFormat],
    epochs: int,
    *,
    rate_shift,
    seed: int = 1,
    batch: int = 64,
    threads: int = 1,
    augmentation=None,
    progress=None,
) -> list[FloatEpoch]:
    """Learns as a Trainer does; rate_shift(epoch): shift of the learning rate. progress is called with each epoch."""
    torch = _torch()
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    window = formats[0].window
    image = (1, 1, data.inputs) if window is None else (window.height, window.width, window.channels)
    pixels = data.x_train.reshape(-1, image[2]) if window is not None else data.x_train
    mean = (pixels.mean(axis=0, dtype=np.float64) * _SCALE).astype(np.float32)
    model = build(formats)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    history, start = [], time.perf_counter()
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = RATE / 2 ** rate_shift(epoch)
        order = image_order(seed, epoch, len(data.y_train))
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            x = data.x_train[chosen]
            if augmentation is not None:
                x = augmentation(x, data.image, chosen, seed, epoch, np.zeros(data.image[2], np.int8))
            loss = torch.nn.functional.cross_entropy(
                model(_images(torch, x, image, mean)), torch.from_numpy(data.y_train[chosen].astype(np.int64))
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy = _accuracy(torch, model, data.x_test, data.y_test, image, mean)
        history.append(FloatEpoch(epoch, accuracy, time.perf_counter() - start))
        if progress:
            progress(history[-1])
    return history
