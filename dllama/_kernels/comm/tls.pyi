from collections.abc import Sequence

from dllama._kernels.comm.link import Link

class Encryption:
    def __init__(
        self, owner: object, functions: Sequence[int], connection: Sequence[int]
    ) -> None: ...

def encrypt(link: Link, encryption: Encryption) -> None: ...
