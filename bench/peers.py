"""Training steps of the peers: a multi-layer perceptron with ReLU in torch float32, one thread.

Three of them: autograd with its SGD, backpropagation by hand, local error prediction by hand (the rule `local` of
docs/arithmetic.md, A6, without its centring and rounding). step(i) trains on batch i of a list."""

import torch

RATE = 1e-4
MARGIN = 1.0


def autograd(sizes, batches):
    """Backpropagation by autograd, torch.optim.SGD, cross entropy."""
    modules = []
    for a, b in zip(sizes, sizes[1:]):
        modules += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1])
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    batches = _tensors(batches)

    def step(i: int):
        x, labels = batches[i]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


class _ByHand:
    """Weights, biases and buffers of a network whose steps allocate next to nothing."""

    def __init__(self, sizes, batches):
        self.batches = _tensors(batches)
        n = len(self.batches[0][0])
        generator = torch.Generator().manual_seed(1)
        shapes = list(zip(sizes, sizes[1:]))
        self.weights = [torch.randn(a, b, generator=generator) * (2 / a) ** 0.5 for a, b in shapes]
        self.biases = [torch.zeros(b) for b in sizes[1:]]
        self.outputs = [torch.empty(n, b) for b in sizes[1:]]
        self.errors = [torch.empty(n, b) for b in sizes[1:]]
        self.rate = RATE / n

    def forward(self, x):
        """Outputs of all layers, ReLU in all but the last."""
        for weights, bias, y in zip(self.weights, self.biases, self.outputs):
            torch.addmm(bias, x, weights, out=y)
            if y is not self.outputs[-1]:
                y.clamp_min_(0)
            x = y

    def update(self, x):
        """Gradient and update of all layers, each in one product: W -= rate x^T d."""
        for operand, d, weights, bias in zip([x, *self.outputs], self.errors, self.weights, self.biases):
            weights.addmm_(operand.t(), d, alpha=-self.rate)
            bias.sub_(d.sum(0), alpha=self.rate)


class Backpropagation(_ByHand):
    """The same as autograd(), by hand: products with out=, no graph."""

    @torch.no_grad()
    def __call__(self, i: int):
        x, labels = self.batches[i]
        self.forward(x)
        torch.softmax(self.outputs[-1], 1, out=self.errors[-1])
        self.errors[-1][torch.arange(len(x)), labels] -= 1
        for layer in range(len(self.weights) - 2, -1, -1):
            d = torch.mm(self.errors[layer + 1], self.weights[layer + 1].t(), out=self.errors[layer])
            d.mul_(self.outputs[layer] > 0)
        self.update(x)


class LocalErrorPrediction(_ByHand):
    """Squared hinge on the scores of a fixed random classifier of each hidden layer, weights +-{1, 2, 4, 8} / 16, and
    its transpose back; the output layer learns from its own scores."""

    def __init__(self, sizes, batches):
        super().__init__(sizes, batches)
        generator = torch.Generator().manual_seed(2)
        classes, hidden = sizes[-1], sizes[1:-1]
        self.back, self.bias = [], [torch.zeros(classes) for _ in hidden]
        for width in hidden:
            sign = 1 - 2 * torch.randint(0, 2, (classes, width), generator=generator)
            self.back.append(sign * 2.0 ** torch.randint(0, 4, (classes, width), generator=generator) / 16)
        self.forth = [back.t().contiguous() for back in self.back]
        self.targets = 2 * torch.eye(classes) - 1
        self.scores = torch.empty_like(self.outputs[-1])

    @torch.no_grad()
    def __call__(self, i: int):
        x, labels = self.batches[i]
        self.forward(x)
        target = self.targets[labels]
        for layer, (forth, back) in enumerate(zip(self.forth, self.back)):
            torch.addmm(self.bias[layer], self.outputs[layer], forth, out=self.scores)
            e = self._hinge(self.scores, target)
            torch.mm(e, back, out=self.errors[layer]).mul_(self.outputs[layer] > 0)
            self.bias[layer].sub_(e.sum(0), alpha=self.rate)
        self.errors[-1].copy_(self.outputs[-1])
        self._hinge(self.errors[-1], target)
        self.update(x)

    @staticmethod
    def _hinge(scores, target):
        """target * min(target * score - margin, 0), in place."""
        return scores.mul_(target).sub_(MARGIN).clamp_max_(0).mul_(target)


def _tensors(batches):
    return [
        (torch.tensor(x, dtype=torch.float32) / 128, torch.tensor(labels, dtype=torch.long)) for x, labels in batches
    ]
