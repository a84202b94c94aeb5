"""The versions of an attack that experiments compare."""

from __future__ import annotations

VARIANTS: dict[str, str] = {
    "paper": "the paper's attack, each model to leave its own clean prediction (as in the released code)",
    "paper-by-class": "the paper's attack on groups of images of one class, as the released code makes them on MNIST",
    "paper-clip": "the paper's attack on groups at random, each image clamped to the data range on its own",
    "paper-true": "the paper's attack, true labels",
    "default": "this library's default attack with as many gradient evaluations, its loss the standardised margin that "
    "was the default before, labels as in `paper`; groups at random, each image clamped to the data range on its own",
    "default-by-class": "this library's default attack on groups of images of one class",
    "default-true": "this library's default attack, true labels",
    "paper-acd": "the paper's attack on the models A, C and D alone",
    "paper-acd-true": "the same, true labels",
    "default-acd": "this library's default attack on A, C and D alone",
    "default-acd-true": "the same, true labels",
    "released": "the paper's attack with the released code's loss, which masks every wrong logit with 0",
}
"""Name of each version of the attack, the first to be computed first, and what it means."""
