"""How long a thread of a server keeps the others waiting, and with them /health."""

from __future__ import annotations

import gc
import sys

TURN = 0.0005  # seconds that a thread runs while others wait, 0.005 by default

# When Python looks for objects that refer to each other and that nothing else refers to: after so
# many new ones, after so many such looks, and at all objects after so many of those. No thread runs
# meanwhile, and a large answer has so many objects that looks at all of them take 40 ms. The last
# number is larger than by default, the first two keep the others short.
COLLECTIONS = (2000, 10, 250)


def keep_short() -> None:
    """Let threads change often, and collect what is left over in short steps.

    What there is already, the modules, is not looked at again: call it before the model is opened.
    """
    sys.setswitchinterval(TURN)
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)
