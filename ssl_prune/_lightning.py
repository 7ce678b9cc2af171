"""One Lightning for both kinds of user: `lightning` and `pytorch_lightning` have distinct, unrelated classes.

A `Callback` of one is refused by the command line of the other, and a `LightningModule` of one raises in the other's
`Trainer`. So the package that the program has already imported wins; `pytorch_lightning` is the default.
"""

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytorch_lightning as pl
else:
    pl = sys.modules.get("lightning.pytorch") or importlib.import_module("pytorch_lightning")

__all__ = ["pl"]
