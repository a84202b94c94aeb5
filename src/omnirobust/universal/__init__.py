"""One perturbation for a whole data set: learned from mini-batches, scored on images that it has not seen."""

from omnirobust.universal.learn import learn_universal as learn_universal
from omnirobust.universal.learn import usgd as usgd
from omnirobust.universal.losses import ClippedCrossEntropy as ClippedCrossEntropy
from omnirobust.universal.results import UniversalPerturbation as UniversalPerturbation
from omnirobust.universal.results import UniversalScore as UniversalScore
from omnirobust.universal.score import score_universal as score_universal
from omnirobust.universal.weighing import Over as Over
