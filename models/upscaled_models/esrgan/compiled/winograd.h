/* Included by `winograd.c` through `each_width.h`.
 *
 * F(4x4, 3x3) of A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015):
 * a tile of 4 x 4 results takes 36 multiplications per pair of channels instead of 144.
 */

#define VECTORS (COLUMNS / LANES)
/* Tiles whose sums fit into the registers. */
#define TILES_AT_ONCE (LANES == 16 ? 12 : 6)

INLINE void NAME(source_points)(const VECTOR *d, ptrdiff_t step, VECTOR *v) {
    const VECTOR d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step],
                 d5 = d[5 * step];
    const VECTOR even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1;
    const VECTOR far = d4 - d2, farther = 2.0f * (d3 - d1);
    v[0] = 4.0f * d0 - 5.0f * d2 + d4;
    v[1] = even + odd;
    v[2] = even - odd;
    v[3] = far + farther;
    v[4] = far - farther;
    v[5] = 4.0f * d1 - 5.0f * d3 + d5;
}

INLINE void NAME(result_points)(const VECTOR *m, ptrdiff_t step, VECTOR *y) {
    const VECTOR m0 = m[0], m1 = m[step], m2 = m[2 * step], m3 = m[3 * step], m4 = m[4 * step],
                 m5 = m[5 * step];
    const VECTOR sum = m1 + m2, difference = m1 - m2, far = m3 + m4, farther = m3 - m4;
    y[0] = m0 + sum + far;
    y[1] = difference + 2.0f * farther;
    y[2] = sum + 4.0f * far;
    y[3] = difference + 8.0f * farther + m5;
}

/* Transforms `count` channels of one tile's source, to its place in `points` (POINTS, tiles,
 * DEPTH). is_whole: the picture has all of its pixels, and they fill whole vectors. */
INLINE void NAME(source_tile)(const Convolution *c, ptrdiff_t row, ptrdiff_t column, ptrdiff_t channel,
                              ptrdiff_t count, float *points, ptrdiff_t stride, int is_whole) {
    const int shift = c->shift;
    for (const ptrdiff_t end = channel + count; channel < end; channel += LANES, points += LANES) {
        VECTOR d[36], half[36];
        for (ptrdiff_t y = 0; y < 6; y++) {
            const ptrdiff_t at = row + y;
            const float *from = (const float *)c->in + (at >> shift) * c->in_row + channel;
            for (ptrdiff_t x = 0; x < 6; x++) {
                const float *pixel = from + ((column + x) >> shift) * c->in_pixel;
                if (is_whole)
                    d[6 * y + x] = NAME(load)(pixel);
                else if (at >= c->top && at < c->bottom && column + x >= 0 && column + x < c->width)
                    d[6 * y + x] = LOAD_FIRST(pixel, FIRST(LEAST(LANES, end - channel)));
                else
                    d[6 * y + x] = (VECTOR){0};
            }
        }
        for (ptrdiff_t x = 0; x < 6; x++) NAME(source_points)(d + x, 6, half + 6 * x);
        for (ptrdiff_t y = 0; y < 6; y++) {
            VECTOR v[6];
            NAME(source_points)(half + y, 6, v);
            for (ptrdiff_t x = 0; x < 6; x++) NAME(store)(points + (6 * y + x) * stride, v[x]);
        }
    }
}

/* (POINTS, tiles, DEPTH) times (POINTS, outputs / COLUMNS, depth, COLUMNS), outputs rounded up. The
 * product is added to the result (POINTS, tiles, outputs), or replaces it if is_first. */
INLINE void NAME(multiply)(const float *source, ptrdiff_t stride, const float *weights, ptrdiff_t depth,
                           float *result, ptrdiff_t outputs, ptrdiff_t tiles, ptrdiff_t places,
                           int is_first) {
    for (ptrdiff_t point = 0; point < POINTS; point++)
        for (ptrdiff_t column = 0; column < outputs; column += COLUMNS, weights += depth * COLUMNS)
            for (ptrdiff_t tile = 0; tile < tiles; tile += TILES_AT_ONCE) {
                const float *from = source + point * stride + tile * DEPTH;
                float *to = result + point * POINT_STRIDE(places, outputs) + tile * outputs + column;
                VECTOR sum[TILES_AT_ONCE][VECTORS];
#pragma GCC unroll 12
                for (int i = 0; i < TILES_AT_ONCE; i++)
#pragma GCC unroll 4
                    for (int j = 0; j < VECTORS; j++)
                        sum[i][j] =
                            is_first ? (VECTOR){0} : NAME(load)(to + i * outputs + j * LANES);
                for (ptrdiff_t k = 0; k < depth; k++) {
                    VECTOR weight[VECTORS];
#pragma GCC unroll 4
                    for (int j = 0; j < VECTORS; j++)
                        weight[j] = NAME(load)(weights + k * COLUMNS + j * LANES);
#pragma GCC unroll 12
                    for (int i = 0; i < TILES_AT_ONCE; i++)
#pragma GCC unroll 4
                        for (int j = 0; j < VECTORS; j++)
                            sum[i][j] += from[i * DEPTH + k] * weight[j];
                }
#pragma GCC unroll 12
                for (int i = 0; i < TILES_AT_ONCE; i++)
#pragma GCC unroll 4
                    for (int j = 0; j < VECTORS; j++)
                        NAME(store)(to + i * outputs + j * LANES, sum[i][j]);
            }
}

