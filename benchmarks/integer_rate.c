/* How fast one core multiplies and adds 8-bit integers in registers: the limit of a matmul.
 *
 *     cc -O3 -march=native benchmarks/integer_rate.c -o integer_rate
 *     ./integer_rate 7     rounds: prints the best G multiply-adds/s
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512VNNI__)
typedef __m512i vector;
enum { PRODUCTS = 64 };
#define ZERO() _mm512_setzero_si512()
#define ADD_PRODUCTS(sum, w, x) _mm512_dpbusd_epi32(sum, w, x)
#define KEEP(v) __asm__ volatile("" : "+v"(v))
#elif defined(__AVX2__)
typedef __m256i vector;
enum { PRODUCTS = 32 };
#define ZERO() _mm256_setzero_si256()
#define ADD_PRODUCTS(sum, w, x) _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x))
#define KEEP(v) __asm__ volatile("" : "+x"(v))
#else
#error "this machine has neither AVX2 nor AVX-512 VNNI"
#endif

enum { SUMS = 8, REPEATS = 1 << 20 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* REPEATS times SUMS vectors of products. The result keeps the compiler from removing them. */
static vector multiply(vector w, vector x)
{
    vector sum[SUMS];
#pragma GCC unroll 8
    for (int i = 0; i < SUMS; i++) sum[i] = ZERO();
    for (int repeat = 0; repeat < REPEATS; repeat++) {
#pragma GCC unroll 8
        for (int i = 0; i < SUMS; i++) {
            KEEP(w); /* unknown numbers, so that each product is computed */
            KEEP(x);
            sum[i] = ADD_PRODUCTS(sum[i], w, x);
            KEEP(sum[i]);
        }
    }
#pragma GCC unroll 8
    for (int i = 1; i < SUMS; i++) sum[0] = ADD_PRODUCTS(sum[0], sum[i], x);
    return sum[0];
}

int main(int argc, char **argv)
{
    int rounds = argc == 2 ? atoi(argv[1]) : 0;
    if (rounds < 1) {
        fprintf(stderr, "usage: %s ROUNDS\n", argv[0]);
        return 2;
    }
    vector w = ZERO();
    double best = 0;
    for (int round = 0; round < rounds; round++) {
        double begin = now();
        w = multiply(w, w);
        KEEP(w);
        double rate = (double)REPEATS * SUMS * PRODUCTS / (now() - begin) / 1e9;
        if (rate > best) best = rate;
    }
    printf("%.1f\n", best);
    return 0;
}
