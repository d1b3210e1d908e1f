"""Git LFS pointers: small texts that stand for large files in folders cloned without git-lfs.

The format is that of https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
"""

from __future__ import annotations

from dllama.errors import ModelError

MAGIC = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(data: bytes, path: object) -> None:
    """Raise ModelError if a file is a pointer.

    Args:
        data: the first bytes of the file.
        path: the file, for the message.
    """
    if data.startswith(MAGIC):
        raise ModelError(
            f"{path}: is a Git LFS pointer, not the file itself (git lfs pull fetches the file)"
        )