/* Computes one tile's results from its place in `points` (POINTS, tiles, outputs rounded up). */
static inline void NAME(result_tile)(const Convolution *c, ptrdiff_t row, ptrdiff_t column,
                                     const float *points, ptrdiff_t stride) {
    for (ptrdiff_t channel = 0; channel < c->outputs; channel += LANES) {
        const ptrdiff_t left = c->outputs - channel;
        VECTOR m[36], half[36];
        for (ptrdiff_t i = 0; i < 36; i++)
            m[i] = NAME(load)(points + i * stride + channel);
        for (ptrdiff_t x = 0; x < 6; x++) NAME(result_points)(m + x, 6, half + 4 * x);
        const VECTOR bias = NAME(load)(c->bias + channel);
        const VECTOR slope = NAME(load)(c->slopes + channel);
        for (ptrdiff_t y = 0; y < 4; y++) {
            const ptrdiff_t at = row + y;
            if (at < c->first || at >= c->last) continue;
            VECTOR values[4];
            NAME(result_points)(half + y, 4, values);
            for (ptrdiff_t x = 0; x < 4 && column + x < c->width; x++) {
                VECTOR value = values[x] + bias;
                const WHOLE above = value > 0.0f;
                value = (VECTOR)((above & (WHOLE)value) | (~above & (WHOLE)(value * slope)));
                for (const Addend *addend = c->addends; addend < c->addends + ADDENDS; addend++)
                    if (addend->rows) {
                        const float *from = (const float *)addend->rows + at * addend->row +
                                            (column + x) * addend->pixel + channel;
                        value = value * addend->scale +
                                (left < LANES ? LOAD_FIRST(from, FIRST(left)) : NAME(load)(from));
                    }
                float *to = (float *)c->out + at * c->out_row + (column + x) * c->out_pixel + channel;
                if (left < LANES)
                    STORE_FIRST(to, FIRST(left), value);
                else
                    NAME(store)(to, value);
            }
        }
    }
}

/* Computes `count` tiles from `first` on. places: how many tiles the scratch memory holds. */
static void NAME(tiles)(const Convolution *c, ptrdiff_t first, ptrdiff_t count, ptrdiff_t places,
                        float *scratch) {
    const ptrdiff_t across = (c->width + 3) / 4, outputs = WHOLE_COLUMNS(c->outputs);
    const ptrdiff_t in_stride = POINT_STRIDE(places, DEPTH);
    float *source = scratch, *result = scratch + POINTS * in_stride;
    for (ptrdiff_t channel = 0; channel < c->inputs; channel += DEPTH) {
        const ptrdiff_t depth = LEAST(DEPTH, c->inputs - channel);
        const float *weights = (const float *)c->weights + POINTS * channel * outputs;
        for (ptrdiff_t i = 0; i < count; i++) {
            const ptrdiff_t row = c->grid + 4 * ((first + i) / across) - 1;
            const ptrdiff_t column = 4 * ((first + i) % across) - 1;
            float *to = source + i * DEPTH;
            /* The pixels of the next tile that this one does not read: no processor prefetches
             * them by itself. */
            const char *next = (const char *)((const float *)c->in + (row >> c->shift) * c->in_row +
                                              ((column + 6) >> c->shift) * c->in_pixel + channel);
            for (ptrdiff_t y = 0; y < 6 >> c->shift; y++)
                for (ptrdiff_t x = 0; x < 4 >> c->shift; x++) {
                    const char *pixel = next + 4 * (y * c->in_row + x * c->in_pixel);
                    __builtin_prefetch(pixel);
                    __builtin_prefetch(pixel + 64);
                }
            if (row >= c->top && row + 6 <= c->bottom && column >= 0 && column + 6 <= c->width &&
                depth % LANES == 0)
                NAME(source_tile)(c, row, column, channel, depth, to, in_stride, 1);
            else
                NAME(source_tile)(c, row, column, channel, depth, to, in_stride, 0);
        }
        if (channel == 0)
            NAME(multiply)(source, in_stride, weights, depth, result, outputs, count, places, 1);
        else
            NAME(multiply)(source, in_stride, weights, depth, result, outputs, count, places, 0);
    }
    for (ptrdiff_t i = 0; i < count; i++)
        NAME(result_tile)(c, c->grid + 4 * ((first + i) / across), 4 * ((first + i) % across),
                          result + i * outputs, POINT_STRIDE(places, outputs));
}

#undef VECTORS
#undef TILES_AT_ONCE
