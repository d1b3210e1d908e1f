import numpy as np
from numpy.typing import NDArray

def layer_inputs(
    projection: NDArray[np.float32],
    embedding: NDArray[np.float32],
    weight: NDArray[np.float32],
    epsilon: float,
    scale: float,
) -> NDArray[np.float32]: ...

class LayerGateOp: ...
class LayerInputsOp: ...
