"""Search of a gallery by the embeddings of another model: exact, in bounded memory, by definitions that know ties."""

from lightning_graceful.functional.retrieval.identification import Identification as Identification
from lightning_graceful.functional.retrieval.identification import identification_rates as identification_rates
from lightning_graceful.functional.retrieval.measures import average_queries as average_queries
from lightning_graceful.functional.retrieval.measures import retrieval_metrics as retrieval_metrics
from lightning_graceful.functional.retrieval.measures import retrieval_per_query as retrieval_per_query
from lightning_graceful.functional.retrieval.neighbours import RetrievalFlips as RetrievalFlips
from lightning_graceful.functional.retrieval.neighbours import neighbour_stability as neighbour_stability
from lightning_graceful.functional.retrieval.neighbours import retrieval_flips as retrieval_flips
from lightning_graceful.functional.retrieval.pairwise import PairwiseCompatibility as PairwiseCompatibility
from lightning_graceful.functional.retrieval.pairwise import pairwise_compatibility as pairwise_compatibility
from lightning_graceful.functional.retrieval.search import Neighbours as Neighbours
from lightning_graceful.functional.retrieval.search import search_gallery as search_gallery
from lightning_graceful.functional.retrieval.updates import BackfillCurve as BackfillCurve
from lightning_graceful.functional.retrieval.updates import CompatibilityMatrix as CompatibilityMatrix
from lightning_graceful.functional.retrieval.updates import backfill_curve as backfill_curve
from lightning_graceful.functional.retrieval.updates import compatibility_matrix as compatibility_matrix
from lightning_graceful.functional.retrieval.verification import Verification as Verification
from lightning_graceful.functional.retrieval.verification import verification_rates as verification_rates
