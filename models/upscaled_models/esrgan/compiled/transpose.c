/* Matrices turned over: copies whose rows are columns in memory. */

#include "numbers.h"

/* Sides of the part that is copied at once. It fills a third of a second cache. */
#define PART 256
#define OUTER 4

#define TEMPLATE "transpose.h"
#include "each_width.h"

typedef void (*Part)(const float *from, ptrdiff_t step, ptrdiff_t rows, ptrdiff_t columns, float *to,
                     ptrdiff_t row);

/* to (sizes, rows, columns), dense. The numbers of a column lie side by side in `from`, the columns `step`
 * apart, and the matrices `strides` apart. */
void transpose(const float *from, const ptrdiff_t sizes[OUTER], const ptrdiff_t strides[OUTER],
               ptrdiff_t step, ptrdiff_t rows, ptrdiff_t columns, float *to, int threads) {
#ifdef HAS_WIDTHS
    const Part part = fastest_lanes() == 16 ? part_16 : part_8;
    const ptrdiff_t down = (rows + PART - 1) / PART, across = (columns + PART - 1) / PART;
    const ptrdiff_t matrices = sizes[0] * sizes[1] * sizes[2] * sizes[3];
#pragma omp parallel for collapse(3) num_threads(threads)
    for (ptrdiff_t matrix = 0; matrix < matrices; matrix++)
        for (ptrdiff_t i = 0; i < down; i++)
            for (ptrdiff_t j = 0; j < across; j++) {
                const float *source = from + i * PART + j * PART * step;
                ptrdiff_t number = matrix;
                for (int n = OUTER - 1; n >= 0; number /= sizes[n--])
                    source += number % sizes[n] * strides[n];
                part(source, step, LEAST(PART, rows - i * PART), LEAST(PART, columns - j * PART),
                     to + (matrix * rows + i * PART) * columns + j * PART, columns);
            }
#endif
}
