/* The loops of conifer.attention/1, for one instruction set. Included by attention.c through conifer_simd.h.
 *
 * Tiles are small matrix products: scores = q keys', with the keys of a tile turned to [P][TILE] so that a vector holds
 * positions, then sum = keep sum + weights values. Weights are powers of 2 of scores in units of log2(e) less the largest so
 * far (online softmax, arXiv:1805.02867), everything in float32. */

/* Processors with AVX2 convert halves; a test that emulates AVX-512 in portable C has no instruction for it. */
#if CK_LANES >= 8 && !defined(CK_EMULATE_AVX512)
#define CK_CONVERTS 1
#else
#define CK_CONVERTS 0
#endif

/* ---- rows of a pool as float32 */

CK_FN float CK_ISA(half)(const char *p) {
    uint16_t h;
    __builtin_memcpy(&h, p, sizeof h);
#if CK_CONVERTS
    return _cvtsh_ss(h);
#else
    return half_to_float(h);
#endif
}

CK_FN ckv CK_ISA(load_halves)(const char *p) {
#if CK_CONVERTS && CK_LANES == 16
    return (ckv)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif CK_CONVERTS
    return (ckv)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#elif defined(__aarch64__)
    uint16x4_t h;
    __builtin_memcpy(&h, p, sizeof h);
    return (ckv)vcvt_f32_f16(vreinterpret_f16_u16(h));
#else
    uint16_t held[CK_LANES];
    __builtin_memcpy(held, p, sizeof held);
    ckv v;
    for (int i = 0; i < CK_LANES; i++) {
        v[i] = half_to_float(held[i]);
    }
    return v;
#endif
}

CK_FN ckv CK_ISA(load_bytes)(const char *p) {
#if CK_CONVERTS && CK_LANES == 16
    return (ckv)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif CK_CONVERTS
    return (ckv)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
    ckv v;
    for (int i = 0; i < CK_LANES; i++) {
        v[i] = (float)(int8_t)p[i];
    }
    return v;
#endif
}

CK_FN ckv CK_ISA(load_upper_halves)(const char *p) {
    typedef uint16_t halves __attribute__((vector_size(2 * CK_LANES)));
    halves h;
    __builtin_memcpy(&h, p, sizeof h);
    return (ckv)(__builtin_convertvector(h, ck_ints) << 16);
}

/* Elements c .. c + CK_LANES - 1 of a row; c is a multiple of CK_LANES. */
CK_FN ckv CK_ISA(load_row)(int dtype, const char *row, int64_t c) {
    if (dtype == CK_Q8_0) {
        const char *block = row + c / 32 * 34;
        return CK_ISA(load_bytes)(block + 2 + c % 32) * CK_ISA(half)(block);
    }
    return dtype == CK_F32   ? ck_load((const float *)(const void *)(row + 4 * c))
           : dtype == CK_F16 ? CK_ISA(load_halves)(row + 2 * c)
                             : CK_ISA(load_upper_halves)(row + 2 * c);
}

/* The last n < CK_LANES elements of a row, from c on, and zeros. A row of q8_0 is whole blocks and has no such end. */
static __attribute__((noinline)) ckv CK_ISA(load_end)(int dtype, const char *row, int64_t c, int64_t n) {
    float held[CK_LANES] = {0};
    memcpy(held, row + (dtype == CK_F32 ? 4 : 2) * c, (size_t)((dtype == CK_F32 ? 4 : 2) * n));
    return dtype == CK_F32   ? ck_load(held)
           : dtype == CK_F16 ? CK_ISA(load_halves)((const char *)held)
                             : CK_ISA(load_upper_halves)((const char *)held);
}

/* to[c][r] = row[r][c] for c < P; n_row in whole vectors. */
CK_FN void CK_ISA(turn_rows)(int dtype, const char *const *row, int64_t n_row, int64_t P, float *to) {
    const int64_t whole = P / CK_LANES * CK_LANES;
    for (int64_t r = 0; r < n_row; r += CK_LANES) {
        ckv square[CK_LANES];
        for (int64_t c = 0; c < whole; c += CK_LANES) {
#pragma GCC unroll 16
            for (int i = 0; i < CK_LANES; i++) {
                square[i] = CK_ISA(load_row)(dtype, row[r + i], c);
            }
            CK_ISA(ck_interleave)(CK_LANES, square);
#pragma GCC unroll 16
            for (int i = 0; i < CK_LANES; i++) {
                ck_store(to + (c + i) * TILE + r, square[i]);
            }
        }
        for (int64_t i = 0; whole < P && i < CK_LANES; i++) {
            float end[CK_LANES];
            ck_store(end, CK_ISA(load_end)(dtype, row[r + i], whole, P - whole));
            for (int64_t c = whole; c < P; c++) {
                to[c * TILE + r + i] = end[c - whole];
            }
        }
    }
}

