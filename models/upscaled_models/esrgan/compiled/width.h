/* Included by `each_width.h`, which has begun to compile for a vector width: its types, what all templates
 * do with them, and the template. Ends the width. */

typedef float VECTOR __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t WHOLE __attribute__((vector_size(4 * LANES)));

INLINE VECTOR NAME(load)(const float *from) { return *(const VECTOR *)from; }
INLINE void NAME(store)(float *to, VECTOR value) { *(VECTOR *)to = value; }

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
