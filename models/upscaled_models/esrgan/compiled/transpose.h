/* Included by `transpose.c` through `each_width.h`. */

/* One part of the matrix: `rows` x `columns` of `to`. The numbers of a column lie side by side in `from`,
 * the columns `step` apart; the rows of `to` are `row` apart. */
static void NAME(part)(const float *from, ptrdiff_t step, ptrdiff_t rows, ptrdiff_t columns, float *to,
                       ptrdiff_t row) {
    for (ptrdiff_t y = 0; y < rows; y += LANES)
        for (ptrdiff_t x = 0; x < columns; x += LANES) {
            const int height = (int)LEAST(rows - y, LANES), width = (int)LEAST(columns - x, LANES);
            VECTOR block[LANES];
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                block[i] = i >= width        ? (VECTOR){0}
                           : height == LANES ? NAME(load)(from + (x + i) * step + y)
                                             : LOAD_FIRST(from + (x + i) * step + y, FIRST(height));
            NAME(turn)(block);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                if (i >= height)
                    break;
                else if (width == LANES)
                    NAME(store)(to + (y + i) * row + x, block[i]);
                else
                    STORE_FIRST(to + (y + i) * row + x, FIRST(width), block[i]);
        }
}