/* to[r][c] = row[r][c], and 0 for c from n to the next whole vector. */
CK_FN void CK_ISA(copy_rows)(int dtype, const char *const *row, int64_t n_row, int64_t n, float *to, int64_t width) {
    for (int64_t r = 0; r < n_row; r++) {
        int64_t c = 0;
        for (; c + CK_LANES <= n || (dtype == CK_Q8_0 && c < n); c += CK_LANES) { /* a block has no end within a vector */
            ck_store(to + r * width + c, CK_ISA(load_row)(dtype, row[r], c));
        }
        for (; c < width; c += CK_LANES) {
            ck_store(to + r * width + c, c < n ? CK_ISA(load_end)(dtype, row[r], c, n - c) : ck_all(0.0f));
        }
    }
}

#define CK_BY_DTYPE(dtype, function, ...)                                                                              \
    switch (dtype) {                                                                                                   \
    case CK_F16: function(CK_F16, __VA_ARGS__); break;                                                                 \
    case CK_BF16: function(CK_BF16, __VA_ARGS__); break;                                                               \
    case CK_Q8_0: function(CK_Q8_0, __VA_ARGS__); break;                                                               \
    default: function(CK_F32, __VA_ARGS__); break;                                                                     \
    }

static void CK_ISA(unpack_keys)(int dtype, const char *const *row, int64_t n_row, int64_t P, float *to) {
    CK_BY_DTYPE(dtype, CK_ISA(turn_rows), row, n_row, P, to)
}

static void CK_ISA(unpack_values)(int dtype, const char *const *row, int64_t n_row, int64_t n, float *to, int64_t width) {
    CK_BY_DTYPE(dtype, CK_ISA(copy_rows), row, n_row, n, to, width)
}
#undef CK_BY_DTYPE

/* ---- new rows into a pool */

static void CK_ISA(store_half)(float f, char *to) {
#if CK_CONVERTS
    const uint16_t h = (uint16_t)_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#else
    const uint16_t h = float_to_half(f);
#endif
    __builtin_memcpy(to, &h, sizeof h);
}

/* 32 numbers as one block of q8_0: a half for the unit, then bytes. */
static void CK_ISA(store_q8_0)(const float *from, char *to) {
    float most = 0.0f;
    for (int i = 0; i < 32; i++) {
        const float size = fabsf(from[i]);
        most = most < size ? size : most;
    }
    const float unit = most / 127, per_unit = unit > 0 ? 1 / unit : 0;
    CK_ISA(store_half)(unit, to);
    for (int i = 0; i < 32; i++) {
        const float v = from[i] * per_unit;
        to[2 + i] = v >= -127.5f && v <= 127.5f ? (char)(int8_t)(int)(v + (v < 0 ? -0.5f : 0.5f)) : 0;
    }
}

