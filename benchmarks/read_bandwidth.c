/* How fast this machine reads memory: sums up a large buffer, with and without prefetching.
 *
 *     cc -O3 -march=native -fopenmp benchmarks/read_bandwidth.c -o read_bandwidth
 *     ./read_bandwidth 600 4 7     MB, threads, rounds: prints the best GB/s
 */
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef uint64_t v4 __attribute__((vector_size(32)));

/* The XOR of n 32-byte vectors, a multiple of 16; prefetches `ahead` bytes ahead if not 0. */
static v4 read_all(const v4 *p, int64_t n, int64_t ahead)
{
    v4 sum[8] = {{0}};
    for (int64_t i = 0; i < n; i += 8) {
        if (ahead)
            for (int64_t line = 0; line < 256; line += 64)
                __builtin_prefetch((const char *)(p + i) + ahead + line);
        for (int j = 0; j < 8; j++) sum[j] ^= p[i + j];
    }
    for (int j = 1; j < 8; j++) sum[0] ^= sum[j];
    return sum[0];
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s MB THREADS ROUNDS\n", argv[0]);
        return 2;
    }
    int64_t bytes = atoll(argv[1]) << 20;
    int threads = atoi(argv[2]), rounds = atoi(argv[3]);
    int64_t share = bytes / threads / 4096 * 4096;
    char *data = aligned_alloc(2 << 20, (size_t)(bytes + (2 << 20)));
    if (!data || threads < 1) return 1;
    madvise(data, (size_t)bytes, MADV_HUGEPAGE);
    memset(data, 1, (size_t)bytes);
    const int64_t ahead[] = {0, 1024, 2048, 4096};
    double best = 0;
    volatile uint64_t sink = 0;
    for (int round = 0; round < rounds; round++)
        for (unsigned a = 0; a < sizeof ahead / sizeof *ahead; a++) {
            double begin = omp_get_wtime();
            #pragma omp parallel num_threads(threads)
            {
                v4 sum = read_all((const v4 *)(data + omp_get_thread_num() * share), share / 32, ahead[a]);
                sink ^= sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
            }
            double rate = (double)share * threads / (omp_get_wtime() - begin) / 1e9;
            if (rate > best) best = rate;
        }
    printf("%.2f\n", best);
    return 0;
}
