"""The chip's learning inside scikit-learn: a pipeline on handwritten digits, cross-validated."""

from sklearn.datasets import load_digits
from sklearn.feature_selection import VarianceThreshold
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from sppim_core.sklearn import SPPIMClassifier

x, y = load_digits(return_X_y=True)
model = make_pipeline(VarianceThreshold(), SPPIMClassifier(random_state=1))  # without the pixels that are never set
accuracy = cross_val_score(model, x, y, cv=StratifiedKFold(5, shuffle=True, random_state=0))
print(f"accuracy {accuracy.mean():.2%} +- {accuracy.std():.2%} in {len(accuracy)} folds")

network = model.fit(x, y)[-1].network_  # a sppim_core.Network, with the counters of its training
print(f"{network}, {network.counters().total('fp_macs_skipped'):,} MACs skipped, digest {network.digest()[:16]}")
