"""Learn handwritten digits with local error prediction, then read what it would have cost on the chip."""

from sppim_core import Chip, Network, Trainer, data, report

digits = data.load_digits()
network = Network([digits.inputs, 128, 128, digits.classes], seed=1)
trainer = Trainer(network, Chip.load("ref-b"))
history = trainer.fit(digits, epochs=30)

print(f"test accuracy {history.test_accuracy:.2%}, digest {network.digest()[:16]}")
print(report.table(trainer.figures()))
