# States of linear attention, in blocks of a cache, and the convolution before it.

from libc.math cimport fabs
from libc.stdint cimport int32_t, int64_t

from dllama._kernels.op cimport Bindings, Op
from dllama._kernels.ops.elementwise cimport dl_floats, dl_span
from dllama._kernels.ops.kv_cache cimport Cache


cdef extern from "simd/delta.h" nogil:
    ctypedef struct dl_deltas:
        void (*conv)(const float *const *x, const float *w, int64_t stride, int taps, const float *bias,
                     int64_t n, float *y) noexcept nogil
        void (*delta)(float *state, const float *q, const float *k, const float *v, int64_t K,
                      int64_t width, float decay, float beta, float *o) noexcept nogil
        void (*scan)(float *state, const float *q, const float *k, const float *v, int64_t K,
                     int64_t width, float decay, float *o) noexcept nogil
        void (*gate)(const float *x, const float *gate, int64_t n, float *y) noexcept nogil
        float (*squares)(const float *x, int64_t n) noexcept nogil
    const dl_deltas *dl_deltas_of(int isa)
    double dl_log1p(double x)

cdef enum:
    CHANNELS = 64                   # of an item of the convolution
    MAX_TAPS = 16


# Blocks [block][layer] of S [heads][width / 16][K][16], then inputs of the convolution before the
# position of S [past][channels]. What follows is for positions that S has not taken in: inputs
# [lag][channels] and changes [heads][lag][change].
cdef struct States:
    char *data
    int64_t positions               # of a block
    int64_t layers, heads, size     # S of all heads of a layer begins a layer, of `size` floats each
    int64_t channels, past          # inputs of the convolution that are kept
    int64_t lag                     # most positions of a text that S has not taken in
    int64_t change                  # floats of a change: k [K], v [width], decay, beta
    int64_t floats                  # of a layer of a block

cdef inline float *state_of(const States *s, int64_t block, int64_t layer) noexcept nogil:
    return <float *> s.data + (block * s.layers + layer) * s.floats

cdef inline int64_t padded(int64_t count) noexcept nogil:
    return (count + 15) // 16 * 16

cdef inline float exp_of(const dl_floats *f, float x) noexcept nogil:
    cdef float y
    f.exp_row(&x, 1, &y)
    return y

cdef inline double softplus(const dl_floats *f, float x) noexcept nogil:
    return max(x, 0) + dl_log1p(exp_of(f, <float> -fabs(x)))


cdef class StateCache(Cache):
    cdef States view


# The heads of a node, and where their states are.
cdef struct Recurrent:
    float *src                      # [T][ld]: first what the convolution reads
    int64_t ld
    float *out                      # [T][out_ld], the value heads side by side
    int64_t out_ld
    int64_t count, keys             # value heads and key heads of this node
    int64_t group                   # value heads that read one key head, over all nodes
    int64_t skipped                 # value heads of the first key head that lower ranks hold
    int64_t K, V                    # numbers of a key and of a value
    int64_t channels                # columns of q, k and v
    int taps
    const float *conv               # [taps][channels]
    const float *bias               # [channels], of the convolution; or NULL
    const States *states
    int64_t layer                   # of the cache
    int64_t table                   # where the blocks of this cache begin in those of a span
    const dl_deltas *f

# A head goes through the positions of a span from its state on, in order. Position t is that of row t;
# those of t = -lag to -1 were rows of earlier passes, and their changes are kept.

# The state of a head before position t. A tentative one works on a copy, in scratch [size]. The first
# position of a block goes on from the state of the block before, or from zeros, and leaves that block
# as it is.
cdef float *state_at(const Recurrent *r, const dl_span *span, int64_t t, int64_t head,
                     float *scratch) noexcept nogil
# Copy the change of position t < 0 to change [change].
cdef void recall(const Recurrent *r, const dl_span *span, int64_t t, int64_t head,
                 float *change) noexcept nogil
# Keep the change of position t if it is tentative. A position has to be recalled before.
cdef void keep(const Recurrent *r, const dl_span *span, int64_t t, int64_t head,
               const float *change) noexcept nogil


# An op of the value heads of task.delta. `bind` sets all but conv and bias. `convolve` sets these, and
# adds the stage that replaces src with its convolution.
cdef class RecurrentOp(Op):
    cdef Recurrent heads
    cdef StateCache cache
    # Scratch for a row: [size], [change], q [K], o [width].
    cdef float[:, ::1] conv
    # more: columns of src for each value head, besides those of the convolution.
    cdef int bind(self, Bindings b, task, int64_t more) except -1
    # weight: [channels][taps], then [channels] if there is a bias. Returns what follows them.
    cdef const float *convolve(self, const float *weight, bint bias) except NULL
