"""Plain NumPy reference of every kernel and of the whole forward pass.

Written to be read and checked against the papers, not to be fast. It shares
no arithmetic with dllama: only ModelSpec, and the reader of .m files where a
test asks for one. tests/test_oracle.py proves it against transformers.
"""