static void CK_ISA(store_row)(uint32_t dtype, const float *from, int64_t n, char *to) {
    for (int64_t i = 0; i < n; i++) {
        if (dtype == CK_F16) {
            CK_ISA(store_half)(from[i], to + 2 * i);
        } else if (dtype == CK_BF16) {
            uint32_t bits;
            __builtin_memcpy(&bits, from + i, sizeof bits);
            const int nan = (bits & 0x7fffffff) > 0x7f800000;
            const uint16_t h = (uint16_t)(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
            __builtin_memcpy(to + 2 * i, &h, sizeof h);
        } else if (dtype == CK_Q8_0) {
            CK_ISA(store_q8_0)(from + i, to + i / 32 * 34);
            i += 31;
        } else {
            __builtin_memcpy(to + 4 * i, from + i, sizeof *from);
        }
    }
}

CK_FN int64_t CK_ISA(row_bytes)(const ck_tensor *pool) {
    return pool->dtype == CK_Q8_0 ? pool->dim[3] / 32 * 34 : pool->dim[3] * pool->stride_bytes[3];
}

/* The row of key head j that holds a position. */
CK_FN char *CK_ISA(row_at)(const ck_tensor *pool, const attention *a, const sequence *s, int64_t j, int64_t position) {
    char *block = (char *)pool->data + s->table[position / a->R] * pool->stride_bytes[0];
    return block + (j * a->R + position % a->R) * CK_ISA(row_bytes)(pool);
}

static void CK_ISA(append_token)(const attention *a, const sequence *s, int64_t t) {
    const int64_t position = s->start + t - s->first;
    for (int64_t j = 0; j < a->J; j++) {
        CK_ISA(store_row)(a->keys->dtype, ck_at2(a->k, t, j), a->P, CK_ISA(row_at)(a->keys, a, s, j, position));
        if (a->v != NULL) {
            CK_ISA(store_row)(a->values->dtype, ck_at2(a->v, t, j), a->V, CK_ISA(row_at)(a->values, a, s, j, position));
        }
    }
}

/* ---- one tile */

typedef uint32_t CK_ISA(words) __attribute__((vector_size(4 * CK_LANES)));

/* 2 to the x for x <= 0, below 2^-126 exactly 0. */
CK_FN ckv CK_ISA(power)(ckv x) {
    const ck_ints vanishes = x < -126.0f;
    const ckv shifted = x + 12582912.0f; /* 1.5 * 2^23: the whole part of x stands in the lowest bits */
    const ckv f = x - (shifted - 12582912.0f);
    const ckv p = CK_ISA(ck_exp2_fraction)(f);
    /* Unsigned: where x vanishes the sum overflows, and is masked away. */
    return (ckv)(((CK_ISA(words))p + ((CK_ISA(words))shifted << 23)) & ~(CK_ISA(words))vanishes);
}

CK_FN ckv CK_ISA(larger)(ckv a, ckv b) {
#if CK_LANES == 16
    return (ckv)_mm512_max_ps((__m512)a, (__m512)b);
#elif CK_LANES == 8
    return (ckv)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return ck_max(a, b);
#endif
}

CK_FN float CK_ISA(largest)(ckv v) {
#if CK_LANES == 16
    v = CK_ISA(larger)(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = CK_ISA(larger)(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    __m128 four;
    __builtin_memcpy(&four, &v, sizeof four);
#elif CK_LANES == 8
    __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
#else
    const float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
#endif
#if CK_LANES > 4
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
#endif
}

/* Scores to weights: most, weight and keep of the rows move on by one tile, n of whose positions, from p0 on, are seen by
 * somebody. Rows are `group` a token, and tokens stand from `start` on. */
static void CK_ISA(soften)(const attention *a, const attention_room *r, int64_t n_row, int64_t start, int64_t p0, int64_t n) {
    const int64_t n_column = (n + CK_LANES - 1) / CK_LANES * CK_LANES;
    int64_t position = start - 1, of_group = a->group, from = 0, to = n;
    for (int64_t i = 0; i < n_row; i++, of_group++) {
        if (of_group == a->group) {
            of_group = 0;
            position++;
            from = seen_from(a, position) - p0;
            to = position + 1 - p0 < n ? position + 1 - p0 : n;
        }
        float *score = r->score + i * TILE;
        for (int64_t c = 0; c < from && c < n_column; c++) {
            score[c] = -INFINITY;
        }
        for (int64_t c = to < 0 ? 0 : to; c < n_column; c++) {
            score[c] = -INFINITY;
        }
        ckv most = ck_load(score);
        for (int64_t c = CK_LANES; c < n_column; c += CK_LANES) {
            most = CK_ISA(larger)(most, ck_load(score + c));
        }
        const float before = r->most[i], found = CK_ISA(largest)(most), now = before > found ? before : found;
        const float base = now == -INFINITY ? 0.0f : now; /* nothing is seen yet: infinity less infinity is no number */
        ckv sum = ck_all(0.0f);
        for (int64_t c = 0; c < n_column; c += CK_LANES) {
            const ckv w = CK_ISA(power)(ck_load(score + c) - base);
            ck_store(score + c, w);
            sum += w;
        }
        r->most[i] = now;
        r->keep[i] = before - base;
        r->found[i] = ck_sum(sum);
    }
    for (int64_t i = 0; i < n_row; i += CK_LANES) {
        const ckv keep = CK_ISA(power)(ck_load(r->keep + i));
        ck_store(r->keep + i, keep);
        ck_store(r->weight + i, ck_fma(ck_load(r->weight + i), keep, ck_load(r->found + i)));
    }
}

/* Where the rows of n positions from p0 on are; up to the next whole vector the first one again. */
CK_FN void CK_ISA(find_rows)(const ck_tensor *pool, const attention *a, const sequence *s, int64_t j, int64_t p0, int64_t n,
                             const char **row) {
    const int64_t bytes = CK_ISA(row_bytes)(pool);
    for (int64_t i = 0; i < n;) {
        const int64_t left = a->R - (p0 + i) % a->R, end = i + left < n ? i + left : n;
        const char *at = CK_ISA(row_at)(pool, a, s, j, p0 + i);
        for (; i < end; i++, at += bytes) {
            row[i] = at;
        }
    }
    for (int64_t i = n; i % CK_LANES != 0; i++) {
        row[i] = row[0];
    }
}

/* Ask for the rows of n positions from p0 on: memory works while the tile before them is computed. */
CK_FN void CK_ISA(fetch_rows)(const ck_tensor *pool, const attention *a, const sequence *s, int64_t j, int64_t p0, int64_t n) {
    const int64_t bytes = CK_ISA(row_bytes)(pool);
    for (int64_t i = 0; i < n;) {
        const int64_t left = a->R - (p0 + i) % a->R, rows = left < n - i ? left : n - i;
        const char *at = CK_ISA(row_at)(pool, a, s, j, p0 + i);
        for (int64_t c = 0; c < rows * bytes; c += 64) {
            __builtin_prefetch(at + c, 0, 2);
        }
        i += rows;
    }
}

/* n_row rows of key head j meet n positions from p0 on; `ahead` positions behind them come next. */
static void CK_ISA(meet_tile)(const attention *a, const sequence *s, int64_t j, int64_t n_row, int64_t start, int64_t p0, int64_t n,
                              int64_t ahead, const attention_room *r) {
    const char *row[TILE];
    const int64_t n_column = (n + CK_LANES - 1) / CK_LANES * CK_LANES;
    CK_ISA(find_rows)(a->keys, a, s, j, p0, n, row);
    CK_ISA(fetch_rows)(a->values, a, s, j, p0, n);
    CK_ISA(unpack_keys)((int)a->keys->dtype, row, n_column, a->P, r->key);
    ck_product(n_row, n_column, a->P, r->q, a->P, 1, r->key, TILE, NULL, r->score, TILE);
    CK_ISA(soften)(a, r, n_row, start, p0, n);
    CK_ISA(find_rows)(a->values, a, s, j, p0, n, row);
    CK_ISA(fetch_rows)(a->keys, a, s, j, p0 + n, ahead);
    CK_ISA(unpack_values)((int)a->values->dtype, row, n, a->V, r->value, a->width);
    ck_product(n_row, a->width, n, r->score, TILE, 1, r->value, a->width, r->keep, r->sum, a->width);
}

/* ---- segments, and what is made of them */

/* The queries of key head j of n tokens, in units that make exp a power of 2. */
static void CK_ISA(take_queries)(const attention *a, int64_t j, int64_t first, int64_t n, const attention_room *r) {
    const ckv unit = ck_all(a->scale * LOG2_E);
    for (int64_t i = 0; i < n * a->group; i++) {
        const float *q = ck_at2(a->q, first + i / a->group, j * a->group + i % a->group);
        float *to = r->q + i * a->P;
        int64_t c = 0;
        for (; c + CK_LANES <= a->P; c += CK_LANES) {
            ck_store(to + c, ck_load(q + c) * unit);
        }
        if (c < a->P) {
            ck_store_part(to + c, ck_load_part(q + c, a->P - c) * unit, a->P - c);
        }
    }
}

/* Sums one segment of n tokens that stand from `start` on. A tile that nobody sees would change nothing. */
static void CK_ISA(sum_segment)(const attention *a, const sequence *s, int64_t j, int64_t start, int64_t n, int64_t segment,
                                const attention_room *r) {
    const int64_t n_row = n * a->group, seen = seen_from(a, start);
    for (int64_t i = 0; i < n_row; i++) {
        r->most[i] = -INFINITY;
        r->weight[i] = 0.0f;
    }
    memset(r->sum, 0, (size_t)(n_row * a->width) * sizeof(float));
    const int64_t end = segment + SEGMENT < start + n ? segment + SEGMENT : start + n;
    for (int64_t p0 = segment; p0 < end; p0 += TILE) {
        if (p0 + TILE > seen) {
            const int64_t left = end - p0, here = left < TILE ? left : TILE;
            CK_ISA(meet_tile)(a, s, j, n_row, start, p0, here, left - here < TILE ? left - here : TILE, r);
        }
    }
}

/* Add what a later segment found for one row to what the earlier ones did. */
CK_FN void CK_ISA(merge)(int64_t width, float *all_most, float *all_weight, float *total, float most, float weight,
                         const float *sum) {
    const float now = *all_most > most ? *all_most : most, base = now == -INFINITY ? 0.0f : now;
    const ckv old = CK_ISA(power)(ck_all(*all_most - base)), new = CK_ISA(power)(ck_all(most - base));
    *all_most = now;
    *all_weight = ck_fma(old, ck_all(*all_weight), new * ck_all(weight))[0];
    for (int64_t c = 0; c < width; c += CK_LANES) {
        ck_store(total + c, ck_fma(old, ck_load(total + c), new * ck_load(sum + c)));
    }
}

CK_FN void CK_ISA(finish)(const attention *a, int64_t t, int64_t h, float weight, const float *total) {
    float *y = ck_at2(a->y, t, h);
    const ckv all = ck_all(weight);
    int64_t c = 0;
    for (; c + CK_LANES <= a->V; c += CK_LANES) {
        ck_store(y + c, ck_load(total + c) / all);
    }
    if (c < a->V) {
        ck_store_part(y + c, ck_load(total + c) / all, a->V - c);
    }
}

/* Tokens t .. t + n - 1 of a sequence and the query heads of key head j, whole. */
static void CK_ISA(attend_block)(const attention *a, const sequence *s, int64_t j, int64_t t, int64_t n, const attention_room *r) {
    const int64_t n_row = n * a->group, start = s->start + t;
    CK_ISA(take_queries)(a, j, s->first + t, n, r);
    for (int64_t i = 0; i < n_row; i++) {
        r->all_most[i] = -INFINITY;
        r->all_weight[i] = 0.0f;
    }
    memset(r->total, 0, (size_t)(n_row * a->width) * sizeof(float));
    for (int64_t segment = seen_from(a, start) / SEGMENT * SEGMENT; segment < start + n; segment += SEGMENT) {
        CK_ISA(sum_segment)(a, s, j, start, n, segment, r);
        for (int64_t i = 0; i < n_row; i++) {
            CK_ISA(merge)(a->width, r->all_most + i, r->all_weight + i, r->total + i * a->width, r->most[i], r->weight[i],
                          r->sum + i * a->width);
        }
    }
    for (int64_t i = 0; i < n_row; i++) {
        CK_ISA(finish)(a, s->first + t + i / a->group, j * a->group + i % a->group, r->all_weight[i], r->total + i * a->width);
    }
}

/* One segment of a sequence with one token, for key head j: a record for each of its query heads. */
static void CK_ISA(attend_segment)(const attention *a, const sequence *s, int64_t j, int64_t segment, float *record,
                                   int64_t record_size, const attention_room *r) {
    CK_ISA(take_queries)(a, j, s->first, 1, r);
    CK_ISA(sum_segment)(a, s, j, s->start, 1, segment, r);
    for (int64_t i = 0; i < a->group; i++, record += record_size) {
        record[0] = r->most[i];
        record[1] = r->weight[i];
        memcpy(record + VECTOR, r->sum + i * a->width, (size_t)a->width * sizeof(float));
    }
}

/* The records of query head h, a segment every `step` floats, to the output. */
static void CK_ISA(merge_segments)(const attention *a, const sequence *s, int64_t h, const float *record, int64_t step,
                                   const attention_room *r) {
    float most = -INFINITY, weight = 0.0f;
    memset(r->total, 0, (size_t)a->width * sizeof(float));
    for (int64_t g = seen_from(a, s->start) / SEGMENT; g <= s->start / SEGMENT; g++) {
        const float *found = record + g * step;
        CK_ISA(merge)(a->width, &most, &weight, r->total, found[0], found[1], found + VECTOR);
    }
    CK_ISA(finish)(a, s->first, h, weight, r->total);
}
#undef CK_CONVERTS
