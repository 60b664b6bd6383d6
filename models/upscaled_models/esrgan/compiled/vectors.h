/* Included by `each_width.h`: the types of a vector width, and what all templates do with them. */

typedef float VECTOR __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t WHOLE __attribute__((vector_size(4 * LANES)));

INLINE VECTOR NAME(load)(const float *from) { return *(const VECTOR *)from; }
INLINE void NAME(store)(float *to, VECTOR value) { *(VECTOR *)to = value; }
