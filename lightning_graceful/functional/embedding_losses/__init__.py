"""Losses on embeddings, for a new model whose queries search the gallery of the old one.

New and old embeddings may differ in width: the first dimensions of a wider new one are the old-compatible ones, a
narrower one is filled up with zeros. Lengths do not matter where cosines are taken. A target below 0 (such as the usual
-100) marks an unlabelled row: losses on labels leave it out, the others use it. NaN and Inf are refused.
"""

from lightning_graceful.functional.embedding_losses.alignment import feature_alignment_loss as feature_alignment_loss
from lightning_graceful.functional.embedding_losses.class_means import class_means as class_means
from lightning_graceful.functional.embedding_losses.contrastive import Pool as Pool
from lightning_graceful.functional.embedding_losses.contrastive import (
    contrastive_compatibility_loss as contrastive_compatibility_loss,
)
from lightning_graceful.functional.embedding_losses.gallery import (
    gallery_distillation_loss as gallery_distillation_loss,
)
from lightning_graceful.functional.embedding_losses.gallery import gallery_search_loss as gallery_search_loss
from lightning_graceful.functional.embedding_losses.influence import influence_loss as influence_loss
from lightning_graceful.functional.embedding_losses.influence import soft_influence_loss as soft_influence_loss
from lightning_graceful.functional.embedding_losses.mixed import mixed_gallery_loss as mixed_gallery_loss
