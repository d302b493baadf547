"""Events for TensorBoard, by tensorboardX, which needs neither TensorFlow nor torch."""

try:
    from tensorboardX import SummaryWriter
except ImportError as error:
    raise ImportError("--tensorboard needs tensorboardX: pip install tensorboardX") from error

from sppim_core.history import Progress

SCALARS = ("train_loss", "train_accuracy", "validation_accuracy", "test_accuracy")


class TensorBoard:
    """A progress function that writes one point an epoch to a folder, from a thread: what the last seconds before a
    kill brought may be missing. Epochs written but not kept in a checkpoint are hidden when they come again."""

    def __init__(self, folder: str):
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __call__(self, progress: Progress) -> None:
        epoch = progress.epoch
        if epoch is None:
            return
        if self._writer is None:
            self._writer = SummaryWriter(self._folder, purge_step=epoch.epoch)
        for name in SCALARS:
            value = getattr(epoch, name)
            if value is not None:
                self._writer.add_scalar(name, value, epoch.epoch)
        for kind in ("activation_sparsity", "error_sparsity"):
            for layer, share in enumerate(getattr(epoch, kind)):
                self._writer.add_scalar(f"{kind}/{layer}", share, epoch.epoch)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
