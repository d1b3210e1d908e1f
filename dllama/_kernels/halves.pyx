"""See halves.pxd."""

from libc.stdint cimport int32_t, int64_t

from dllama._kernels.memory cimport Memory
from dllama._kernels.op cimport Pass, first_half
from dllama._kernels.ops.attention cimport keep_partials
from dllama._kernels.ops.elementwise cimport dl_batch, dl_span


cdef class Halves:
    """Memory for the halves of batches.

    Args:
        max_rows: most rows of a batch.
        max_logits: most wanted rows.
        sequences: most sequences in a batch.
    """

    def __cinit__(self, int64_t max_rows, int64_t max_logits, int64_t sequences):
        self.first, self.max_rows, self.sequences = first_half(max_rows), max_rows, sequences
        self.spans = Memory(2 * sequences * sizeof(dl_span))
        self.wanted = Memory(max_logits * sizeof(int32_t))
        self.nbytes = self.spans.nbytes + self.wanted.nbytes

    cdef int64_t place(self, int64_t t) noexcept:
        return t if t < self.cut else t - self.cut + self.first

    cdef bint halve(self, Pass *whole) noexcept:
        cdef int64_t rows = whole.batch.rows, t
        cdef int32_t *wanted = <int32_t *> self.wanted.data
        cdef const dl_span *span
        self.cut = max((rows // 2 + 16) // 32 * 32, rows - (self.max_rows - self.first))
        for t in range(whole.batch.n_spans):
            span = whole.batch.spans + t
            if span.first < self.cut < span.first + span.count and (span.lag or span.tentative):
                return False
        self._set(0, whole, 0, self.cut)
        self._set(1, whole, self.cut, rows)
        for t in range(whole.batch.n_wanted):
            wanted[t] = <int32_t> self.place(whole.batch.wanted[t])
        whole.batch.wanted = wanted
        return True

    cdef void _set(self, int half, const Pass *whole, int64_t begin, int64_t end) noexcept:
        """Set the pass of rows begin to end - 1 of a batch."""
        cdef dl_batch *batch = &self.passes[half].batch
        cdef dl_span *span = <dl_span *> self.spans.data + half * self.sequences
        cdef int64_t n, partials = 0, before
        self.passes[half] = whole[0]
        self.passes[half].halved = True
        batch.rows, batch.n_wanted, batch.spans, batch.n_spans = end - begin, 0, span, 0
        batch.ids += begin
        batch.positions += begin
        batch.lengthened += begin
        batch.blocks += begin
        for n in range(whole.batch.n_spans):
            span[0] = whole.batch.spans[n]
            before = max(0, begin - span.first)
            span.first, span.position = max(0, span.first - begin), span.position + before
            span.count = min(end, whole.batch.spans[n].first + span.count) - begin - span.first
            if span.count > 0:
                partials = keep_partials(span, partials)
                batch.n_spans += 1
                span += 1
