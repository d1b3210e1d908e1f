"""The compiled core: kernels that run without the GIL, and the executor that runs them."""
