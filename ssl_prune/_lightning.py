"""One Lightning for both kinds of user: `lightning` and `pytorch_lightning` have distinct, unrelated classes.

A `Callback` of one is refused by the command line of the other, and a `LightningModule` of one raises in the other's
`Trainer`. So the package that the program has already imported wins; else the one that the environment variable
SSL_PRUNE_LIGHTNING names ("lightning" or "pytorch_lightning"); else `pytorch_lightning`.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytorch_lightning as pl
else:
    _NAMES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
    _wanted = os.environ.get("SSL_PRUNE_LIGHTNING", "pytorch_lightning")
    if _wanted not in _NAMES:
        raise ImportError(f"SSL_PRUNE_LIGHTNING={_wanted!r}: expected one of {', '.join(_NAMES)}")
    pl = sys.modules.get("lightning.pytorch") or importlib.import_module(_NAMES[_wanted])

__all__ = ["pl"]
