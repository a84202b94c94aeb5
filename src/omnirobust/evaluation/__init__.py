"""Judge attacks and models: success rates with confidence intervals, smallest distortions, what weights explain."""

from omnirobust.evaluation.carlini_wagner import minimal_l2 as minimal_l2
from omnirobust.evaluation.distortion import Distortion as Distortion
from omnirobust.evaluation.distortion import minimal_eps as minimal_eps
from omnirobust.evaluation.distortion import minimal_linf as minimal_linf
from omnirobust.evaluation.explain import Explanation as Explanation
from omnirobust.evaluation.explain import Order as Order
from omnirobust.evaluation.explain import Ranked as Ranked
from omnirobust.evaluation.explain import explain as explain
from omnirobust.evaluation.explain import rank as rank
from omnirobust.evaluation.explain import resists_alone as resists_alone
from omnirobust.evaluation.metrics import Interval as Interval
from omnirobust.evaluation.metrics import PairedComparison as PairedComparison
from omnirobust.evaluation.metrics import compare_paired as compare_paired
from omnirobust.evaluation.metrics import lift as lift
from omnirobust.evaluation.metrics import paired_mean_difference as paired_mean_difference
from omnirobust.evaluation.metrics import wilson_interval as wilson_interval
from omnirobust.evaluation.rank_correlation import Correlation as Correlation
from omnirobust.evaluation.rank_correlation import correlation as correlation
from omnirobust.evaluation.rank_correlation import spearman as spearman
