"""Ops and their bindings. The contract is in op.pxd."""

from dllama._kernels.memory cimport Memory
from dllama._kernels.ops.elementwise cimport Rows


cdef int64_t one_item(const Pass *run, const void *op) noexcept nogil:
    return 1


cdef class Op:
    """A task bound to its buffers and weights. Subclasses are made from (Bindings, Task).

    Raises:
        KeyError: the task names a buffer, matrix or vector that does not exist.
        ValueError: one of them has the wrong size.
    """

    cdef int stage(self, items_fn items, item_fn item, const void *op) except -1:
        if self.n_stages == MAX_STAGES:
            raise ValueError(f"an op has at most {MAX_STAGES} stages")
        self.stages[self.n_stages].items = items
        self.stages[self.n_stages].item = item
        self.stages[self.n_stages].op = op
        self.n_stages += 1
        return 0


cdef class Bindings:
    """What the tasks of a graph refer to.

    Args:
        buffers: Rows or Routes by name.
        matrices: PackedMatrix by name.
        vectors: float32 arrays by name.
        embeddings: by tensor, StoredRows (vocab, columns) that tasks look up rows of.
        caches: the KVCache or StateCache of each graph.CacheShape.
        communicator: links to the other nodes; None on one node.
        threads: how many threads run items.
        max_rows: most rows of a batch.
        max_positions: most positions of a sequence.
        table_size: KV blocks of the longest sequence.
    """

    def __init__(self, *, dict buffers, dict matrices, dict vectors, dict embeddings,
                 tuple caches, communicator, int threads, int64_t max_rows, int64_t max_positions,
                 int64_t table_size):
        self.buffers, self.matrices, self.vectors = buffers, matrices, vectors
        self.embeddings, self.caches, self.communicator = embeddings, caches, communicator
        self.threads, self.max_rows, self.max_positions = threads, max_rows, max_positions
        self.first, self.batch_rows, self.table_size = 0, max_rows, table_size
        self._shared = {}

    def part(self, int64_t first, int64_t count, names):
        """The same for some rows of the buffers of these names."""
        cdef Bindings part = Bindings(
            buffers={name: self.buffers[name].part(first, count, self.max_rows) for name in names},
            matrices=self.matrices, vectors=self.vectors, embeddings=self.embeddings,
            caches=self.caches, communicator=self.communicator, threads=self.threads, max_rows=count,
            max_positions=self.max_positions, table_size=self.table_size)
        part.first, part.batch_rows, part._shared = first, self.batch_rows, self._shared
        return part

    cdef const dl_rows *rows(self, str name) except NULL:
        return &(<Rows?> self.buffers[name]).view

    cdef float *floats(self, str name) except NULL:
        cdef const dl_rows *rows = self.rows(name)
        if rows.x == NULL:
            raise ValueError(f"buffer {name} does not hold floats")
        return rows.x

    cdef const float *vector(self, str name, int64_t length) except? NULL:
        cdef const float[::1] numbers
        if not name:
            return NULL
        numbers = self.vectors[name]
        if numbers.shape[0] != length:
            raise ValueError(f"vector {name} has {numbers.shape[0]} numbers, expected {length}")
        return &numbers[0]

    cdef object shared(self, object key, object make):
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    @property
    def nbytes(self):
        """Bytes of all buffers and of the objects that ops share."""
        return sum(one.nbytes for one in (*self.buffers.values(), *self._shared.values()))
