# An op: a task, cut into items for the threads of a pass.
#
# An op has one or more stages. A stage is a pair of functions: how many items it has in this pass,
# and item i. A stage begins when all items of the one before are done, and only then it is asked how
# many it has, once. Its items are independent: any thread may do any of them.

from libc.stdint cimport int64_t

from dllama._kernels.memory cimport Memory
from dllama._kernels.ops.elementwise cimport dl_batch, dl_floats, dl_rows


# What all threads share during a pass.
cdef struct Pass:
    dl_batch batch
    int threads
    const dl_floats *floats
    int encoding                    # how a broadcast sends rows (comm/broadcast.pxd)
    bint halved                     # the rows are a half of a batch (halves.pxd)

# op: the struct that the stage was made with.
ctypedef int64_t (*items_fn)(const Pass *run, const void *op) noexcept nogil
# scratch: this thread's floats, as many as the op asked for. Returns 0, or -1 if a transfer failed.
ctypedef int (*item_fn)(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil

# The items of a stage that one thread does alone.
cdef int64_t one_item(const Pass *run, const void *op) noexcept nogil

cdef struct Stage:
    items_fn items
    item_fn item
    const void *op

cdef enum:
    MAX_STAGES = 7


# A task bound to its buffers and weights. A subclass has its struct as an attribute, and keeps
# alive all objects that the struct points to.
cdef class Op:
    cdef Stage stages[MAX_STAGES]
    cdef int n_stages
    cdef readonly int64_t scratch   # floats that an item needs
    # Append a stage; `op` must live as long as this object.
    cdef int stage(self, items_fn items, item_fn item, const void *op) except -1


# What tasks refer to by name, and what they share.
cdef class Bindings:
    cdef readonly dict buffers      # Rows or Routes by name
    cdef readonly dict matrices     # PackedMatrix by name
    cdef readonly dict vectors      # float32 arrays by name
    cdef readonly dict embeddings   # StoredRows (vocab, columns) by tensor
    cdef readonly tuple caches      # KVCache or StateCache of each kind of layer
    cdef readonly object communicator
    cdef readonly int threads
    cdef readonly int64_t max_rows  # of the buffers
    cdef readonly int64_t first     # row of the batch's buffers that is the first one of these
    cdef readonly int64_t batch_rows    # most rows of a batch; of a whole one if these are of a half
    cdef readonly int64_t max_positions
    cdef readonly int64_t table_size  # KV blocks of the longest sequence
    cdef dict _shared               # objects that several ops use
    # The rows of a buffer.
    cdef const dl_rows *rows(self, str name) except NULL
    # The floats of a buffer; ValueError if it holds Q80 blocks.
    cdef float *floats(self, str name) except NULL
    # The numbers of a vector; NULL for an empty name. ValueError for another length.
    cdef const float *vector(self, str name, int64_t length) except? NULL
    # The object for a key; the first op that asks makes it.
    cdef object shared(self, object key, object make)

# Rows of the buffers that the first half of a batch has; whole tiles, so that both halves are aligned.
cdef inline int64_t first_half(int64_t max_rows) noexcept nogil:
    return (max_rows // 2 + 31) // 32 * 32 if max_rows >= 64 else 0

# How many rows a task works on; tail: only those whose logits are wanted.
cdef inline int64_t rows_of(const Pass *run, bint tail) noexcept nogil:
    return run.batch.n_wanted if tail else run.batch.rows
# The row of the batch that is row t of the task.
cdef inline int64_t row_of(const Pass *run, bint tail, int64_t t) noexcept nogil:
    return run.batch.wanted[t] if tail else t
