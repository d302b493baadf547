"""The scikit-learn classifier: scikit-learn's own checks, digits, and what its tools do with it."""

# ruff: noqa: E402

import os
import pickle
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

HERE = Path(__file__).parent  # not the root: the package under test is the installed one

pytest.importorskip("sklearn", "1.6", reason="scikit-learn 1.6 or newer is not installed")

from sklearn import datasets
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sppim_core import Network, Trainer, data
from sppim_core.sklearn import SPPIMClassifier


@parametrize_with_checks([SPPIMClassifier()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    return datasets.load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def iris():
    return datasets.load_iris(return_X_y=True)


def small(**options):
    return SPPIMClassifier(**({"hidden": (32,), "epochs": 20, "random_state": 1} | options))


def digest(model) -> str:
    return model.network_.digest()


@pytest.mark.parametrize("seed", [0, 1])
def test_digits(digits, seed):
    x_train, x_test, y_train, y_test = train_test_split(*digits, random_state=seed, stratify=digits[1])
    assert SPPIMClassifier(random_state=seed).fit(x_train, y_train).score(x_test, y_test) >= 0.97


def test_the_same_network_as_a_trainer_makes(digits):
    """random_state is the seed, and order, rate and draining are those of Trainer.fit()."""
    x, y = digits
    options = {"rule": "dfa", "execution": "pipelined", "staleness": 1, "batch": 50}
    model = SPPIMClassifier((24,), epochs=3, random_state=7, **options).fit(x, y)
    network, scaled = Network([64, 24, 10], seed=7, **options), model.scaler_.transform(x)
    Trainer(network).fit(data.from_arrays(scaled, y, scaled, y), 3)
    assert digest(model) == network.digest() and model.n_iter_ == 3


def test_random_state(iris):
    same = {digest(small(random_state=seed).fit(*iris)) for seed in (5, np.int64(5))}
    assert len(same) == 1 and small(random_state=5).fit(*iris).network_.seed == 5
    drawn = {digest(small(random_state=np.random.RandomState(3)).fit(*iris)) for _ in range(2)}
    state = np.random.RandomState(3)
    moving = [digest(small(random_state=state).fit(*iris)) for _ in range(2)]
    assert len(drawn) == 1 and moving[0] in drawn and moving[1] not in drawn
    assert len({digest(small(random_state=None).fit(*iris)) for _ in range(2)}) == 2


def test_how_it_is_computed_changes_nothing(iris):
    ways = ({}, {"threads": 2}, {"execution": "pipelined"})
    assert len({digest(small(**way).fit(*iris)) for way in ways}) == 1


@pytest.mark.parametrize("factor, offset", [(1e-9, 0), (1e9, 0), (1, 1000), (-3, 1e6)])
def test_features_of_any_scale(iris, factor, offset):
    x, y = iris
    assert small(epochs=60).fit(factor * x + offset, y).score(factor * x + offset, y) >= 0.93


def test_outliers_later_on_saturate(iris):
    x, y = iris
    model = small().fit(x, y)
    far = x.max(axis=0) + 1e6
    assert (model.predict([far]) == model.predict([x.max(axis=0)])).all()


def test_sparse(digits):
    """Zeros stay zeros and are skipped; a network fitted to dense data takes sparse data, and the other way round."""
    x, y = digits
    rows = sparse.csr_array(x)
    fitted, dense = small().fit(rows, y), small().fit(x, y)
    assert fitted.score(rows, y) >= 0.95 and (fitted.predict(rows) == fitted.predict(x)).all()
    assert (dense.predict(rows) == dense.predict(x)).all()
    zeros = [model.network_.counters().activation_sparsity()[0] for model in (fitted, dense)]
    assert zeros[0] > 0.4 > 0.1 > zeros[1]


def test_sparse_data_stay_sparse():
    rows = sparse.random(4000, 4000, density=0.001, format="csr", random_state=0)
    tracemalloc.start()
    try:
        small(hidden=(), epochs=1).fit(rows, np.arange(4000) % 2)
        assert tracemalloc.get_traced_memory()[1] < 4000 * 4000 / 2  # bytes; dense it would be 16 MB of int8
    finally:
        tracemalloc.stop()


def test_scores_and_labels(iris):
    x, y = iris
    names = np.array(["setosa", "versicolor", "virginica"], object)[y]
    model = small().fit(x, names)
    scores = model.decision_function(x)
    assert scores.shape == (150, 3) and (model.classes_[scores.argmax(axis=1)] == model.predict(x)).all()
    assert 0.1 < np.abs(scores).mean() < 10  # in units of the margin
    two = small().fit(x[:100], names[:100])
    scores = two.decision_function(x)
    assert scores.shape == (150,) and (two.classes_[(scores > 0).astype(int)] == two.predict(x)).all()
    assert not hasattr(model, "predict_proba")


def test_clone_and_pickle(iris):
    model = small(rule="dfa", batch=16).fit(*iris)
    twin, again = clone(model), pickle.loads(pickle.dumps(model))
    assert twin.get_params() == model.get_params() and not hasattr(twin, "network_")
    with pytest.raises(NotFittedError):
        twin.predict(iris[0])
    assert digest(again) == digest(model) == digest(twin.fit(*iris))
    assert (again.decision_function(iris[0]) == model.decision_function(iris[0])).all()


def test_search_over_a_pipeline(iris):
    grid = {"sppimclassifier__rule": ["local", "bp"], "sppimclassifier__hidden": [(), (16,), [16, 16]]}
    search = GridSearchCV(make_pipeline(StandardScaler(), small()), grid, cv=3, error_score="raise").fit(*iris)
    assert search.best_score_ >= 0.9 and len(search.cv_results_["params"]) == 6
    assert search.best_estimator_[-1].network_.sizes[0] == 4
    assert cross_val_score(small(), *iris, cv=3).min() >= 0.9


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"hidden": 32}, TypeError, "hidden must be a list of sizes, not 32"),
        ({"hidden": (32, 0)}, ValueError, r"hidden\[1\] must be in 1..65535, not 0"),
        ({"hidden": (32.0,)}, TypeError, r"hidden\[0\] must be an integer, not 32.0"),
        ({"hidden": "32"}, TypeError, r"hidden\[0\] must be an integer, not '3'"),
        ({"rule": "sgd"}, ValueError, "rule must be one of .*, not 'sgd'"),
        ({"epochs": 0}, ValueError, "epochs must be in 1..100000, not 0"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer, not 1.5"),
        ({"batch": 65536}, ValueError, "batch must be in 1..65535, not 65536"),
        ({"product_bits": 1}, ValueError, "product_bits must be in 2..16, not 1"),
        ({"centred": 1}, TypeError, "centred must be True or False, not 1"),
        ({"execution": "parallel"}, ValueError, "execution must be one of .*, not 'parallel'"),
        ({"execution": "pipelined", "rule": "bp"}, ValueError, "execution 'pipelined' is not possible with rule 'bp'"),
        ({"staleness": -1}, ValueError, "staleness must be in 0..64, not -1"),
        ({"threads": 0}, ValueError, "threads must be in 1..256, not 0"),
        ({"random_state": -1}, ValueError, "random_state must be in 0..18446744073709551615, not -1"),
        ({"random_state": "one"}, TypeError, "random_state must be an integer, not 'one'"),
    ],
    ids=str,
)
def test_bad_parameters_are_found_by_fit(iris, options, error, message):
    model = small(**options)
    with pytest.raises(error, match=message):
        model.fit(*iris)
    assert not hasattr(model, "network_")


