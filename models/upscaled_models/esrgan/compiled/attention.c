/* Attention of windows in one step: softmax(factor * queries keys^T + biases) values.
 *
 * A head of a window is small, so its scores never leave the caches.
 */

#include "numbers.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

/* The queries of a bias are filled up to a multiple of what two of the widest vectors hold. */
#define WIDEST_PAIR 32
/* Floats in 64 bytes. */
#define LINE 16

/* Strides count floats. The channels of a place lie side by side. */
typedef struct {
    float *at;
    ptrdiff_t window, head, place;
} Heads;

/* Biases (windows, heads, queries, keys), or none if `at` is null. Those of the keys lie side by
 * side. */
typedef struct {
    const float *at;
    ptrdiff_t window, head, query;
} Bias;

/* Queries and the result have `places`, keys and values `others`. `fixed` is that of each window. */
typedef struct {
    Heads queries, keys, values, out;
    Bias fixed, varied;
    ptrdiff_t windows, heads, places, others, width;
    float factor;
} Attention;

#define TEMPLATE "attend.h"
#include "each_width.h"

typedef struct {
    int lanes;
    void (*attend)(const Attention *, const float *queries, const float *keys, const float *values,
                   const float *const biases[2], ptrdiff_t padded, ptrdiff_t count, float *out,
                   float *scratch);
    void (*turn_matrix)(const float *from, ptrdiff_t row, ptrdiff_t queries, ptrdiff_t keys, float *to,
                        ptrdiff_t padded);
} Kernel;

static Kernel kernel_of(int lanes) {
#ifdef HAS_WIDTHS
    if (lanes == 16) return (Kernel){16, attend_16, turn_matrix_16};
    if (lanes == 8) return (Kernel){8, attend_8, turn_matrix_8};
#endif
    return (Kernel){0};
}

static float *floats(ptrdiff_t count) {
    return aligned_alloc(64, (size_t)((count + LINE - 1) / LINE * LINE) * sizeof(float));
}

static const float *of_head(const Heads *heads, ptrdiff_t window, ptrdiff_t head) {
    return heads->at + window * heads->window + head * heads->head;
}

/* Returns 0 if there is no memory. */
int attend(const Attention *a, int lanes, int threads) {
    const Kernel kernel = kernel_of(lanes);
    const ptrdiff_t padded = (a->places + WIDEST_PAIR - 1) / WIDEST_PAIR * WIDEST_PAIR;
    const ptrdiff_t matrix = padded * a->others;
    float *fixed = a->fixed.at ? floats(a->heads * matrix) : NULL;
    int complete = fixed || !a->fixed.at;
#pragma omp parallel num_threads(threads) reduction(&& : complete)
    {
        float *scratch = floats(2 * kernel.lanes * (a->width + a->others));
        float *varied = a->varied.at ? floats(matrix) : NULL;
        const float *in_varied = NULL;
        complete = complete && scratch && (varied || !a->varied.at);
        if (fixed) {
#pragma omp for
            for (ptrdiff_t head = 0; head < a->heads; head++)
                kernel.turn_matrix(a->fixed.at + head * a->fixed.head, a->fixed.query, a->places,
                                   a->others, fixed + head * matrix, padded);
        }
#pragma omp for schedule(static)
        for (ptrdiff_t number = 0; number < a->windows * a->heads; number++) {
            if (!complete) continue;
            const ptrdiff_t window = number / a->heads, head = number % a->heads;
            if (varied) {
                const float *from = a->varied.at + window * a->varied.window + head * a->varied.head;
                /* One for all heads of a window is turned over once. */
                if (from != in_varied)
                    kernel.turn_matrix(from, a->varied.query, a->places, a->others, varied, padded);
                in_varied = from;
            }
            for (ptrdiff_t i = 0; i < a->places; i += 2 * kernel.lanes) {
                const float *biases[2] = {fixed ? fixed + head * matrix + i : NULL,
                                          varied ? varied + i : NULL};
                kernel.attend(a, of_head(&a->queries, window, head) + i * a->queries.place,
                              of_head(&a->keys, window, head), of_head(&a->values, window, head), biases,
                              padded, LEAST(2 * kernel.lanes, a->places - i),
                              (float *)of_head(&a->out, window, head) + i * a->out.place, scratch);
            }
        }
        free(scratch);
        free(varied);
    }
    free(fixed);
    return complete;
}
