# Sums over segments of the columns of one or several matrices, in the order of dllama.graph.sum_tree.

from libc.stdint cimport int64_t

from dllama._kernels.ops.matmul cimport Matmul, Order, dl_segment


# sums[T][segments][16] += the products of T rows of src with a panel of a matrix, each times a factor.
# leaves: the segments, without additions. factors: [T].
cdef void add_products(const Matmul *m, const dl_segment *leaves, int segments,
                       const float *factors, int64_t T, int64_t panel, float *sums) noexcept nogil

# Add up sums[segments][16] of a row as the order says; store (or add) the first `valid` numbers of each
# of those that remain. dst_stride: floats from one of them to the next.
cdef void put_sums(const dl_segment *order, int segments, float *sums, bint add, float *dst,
                   int64_t dst_stride, int64_t valid) noexcept nogil

# The order of a sum, and the same without additions.
cdef Order order_of(sums)
cdef Order leaves_of(sums)