def test_bad_data(iris):
    x, y = iris
    with pytest.raises(ValueError, match=r"y must hold 2..1024 classes, not 1 class$"):
        small().fit(x, np.zeros(150, int))
    with pytest.raises(ValueError, match="y must hold 2..1024 classes, not 1025 classes"):
        small().fit(np.zeros((2050, 2)), np.arange(2050) // 2)
    with pytest.raises(ValueError, match="number of features of X must be in 1..65535, not 70000"):
        small().fit(sparse.csr_array((150, 70_000)), y)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        small().fit(x, y + 0.5)


def test_interrupted_it_keeps_its_last_fit(iris):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    model = small().fit(*iris)
    kept = digest(model)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            model.set_params(epochs=100_000).fit(*iris)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert digest(model) == kept and model.n_iter_ == 20


def python(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=HERE)


def test_example():
    result = python(HERE.parent / "examples" / "scikit_learn.py")
    assert result.returncode == 0 and result.stdout.startswith("accuracy 9"), result.stderr or result.stdout


def test_without_scikit_learn():
    result = python("-c", "import sys; sys.modules['sklearn'] = None; import sppim_core.sklearn")
    assert "ImportError: sppim_core.sklearn needs scikit-learn 1.6 or newer: pip install 'sppim_core[sklearn]'" in (
        result.stderr
    )
