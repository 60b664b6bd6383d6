/* Included by `attention.c` through `each_width.h`.
 *
 * A vector holds a number for each of LANES queries, so softmax adds up nothing across a vector. Two
 * vectors, PAIR queries, share each number of the keys and values that is read.
 */

#define PAIR (2 * LANES)
/* Keys whose scores fit into the registers, and channels of the result. */
#define KEYS_AT_ONCE (LANES == 16 ? 8 : 4)
#define CHANNELS_AT_ONCE (LANES == 16 ? 12 : 6)

/* to (columns, padded) = from (rows, columns) turned over. The numbers of a row lie side by side, the
 * rows `row` apart. padded: a multiple of LANES. Rows that are missing are 0. */
static void NAME(turn_matrix)(const float *from, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t columns,
                              float *to, ptrdiff_t padded) {
    for (ptrdiff_t y = 0; y < padded; y += LANES)
        for (ptrdiff_t x = 0; x < columns; x += LANES) {
            const int width = (int)LEAST(columns - x, LANES);
            VECTOR block[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                block[i] = y + i >= rows    ? (VECTOR){0}
                           : width == LANES ? NAME(load)(from + (y + i) * row + x)
                                            : LOAD_FIRST(from + (y + i) * row + x, FIRST(width));
            NAME(turn)(block);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                if (i < width) NAME(store)(to + (x + i) * padded + y, block[i]);
        }
}

/* to (rows, columns) = from (columns, PAIR) turned over. */
INLINE void NAME(turn_back)(const float *from, ptrdiff_t rows, ptrdiff_t columns, float *to,
                            ptrdiff_t row) {
    for (ptrdiff_t y = 0; y < rows; y += LANES)
        for (ptrdiff_t x = 0; x < columns; x += LANES) {
            const int width = (int)LEAST(columns - x, LANES);
            VECTOR block[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                block[i] = i < width ? NAME(load)(from + (x + i) * PAIR + y) : (VECTOR){0};
            NAME(turn)(block);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                if (y + i < rows) STORE_FIRST(to + (y + i) * row + x, FIRST(width), block[i]);
        }
}

/* e to the power of x, which is 0 at most; not below 2^-80. 2 to the power of a fraction by a polynomial,
 * fitted to the least relative error (1e-7); the whole part is added to the exponent. */
INLINE VECTOR NAME(power)(VECTOR x) {
    /* Masked places would get weights so small that their products with values are denormal. Those take
     * a hundred times as long. */
    x = GREATER((VECTOR){0} - 80.0f, x * 1.44269504f);
    /* 1.5 * 2^23: a sum with it has no bits for fractions. */
    const VECTOR whole = x + 12582912.0f;
    const VECTOR f = x - (whole - 12582912.0f);
    VECTOR p = f * 1.327647129e-3f + 9.675540961e-3f;
    p = p * f + 5.550713092e-2f;
    p = p * f + 0.2402212024f;
    p = p * f + 0.6931469440f;
    p = p * f + 1.000000119f;
    /* Not shifted bits of what is no number. */
    const WHOLE exponent = (WHOLE)whole << 23 & (whole == whole);
    return (VECTOR)((WHOLE)p + exponent);
}

/* The scores of `count` keys, (count, PAIR), and the greatest so far. queries: (width, PAIR). biases:
 * two of (count, padded), or null. */
INLINE void NAME(score)(const float *queries, const float *keys, ptrdiff_t key, ptrdiff_t width,
                        float factor, const float *const biases[2], ptrdiff_t padded,
                        float *scores, VECTOR greatest[2], int count) {
    VECTOR sum[KEYS_AT_ONCE][2];
#pragma GCC unroll 8
    for (int j = 0; j < count; j++) sum[j][0] = sum[j][1] = (VECTOR){0};
    for (ptrdiff_t c = 0; c < width; c++) {
        const VECTOR first = NAME(load)(queries + c * PAIR);
        const VECTOR second = NAME(load)(queries + c * PAIR + LANES);
#pragma GCC unroll 8
        for (int j = 0; j < count; j++) {
            const float value = keys[j * key + c];
            sum[j][0] += value * first;
            sum[j][1] += value * second;
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < count; j++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            VECTOR score = sum[j][half] * factor;
            for (int b = 0; b < 2; b++)
                if (biases[b]) score += NAME(load)(biases[b] + j * padded + half * LANES);
            greatest[half] = GREATER(score, greatest[half]);
            NAME(store)(scores + j * PAIR + half * LANES, score);
        }
}

/* `count` channels of the result, (count, PAIR): weights (keys, PAIR) times values, divided by
 * `total`. */
INLINE void NAME(mix)(const float *weights, ptrdiff_t keys, const float *values, ptrdiff_t value,
                      const VECTOR total[2], float *result, int count) {
    VECTOR sum[CHANNELS_AT_ONCE][2];
#pragma GCC unroll 12
    for (int c = 0; c < count; c++) sum[c][0] = sum[c][1] = (VECTOR){0};
    for (ptrdiff_t j = 0; j < keys; j++) {
        const VECTOR first = NAME(load)(weights + j * PAIR);
        const VECTOR second = NAME(load)(weights + j * PAIR + LANES);
#pragma GCC unroll 12
        for (int c = 0; c < count; c++) {
            const float factor = values[j * value + c];
            sum[c][0] += factor * first;
            sum[c][1] += factor * second;
        }
    }
    const VECTOR share[2] = {1.0f / total[0], 1.0f / total[1]};
#pragma GCC unroll 12
    for (int c = 0; c < count; c++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++)
            NAME(store)(result + c * PAIR + half * LANES, sum[c][half] * share[half]);
}

/* The result for `count` queries, PAIR at most, of one head. biases: two of (others, padded), or null.
 * scratch: PAIR * (width + others) floats. */
static void NAME(attend)(const Attention *a, const float *queries, const float *keys,
                         const float *values, const float *const biases[2], ptrdiff_t padded,
                         ptrdiff_t count, float *out, float *scratch) {
    const ptrdiff_t width = a->width, others = a->others;
    const ptrdiff_t key = a->keys.place, value = a->values.place;
    /* The queries first, and the result later. */
    float *turned = scratch, *scores = scratch + PAIR * width;
    NAME(turn_matrix)(queries, a->queries.place, count, width, turned, PAIR);

    VECTOR greatest[2] = {(VECTOR){0} - INFINITY, (VECTOR){0} - INFINITY};
    const ptrdiff_t even = others / KEYS_AT_ONCE * KEYS_AT_ONCE;
    for (ptrdiff_t j = 0; j < others; j += j < even ? KEYS_AT_ONCE : 1) {
        const float *here[2];
        for (int b = 0; b < 2; b++) here[b] = biases[b] ? biases[b] + j * padded : NULL;
        if (j < even)
            NAME(score)(turned, keys + j * key, key, width, a->factor, here, padded, scores + j * PAIR,
                        greatest, KEYS_AT_ONCE);
        else
            NAME(score)(turned, keys + j * key, key, width, a->factor, here, padded, scores + j * PAIR,
                        greatest, 1);
    }

    VECTOR total[2] = {{0}, {0}};
#pragma GCC unroll 4
    for (ptrdiff_t j = 0; j < others; j++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            float *at = scores + j * PAIR + half * LANES;
            const VECTOR weight = NAME(power)(NAME(load)(at) - greatest[half]);
            total[half] += weight;
            NAME(store)(at, weight);
        }

    const ptrdiff_t parts = (width + CHANNELS_AT_ONCE - 1) / CHANNELS_AT_ONCE;
    const ptrdiff_t channels = (width + parts - 1) / parts;
    for (ptrdiff_t part = 0; part < parts; part++) {
        /* The last part may compute some channels again. */
        const ptrdiff_t c = LEAST(part * channels, width - channels);
        float *to = turned + c * PAIR;
        switch (channels) {
#define CASE(n) \
    case n: NAME(mix)(scores, others, values + c, value, total, to, LEAST(n, CHANNELS_AT_ONCE)); break;
            CASE(1)
            CASE(2)
            CASE(3)
            CASE(4)
            CASE(5)
            CASE(6)
            CASE(7)
            CASE(8)
            CASE(9)
            CASE(10)
            CASE(11)
            CASE(12)
#undef CASE
        }
    }
    NAME(turn_back)(turned, count, width, out, a->out.place);
}

#undef PAIR
#undef KEYS_AT_ONCE
#undef CHANNELS_AT_ONCE
