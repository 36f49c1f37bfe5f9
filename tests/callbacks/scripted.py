"""A module whose validation says what a script says: callbacks that decide by logged values, without a model."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from tests.callbacks.test_old_outputs import trainer

LOADER = DataLoader(torch.ones(4, 1), 2)


def scripted(script, namespace=pl, on_rank_1=None):
    """Log one dict of ``script`` a validation of a fit; weights hold the number of epochs that were trained.

    Where ranks shall disagree, ``on_rank_1`` makes of each value what rank 1 logs.
    """

    class Scripted(namespace.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.register_buffer("trained", torch.zeros((), dtype=torch.int64))
            self.register_buffer("validated", torch.zeros((), dtype=torch.int64))

        def training_step(self, batch, batch_idx):
            return self.layer(batch).sum()

        def on_train_epoch_start(self):
            self.trained += 1

        def validation_step(self, batch, batch_idx):
            pass

        def test_step(self, batch, batch_idx):
            self.log("test/trained", self.trained.float())

        def on_validation_epoch_end(self):
            if self.trainer.sanity_checking:
                return
            values = script[int(self.validated) % len(script)]
            self.validated += 1
            if self.global_rank == 1 and on_rank_1 is not None:
                values = {key: on_rank_1(value) for key, value in values.items()}
            self.log_dict({key: torch.tensor(value) for key, value in values.items()}, sync_dist=on_rank_1 is None)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Scripted()


def run(script, *callbacks, namespace=pl, ckpt_path=None, on_rank_1=None, **options):
    options = {"max_epochs": len(script), "enable_checkpointing": True, "num_sanity_val_steps": 1, **options}
    running = trainer(*callbacks, namespace=namespace, **options)
    running.fit(scripted(script, namespace, on_rank_1), LOADER, LOADER, ckpt_path=ckpt_path)
    return running
