"""The network as a scikit-learn classifier: pipelines, cross-validation and searches take it like any other."""

import numpy as np

from sppim_core import check
from sppim_core.arithmetic import image_order, quantize_inputs
from sppim_core.network import Network
from sppim_core.sparse import is_sparse, quantize_sparse
from sppim_core.train import rate_shift

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"sppim_core.sklearn needs scikit-learn 1.6 or newer: pip install 'sppim_core[sklearn]' ({error})"
    ) from error

_MAX_CLASSES = 1024


class SPPIMClassifier(ClassifierMixin, BaseEstimator):
    """A Network that learns features of any scale and labels of any kind.

    hidden: sizes of the hidden layers. epochs: passes over the data, with the rate of A9. random_state: an integer is
    the network's seed. The others are as for Network; parameters are checked by fit().

    What fit() learns about the features' scale is one map into the input format, kept in scaler_: the range of each
    feature in a dense X becomes -1..1; a sparse X is divided by the largest magnitude of each feature, so that zeros
    stay zeros, and are skipped. What lies beyond the range, later on, saturates. Both maps are exact functions of
    X's extremes: equal data and seeds give equal networks on every machine.

    After fit(): classes_, n_features_in_, feature_names_in_ (if X has names), scaler_, network_, n_iter_ (epochs).
    There is no predict_proba(): the network learns margins, not probabilities."""

    def __init__(
        self,
        hidden=(128, 128),
        *,
        rule="local",
        epochs=100,
        batch=64,
        product_bits=8,
        centred=True,
        execution="sequential",
        staleness=0,
        threads=1,
        random_state=None,
    ):
        self.hidden = hidden
        self.rule = rule
        self.epochs = epochs
        self.batch = batch
        self.product_bits = product_bits
        self.centred = centred
        self.execution = execution
        self.staleness = staleness
        self.threads = threads
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X, y):
        """Learns X (n, features), dense or scipy.sparse, and y (n,), labels of two classes or more, from the start.

        Interrupted (Ctrl-C), what an earlier fit() learned is kept."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        epochs = check.integer("epochs", self.epochs, 1, 100_000)
        network = self._network(X.shape[1], len(classes))
        scaler = (MaxAbsScaler() if is_sparse(X) else MinMaxScaler((-1, 1))).fit(X)
        _train(network, _quantized(scaler, X), labels.astype(np.int32), epochs)
        self.classes_, self.scaler_, self.network_, self.n_iter_ = classes, scaler, network, epochs
        return self

    def decision_function(self, X):
        """Scores in units of the margin that training asks for: (n, classes), of two classes (n,), the second one's
        less the first one's."""
        x = self._inputs(X)
        scores = self.network_.scores(x) / 2.0 ** self.network_.formats[-1].margin_log2
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X):
        """Label of each row, (n,); among equal scores that of the first class."""
        x = self._inputs(X)
        return self.classes_[self.network_.predict(x)]

    def _network(self, inputs: int, classes: int) -> Network:
        """A new network for data of this shape."""
        check.integer("number of features of X", inputs, 1, 65535)
        if not 2 <= classes <= _MAX_CLASSES:
            raise ValueError(f"y must hold 2..{_MAX_CLASSES} classes, not {classes} class{'es' * (classes > 1)}")
        return Network(
            [inputs, *_hidden(self.hidden), classes],
            rule=self.rule,
            seed=_seed(self.random_state),
            batch=self.batch,
            product_bits=self.product_bits,
            centred=self.centred,
            execution=self.execution,
            staleness=self.staleness,
            threads=self.threads,
        )

    def _inputs(self, X):
        """X of a later call, as the network takes it."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        return _quantized(self.scaler_, X)


def _train(network: Network, x, labels: np.ndarray, epochs: int) -> None:
    for epoch in range(epochs):
        order = image_order(network.seed, epoch, len(labels))
        for first in range(0, len(order), network.batch):
            chosen = order[first : first + network.batch]
            network.tick(x[chosen], labels[chosen], rate_shift(epoch, epochs))
        network.drain()


def _quantized(scaler, X):
    """X in the network's input format; sparse stays sparse where zero is mapped to zero."""
    if not is_sparse(X):
        return quantize_inputs(scaler.transform(X))
    if isinstance(scaler, MaxAbsScaler):
        return quantize_sparse(scaler.transform(X), X.shape[1])
    return quantize_inputs(scaler.transform(X.toarray()))


def _hidden(sizes) -> list[int]:
    try:
        sizes = list(sizes)
    except TypeError:
        raise TypeError(f"hidden must be a list of sizes, not {sizes!r}") from None
    return [check.integer(f"hidden[{i}]", size, 1, 65535) for i, size in enumerate(sizes)]


def _seed(random_state) -> int:
    """scikit-learn's convention: None draws from NumPy's global state, a RandomState from its own."""
    if random_state is None or isinstance(random_state, np.random.RandomState):
        return int((random_state or np.random).randint(2**32, dtype=np.uint64))
    return check.integer("random_state", random_state, 0, 2**64 - 1)
