/* Included by `each_width.h`, which has begun to compile for a vector width: its types, what all templates
 * do with them, and the template. Ends the width. */

typedef float VECTOR __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t WHOLE __attribute__((vector_size(4 * LANES)));

INLINE VECTOR NAME(load)(const float *from) { return *(const VECTOR *)from; }
INLINE void NAME(store)(float *to, VECTOR value) { *(VECTOR *)to = value; }

/* LANES x LANES numbers turned over. Each round interleaves the first half of the rows with the
 * second. */
INLINE void NAME(turn)(VECTOR *rows) {
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
        VECTOR turned[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            turned[2 * i] = LOWER(rows[i], rows[i + LANES / 2]);
            turned[2 * i + 1] = UPPER(rows[i], rows[i + LANES / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) rows[i] = turned[i];
    }
}

#include TEMPLATE

#pragma GCC pop_options
#undef LANES
#undef NAME
#undef GREATER
#undef FIRST
#undef LOAD_FIRST
#undef STORE_FIRST
#undef LOWER
#undef UPPER
