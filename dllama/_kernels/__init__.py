"""The compiled core: kernels without Python objects, and the executor that runs them."""
