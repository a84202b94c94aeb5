"""One perturbation for a whole data set: learned from mini-batches, scored on images that it has not seen."""

from omnirobust.attacks.universal.learn import learn_universal as learn_universal
from omnirobust.attacks.universal.learn import usgd as usgd
from omnirobust.attacks.universal.losses import ClippedCrossEntropy as ClippedCrossEntropy
from omnirobust.attacks.universal.results import UniversalPerturbation as UniversalPerturbation
from omnirobust.attacks.universal.results import UniversalScore as UniversalScore
from omnirobust.attacks.universal.score import score_universal as score_universal
from omnirobust.attacks.universal.weighing import Over as Over
