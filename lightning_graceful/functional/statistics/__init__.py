"""Statistics of rates, of their differences and of ratios. Numpy, and scipy where it is used: no torch is loaded."""

from lightning_graceful.functional.statistics.bootstrap import bootstrap_counts as bootstrap_counts
from lightning_graceful.functional.statistics.bootstrap import cluster_bootstrap as cluster_bootstrap
from lightning_graceful.functional.statistics.bootstrap import poisson_bootstrap as poisson_bootstrap
from lightning_graceful.functional.statistics.clustered import (
    clustered_difference_interval as clustered_difference_interval,
)
from lightning_graceful.functional.statistics.effective import RatioSums as RatioSums
from lightning_graceful.functional.statistics.effective import effective_counts as effective_counts
from lightning_graceful.functional.statistics.effective import effective_size as effective_size
from lightning_graceful.functional.statistics.effective import ratio_sums as ratio_sums
from lightning_graceful.functional.statistics.effective import ratio_variance as ratio_variance
from lightning_graceful.functional.statistics.intervals import Interval as Interval
from lightning_graceful.functional.statistics.intervals import exact_interval as exact_interval
from lightning_graceful.functional.statistics.intervals import exact_p_value as exact_p_value
from lightning_graceful.functional.statistics.intervals import wilson_interval as wilson_interval
from lightning_graceful.functional.statistics.multiplicity import benjamini_hochberg as benjamini_hochberg
from lightning_graceful.functional.statistics.multiplicity import holm as holm
from lightning_graceful.functional.statistics.paired import MarginTest as MarginTest
from lightning_graceful.functional.statistics.paired import equivalence as equivalence
from lightning_graceful.functional.statistics.paired import mcnemar_exact as mcnemar_exact
from lightning_graceful.functional.statistics.paired import nfr_difference_interval as nfr_difference_interval
from lightning_graceful.functional.statistics.paired import non_inferiority as non_inferiority
from lightning_graceful.functional.statistics.paired import paired_difference_interval as paired_difference_interval
from lightning_graceful.functional.statistics.planning import minimum_detectable_nfr as minimum_detectable_nfr
from lightning_graceful.functional.statistics.planning import rows_needed as rows_needed
