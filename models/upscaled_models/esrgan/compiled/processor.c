#include "each_width.h"

#ifdef __clang__
#error "GCC is needed: torch brings GCC's OpenMP library, which does not have clang's functions"
#endif

/* The most floats per vector of this processor that `each_width.h` compiles for; 0 for none. */
int fastest_lanes(void) {
#ifdef HAS_WIDTHS
    if (__builtin_cpu_supports("avx512f")) return 16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
    return 0;
}
