"""A small language guesser: softmax regression on hashed letter groups, trained when it is made."""

from __future__ import annotations

import zlib

import numpy as np

BUCKETS = 8_192
STEPS = 60
RATE = 8.0
TEXTS = {
    "English": (
        "the price of an hour follows from what was measured and from nothing else",
        "whoever sells the machine does not decide what the buyer has to pay for it",
        "this morning the workers were standing in front of the gate and waiting",
        "she wrote that there would be another train to the coast in the evening",
    ),
    "German": (
        "der Preis einer Stunde folgt aus dem was gemessen wurde und aus nichts anderem",
        "wer die Maschine verkauft bestimmt nicht was der Käufer dafür bezahlen muss",
        "heute Morgen standen die Arbeiter vor dem Tor und haben gewartet",
        "sie schrieb dass am Abend noch ein anderer Zug an die Küste fahren würde",
    ),
    "French": (
        "le prix d'une heure découle de ce qui a été mesuré et de rien d'autre",
        "celui qui vend la machine ne décide pas de ce que l'acheteur doit payer",
        "ce matin les ouvriers se tenaient devant la porte et ils attendaient",
        "elle a écrit qu'il y aurait encore un autre train vers la côte dans la soirée",
    ),
    "Spanish": (
        "el precio de una hora se sigue de lo que se midió y de ninguna otra cosa",
        "quien vende la máquina no decide lo que el comprador tiene que pagar por ella",
        "esta mañana los trabajadores estaban delante de la puerta y esperaban",
        "ella escribió que por la noche habría todavía otro tren hacia la costa",
    ),
}
NAMES = tuple(TEXTS)


def features(text: str) -> np.ndarray:
    """Shares of the text's groups of one to three letters, hashed into buckets."""
    found = np.zeros(BUCKETS)
    padded = f" {text.lower()} "
    for size in (1, 2, 3):
        for start in range(len(padded) - size + 1):
            found[zlib.crc32(padded[start : start + size].encode()) % BUCKETS] += 1
    return found / np.linalg.norm(found)


def train() -> np.ndarray:
    """Weights, one column per language."""
    x = np.stack([features(text) for texts in TEXTS.values() for text in texts])
    y = np.repeat(np.eye(len(NAMES)), [len(texts) for texts in TEXTS.values()], axis=0)
    weights = np.zeros((BUCKETS, len(NAMES)))
    for _ in range(STEPS):
        weights += RATE * x.T @ (y - probabilities(x, weights)) / len(x)
    return weights


def probabilities(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How likely each language is, row by row."""
    scores = x @ weights
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
