"""Judge attacks and models: success rates with confidence intervals."""

from omnirobust.evaluation.metrics import Interval as Interval
from omnirobust.evaluation.metrics import PairedComparison as PairedComparison
from omnirobust.evaluation.metrics import compare_paired as compare_paired
from omnirobust.evaluation.metrics import lift as lift
from omnirobust.evaluation.metrics import paired_mean_difference as paired_mean_difference
from omnirobust.evaluation.metrics import wilson_interval as wilson_interval
