/* Includes TEMPLATE once per vector width of x86-64 processors, if GCC compiles it. TEMPLATE finds there:
 *
 * LANES, the floats of a VECTOR, and the whole numbers of a WHOLE. NAME(...), for the names of what
 * it defines. `load` and `store`, which need no alignment. GREATER(a, b): b if one is not a number.
 * The FIRST of a vector's lanes, to load or store them alone. LOWER and UPPER: the halves of two
 * vectors, their lanes in turns.
 */

int fastest_lanes(void);

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_WIDTHS
#ifdef TEMPLATE

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define IN_TURNS(a, b, ...) __builtin_shuffle(a, b, (WHOLE){__VA_ARGS__})
#define VECTOR NAME(vector)
#define WHOLE NAME(whole)
#define INLINE static inline __attribute__((always_inline))

#define LANES 8
#define NAME(name) name##_8
#define GREATER(a, b) ((VECTOR)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define FIRST(count) \
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#define LOAD_FIRST(from, first) ((VECTOR)_mm256_maskload_ps(from, first))
#define STORE_FIRST(to, first, value) _mm256_maskstore_ps(to, first, (__m256)(value))
#define LOWER(a, b) IN_TURNS(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define UPPER(a, b) IN_TURNS(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "width.h"

#define LANES 16
#define NAME(name) name##_16
#define GREATER(a, b) ((VECTOR)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define FIRST(count) ((__mmask16)((1u << (count)) - 1))
#define LOAD_FIRST(from, first) ((VECTOR)_mm512_maskz_loadu_ps(first, from))
#define STORE_FIRST(to, first, value) _mm512_mask_storeu_ps(to, first, (__m512)(value))
#define LOWER(a, b) IN_TURNS(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define UPPER(a, b) IN_TURNS(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#pragma GCC push_options
#pragma GCC target("avx512f,fma")
#include "width.h"

#endif
#endif
