"""Trains a small neural network on two interleaved spirals with plain numpy and reports its loss.

Ends with exit code 1 where the loss did not fall: a training run that learnt nothing failed.
"""

from __future__ import annotations

import os

import coulomb_job
import numpy as np

POINTS = 500
HIDDEN = 32
STEPS_PER_EPOCH = 150
RATE, BETA1, BETA2, EPSILON = 0.003, 0.9, 0.999, 1e-8


def spirals(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on two noisy spirals and which of the two each is on."""
    random = np.random.default_rng(seed)
    side = np.repeat([0, 1], POINTS // 2)
    turn = random.uniform(0.5, 3.0, POINTS) * np.pi
    angle = turn + side * np.pi
    points = np.stack([turn * np.cos(angle), turn * np.sin(angle)], axis=1) / 9
    return points + random.normal(0, 0.02, points.shape), side.astype(float)


def weights(seed: int) -> list[np.ndarray]:
    """Weights and offsets of three layers."""
    random = np.random.default_rng(seed)
    sizes = [(2, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)]
    layers = []
    for rows, columns in sizes:
        layers += [random.normal(0, np.sqrt(2 / rows), (rows, columns)), np.zeros(columns)]
    return layers


def gradients(
    layers: list[np.ndarray], x: np.ndarray, y: np.ndarray
) -> tuple[float, float, list[np.ndarray]]:
    """Mean cross-entropy, share of right answers, and the loss's gradients."""
    w1, b1, w2, b2, w3, b3 = layers
    h1 = np.tanh(x @ w1 + b1)
    h2 = np.tanh(h1 @ w2 + b2)
    guess = 1 / (1 + np.exp(-(h2 @ w3 + b3).ravel()))
    likely = np.clip(guess, 1e-12, 1 - 1e-12)
    loss = -np.mean(y * np.log(likely) + (1 - y) * np.log(1 - likely))
    d3 = ((guess - y) / len(y))[:, None]
    d2 = (d3 @ w3.T) * (1 - h2**2)
    d1 = (d2 @ w2.T) * (1 - h1**2)
    parts = [x.T @ d1, d1.sum(0), h1.T @ d2, d2.sum(0), h2.T @ d3, d3.sum(0)]
    return float(loss), float(np.mean((guess > 0.5) == y)), parts


def train(epochs: int, seed: int) -> list[float]:
    """Adam over the whole set; the loss at the end of each epoch."""
    x, y = spirals(seed)
    layers = weights(seed + 1)
    first = [np.zeros_like(layer) for layer in layers]
    second = [np.zeros_like(layer) for layer in layers]
    losses = []
    for step in range(1, epochs * STEPS_PER_EPOCH + 1):
        loss, right, parts = gradients(layers, x, y)
        for layer, m, v, part in zip(layers, first, second, parts, strict=True):
            m += (1 - BETA1) * (part - m)
            v += (1 - BETA2) * (part**2 - v)
            layer -= RATE * (m / (1 - BETA1**step)) / (np.sqrt(v / (1 - BETA2**step)) + EPSILON)
        if step % STEPS_PER_EPOCH == 0:
            losses.append(loss)
            epoch = step // STEPS_PER_EPOCH
            coulomb_job.progress(f"epoch {epoch}/{epochs}: loss {loss:.4f}, {right:.1%} right")
    return losses


def main() -> int:
    epochs, seed = int(os.environ.get("EPOCHS", "20")), int(os.environ.get("SEED", "1"))
    coulomb_job.ready()
    losses = train(epochs, seed)
    coulomb_job.write_result("training.json", {"epochs": epochs, "seed": seed, "losses": losses})
    return 0 if losses[-1] < losses[0] else 1


if __name__ == "__main__":
    raise SystemExit(main())
