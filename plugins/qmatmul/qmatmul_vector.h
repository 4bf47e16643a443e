/* What a product needs of integer vectors, for one instruction set. Included by qmatmul_loops.h.
 *
 * A vector is CK_LANES 32-bit lanes, one for each row of the weight; a *step* is 4 inputs, so a lane holds 4 bytes of its row.
 *
 * AVX2 multiplies bytes into 16-bit sums, which overflow after a few steps. VNNI, NEON and plain C sum in 32 bits at once. The
 * integers are exact in each of them. */
#define QM_VNNI (CK_LANES >= 8 && CK_HAS_DOT8)
#define QM_SUMS_16 (CK_LANES == 8 && !CK_HAS_DOT8)

/* Leaves a sum where it is. Otherwise GCC copies sums from register to register, which halves the speed of AVX-512, and on AVX2 and
 * NEON makes a tree of them, for which there are not enough registers. */
#if defined(CK_EMULATE_AVX512)
#define QM_KEEP(v) (void)(v)
#elif defined(__aarch64__)
#define QM_KEEP(v) __asm__("" : "+w"(v))
#elif CK_LANES == 16
#define QM_KEEP(v) __asm__("" : "+v"(v))
#else
#define QM_KEEP(v) __asm__("" : "+x"(v))
#endif

/* The 16 bytes from `at` of each fourth row: rows 0, 4, 8 ... of `row`. */
CK_FN ck_ints CK_ISA(every_fourth)(const uint8_t *const *row, int64_t at) {
#if CK_LANES == 16
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(row[0] + at)));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(row[4] + at)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(row[8] + at)), 2);
    return (ck_ints)_mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(row[12] + at)), 3);
#elif CK_LANES == 8
    const __m256i v = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(row[0] + at)));
    return (ck_ints)_mm256_inserti128_si256(v, _mm_loadu_si128((const __m128i *)(row[4] + at)), 1);
#else
    ck_ints v;
    memcpy(&v, row[0] + at, sizeof v);
    return v;
#endif
}

#if CK_LANES == 16
#define QM_LOW 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define QM_HIGH 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define QM_LOW_PAIR 0, 8, 2, 10, 4, 12, 6, 14
#define QM_HIGH_PAIR 1, 9, 3, 11, 5, 13, 7, 15
#elif CK_LANES == 8
#define QM_LOW 0, 8, 1, 9, 4, 12, 5, 13
#define QM_HIGH 2, 10, 3, 11, 6, 14, 7, 15
#define QM_LOW_PAIR 0, 4, 2, 6
#define QM_HIGH_PAIR 1, 5, 3, 7
#else
#define QM_LOW 0, 4, 1, 5
#define QM_HIGH 2, 6, 3, 7
#define QM_LOW_PAIR 0, 2
#define QM_HIGH_PAIR 1, 3
#endif
typedef int64_t CK_ISA(longs) __attribute__((vector_size(4 * CK_LANES)));
#define QM_PAIRS(a, b, order) ((ck_ints)__builtin_shufflevector((CK_ISA(longs))(a), (CK_ISA(longs))(b), order))

/* 16 bytes of every row, turned: to[i] holds bytes 4 i .. 4 i + 3, lane by lane. */
CK_FN void CK_ISA(turn_16)(const uint8_t *const *row, int64_t at, ck_ints *to) {
    const ck_ints a = CK_ISA(every_fourth)(row, at), b = CK_ISA(every_fourth)(row + 1, at);
    const ck_ints c = CK_ISA(every_fourth)(row + 2, at), d = CK_ISA(every_fourth)(row + 3, at);
    const ck_ints ab = __builtin_shufflevector(a, b, QM_LOW), cd = __builtin_shufflevector(c, d, QM_LOW);
    const ck_ints AB = __builtin_shufflevector(a, b, QM_HIGH), CD = __builtin_shufflevector(c, d, QM_HIGH);
    to[0] = QM_PAIRS(ab, cd, QM_LOW_PAIR);
    to[1] = QM_PAIRS(ab, cd, QM_HIGH_PAIR);
    to[2] = QM_PAIRS(AB, CD, QM_LOW_PAIR);
    to[3] = QM_PAIRS(AB, CD, QM_HIGH_PAIR);
}

/* The sums of each four lanes of four vectors: [a, b, c, d] of the first four lanes, then of the next. */
CK_FN ck_ints CK_ISA(sums_of_fours)(const ck_ints *v) {
    const ck_ints ab = __builtin_shufflevector(v[0], v[1], QM_LOW) + __builtin_shufflevector(v[0], v[1], QM_HIGH);
    const ck_ints cd = __builtin_shufflevector(v[2], v[3], QM_LOW) + __builtin_shufflevector(v[2], v[3], QM_HIGH);
    return QM_PAIRS(ab, cd, QM_LOW_PAIR) + QM_PAIRS(ab, cd, QM_HIGH_PAIR);
}

#if CK_LANES == 16
/* Quarters of four vectors: to[q] is quarter q of each; or, `in_twos`, to[0] the first two added and to[1] the others. */
CK_FN void CK_ISA(turn_quarters)(int in_twos, const ck_ints *v, ck_ints *to) {
    const __m512i even = _mm512_shuffle_i32x4((__m512i)v[0], (__m512i)v[1], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4((__m512i)v[0], (__m512i)v[1], 0xdd);
    const __m512i Even = _mm512_shuffle_i32x4((__m512i)v[2], (__m512i)v[3], 0x88);
    const __m512i Odd = _mm512_shuffle_i32x4((__m512i)v[2], (__m512i)v[3], 0xdd);
    if (in_twos) {
        const __m512i two = (__m512i)((ck_ints)even + (ck_ints)odd), Two = (__m512i)((ck_ints)Even + (ck_ints)Odd);
        to[0] = (ck_ints)_mm512_shuffle_i32x4(two, Two, 0x88);
        to[1] = (ck_ints)_mm512_shuffle_i32x4(two, Two, 0xdd);
        return;
    }
    to[0] = (ck_ints)_mm512_shuffle_i32x4(even, Even, 0x88);
    to[1] = (ck_ints)_mm512_shuffle_i32x4(odd, Odd, 0x88);
    to[2] = (ck_ints)_mm512_shuffle_i32x4(even, Even, 0xdd);
    to[3] = (ck_ints)_mm512_shuffle_i32x4(odd, Odd, 0xdd);
}

/* 64 bytes: in one piece, in two, in four `apart` bytes from each other. */
CK_FN ck_ints CK_ISA(bytes_64)(const void *p) { return (ck_ints)_mm512_loadu_si512(p); }

CK_FN ck_ints CK_ISA(bytes_of_two)(const void *a, const void *b) {
    const __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)a));
    return (ck_ints)_mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)b), 1);
}

CK_FN ck_ints CK_ISA(bytes_of_four)(const uint8_t *p, int64_t apart) {
    const uint8_t *const row[16] = {[0] = p, [4] = p + apart, [8] = p + 2 * apart, [12] = p + 3 * apart};
    return CK_ISA(every_fourth)(row, 0);
}
#endif
#undef QM_LOW
#undef QM_HIGH
#undef QM_LOW_PAIR
#undef QM_HIGH_PAIR
#undef QM_PAIRS

CK_FN void CK_ISA(turn_32)(const uint8_t *const *row, int64_t at, ck_ints *to) {
    CK_ISA(turn_16)(row, at, to);
    CK_ISA(turn_16)(row, at + 16, to + 4);
}

CK_FN ck_ints CK_ISA(all_ints)(int32_t x) { return x - (ck_ints){0}; }

/* float16 bit patterns, one in the low half of each lane, subnormal ones included. */
CK_FN ckv CK_ISA(from_half)(ck_ints h) {
#if CK_LANES == 16
    return (ckv)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)h));
#elif CK_LANES == 8
    const __m256i low = _mm256_and_si256((__m256i)h, _mm256_set1_epi32(0xffff));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    return (ckv)_mm256_cvtph_ps(_mm256_castsi256_si128(packed));
#else
    const ck_ints size = h & 0x7fff, exponent = size & 0x7c00;
    const ck_ints normal = (size << 13) + (112 << 23);
    const ck_ints small = (ck_ints)(__builtin_convertvector(size, ckv) * 0x1p-24f);
    const ck_ints other = (size << 13) | 0x7f800000; /* infinity and NaN */
    const ck_ints is_small = exponent == 0, is_other = exponent == 0x7c00;
    const ck_ints bits = (is_small & small) | (is_other & other) | (~(is_small | is_other) & normal);
    return (ckv)(bits | (h & 0x8000) << 16);
#endif
}

/* A *fold* is FOLD steps, after which a sum of products is multiplied by the scale of its inputs. What the sum may hold:
 *   AVX2    16 bits, summed in 16: 2 * 127 * (largest weight) * steps < 2^15; weights of 8 bits go as two halves of 4
 *   VNNI    16 bits, summed in 32, unless it is `wide`
 *   others  32 bits */
#if QM_SUMS_16
#define QM_FOLD(type) ((type) == CK_Q6_K ? 2 : (type) == CK_Q5_K || (type) == CK_Q5_0 ? 4 : 8)
#define QM_HALVES(type) ((type) == CK_Q8_0 ? 2 : 1)
#else
#define QM_FOLD(type) ((type) == CK_Q6_K || ((type) == CK_Q5_K && QM_VNNI) ? 4 : 8)
#define QM_HALVES(type) 1
#endif
/* The largest size of a weight of a K type. */
#define QM_LARGEST(type) ((type) == CK_Q4_K ? 15 : (type) == CK_Q5_K ? 31 : 32)
/* What stored weights exceed the signed ones by; VNNI and AVX2 want unsigned ones. Sums of products begin at as many times the sum of
 * the activations, taken away; those of Q6_K on AVX2, which end too soon, are mended with the minima of other types. */
#define QM_OFFSET(type)                                                                                   \
    ((type) == CK_Q4_0 ? 8 : (type) == CK_Q5_0 ? 16 : (type) == CK_Q8_0 && CK_LANES >= 8 ? 128            \
                                                    : (type) == CK_Q6_K && !QM_SUMS_16 ? 32 : 0)

/* sum + the products of one step: w holds weights 0 .. 255 (plain C and NEON: -128 .. 127), x activations -127 .. 127. */
CK_FN ck_ints CK_ISA(step)(ck_ints sum, ck_ints w, ck_ints x) {
#if CK_LANES == 16
    __m512i added = _mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
    QM_KEEP(added);
    return (ck_ints)added;
#elif QM_VNNI
    __m256i added = _mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x);
    QM_KEEP(added);
    return (ck_ints)added;
#elif CK_LANES == 8
    __m256i added = _mm256_add_epi16((__m256i)sum, _mm256_maddubs_epi16((__m256i)w, (__m256i)x));
    QM_KEEP(added);
    return (ck_ints)added;
#elif CK_HAS_DOT8
    return (ck_ints)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
#elif defined(__aarch64__)
    const int8x16_t a = (int8x16_t)w, b = (int8x16_t)x;
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_s8(vget_high_s8(a), vget_high_s8(b));
    ck_ints added = sum + (ck_ints)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
    QM_KEEP(added);
    return added;
#else
    for (int i = 0; i < 4; i++) {
        sum += ((w << (24 - 8 * i)) >> 24) * ((x << (24 - 8 * i)) >> 24);
    }
    return sum;
#endif
}

/* The same with x[t] in every lane, t below QM_TILE = 4 and known to the compiler. */
CK_FN ck_ints CK_ISA(step_of)(ck_ints sum, ck_ints w, const int32_t *x, int t) {
#if CK_LANES == 4 && CK_HAS_DOT8
    const int32x4_t four = vld1q_s32(x); /* sdot takes one of them by number */
    switch (t) {
    case 0: return (ck_ints)vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)four, 0);
    case 1: return (ck_ints)vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)four, 1);
    case 2: return (ck_ints)vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)four, 2);
    default: return (ck_ints)vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)four, 3);
    }
#else
    return CK_ISA(step)(sum, w, CK_ISA(all_ints)(x[t]));
#endif
}

/* Two numbers of 16 bits in each lane, and total + first[0] second[0] + first[1] second[1]. */
CK_FN ck_ints CK_ISA(pair)(ck_ints a, ck_ints b) { return (a & 0xffff) | (b << 16); }

CK_FN ck_ints CK_ISA(add_pairs)(ck_ints total, ck_ints first, ck_ints second) {
#if CK_LANES == 16
    return (ck_ints)_mm512_dpwssd_epi32((__m512i)total, (__m512i)first, (__m512i)second);
#elif QM_VNNI
    return (ck_ints)_mm256_dpwssd_avx_epi32((__m256i)total, (__m256i)first, (__m256i)second);
#elif CK_LANES == 8
    return total + (ck_ints)_mm256_madd_epi16((__m256i)first, (__m256i)second);
#else
    return total + ((first << 16) >> 16) * ((second << 16) >> 16) + (first >> 16) * (second >> 16);
#endif
}

/* total + the sums of QM_FOLDS folds times their scales; `scale` is what `set_scale` made. Of sums that are not `wide` the low 16
 * bits say everything. */
CK_FN ck_ints CK_ISA(fold)(int wide, ck_ints total, ck_ints first, ck_ints last, ck_ints scale) {
#if CK_LANES == 16
    if (wide) {
        return total + first * ((scale << 16) >> 16) + last * (scale >> 16);
    }
    const ck_ints low_to_high = {0x01000100, 0x05040504, 0x09080908, 0x0d0c0d0c, 0x01000100, 0x05040504, 0x09080908, 0x0d0c0d0c,
                                 0x01000100, 0x05040504, 0x09080908, 0x0d0c0d0c, 0x01000100, 0x05040504, 0x09080908, 0x0d0c0d0c};
    const __m512i two = _mm512_mask_shuffle_epi8((__m512i)first, 0xcccccccccccccccc, (__m512i)last, (__m512i)low_to_high);
    return CK_ISA(add_pairs)(total, (ck_ints)two, scale);
#else
    (void)last;
    if (QM_SUMS_16 || (QM_VNNI && !wide)) {
        return CK_ISA(add_pairs)(total, first, scale);
    }
    return total + first * (QM_VNNI ? (scale << 16) >> 16 : scale);
#endif
}

/* Scale s, -128 .. 127 in each lane, of fold f. */
CK_FN void CK_ISA(set_scale)(ck_ints *scale, int f, ck_ints s) {
#if CK_LANES == 16
    scale[f / 2] = f % 2 == 0 ? s : CK_ISA(pair)(scale[f / 2], s);
#else
    scale[f] = QM_SUMS_16 ? CK_ISA(pair)(s, s) : QM_VNNI ? s & 0xffff : s;
#endif
}

/* ---- rounding */

CK_FN ck_ints CK_ISA(larger)(ck_ints a, ck_ints b) {
#if CK_LANES == 16
    return (ck_ints)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif CK_LANES == 8
    return (ck_ints)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    return b ^ ((a ^ b) & (a > b));
#endif
}

CK_FN int32_t CK_ISA(largest)(ck_ints v) {
#if CK_LANES == 16
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t most = v[0];
    for (int i = 1; i < CK_LANES; i++) {
        most = v[i] > most ? v[i] : most;
    }
    return most;
#endif
}

#if QM_VNNI
/* Of 4 CK_LANES numbers of 8 bits. */
CK_FN ck_ints CK_ISA(sizes_of_bytes)(ck_ints v) {
#if CK_LANES == 16
    return (ck_ints)_mm512_abs_epi8((__m512i)v);
#else
    return (ck_ints)_mm256_abs_epi8((__m256i)v);
#endif
}

/* What `sums_of_fours` found, in the order of the vectors. */
CK_FN ck_ints CK_ISA(vector_by_vector)(ck_ints v) {
#if CK_LANES == 16
    return __builtin_shufflevector(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#else
    return __builtin_shufflevector(v, v, 0, 4, 1, 5, 2, 6, 3, 7);
#endif
}
#endif

/* The nearest whole numbers, for |x| below 2^22: adding 1.5 * 2^23 leaves them in the mantissa. */
CK_FN ck_ints CK_ISA(nearest_ints)(ckv x) { return (ck_ints)(x + 12582912.0f) - 0x4b400000; }

/* 16 numbers of -128 .. 127 as bytes. */
CK_FN void CK_ISA(narrow_16)(const ck_ints *q, int8_t *to) {
#if CK_LANES == 16
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)q[0]));
#elif CK_LANES == 8
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)q[0], (__m256i)q[1]), 0xd8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)to, bytes);
#else
    for (int i = 0; i < 16; i++) {
        to[i] = (int8_t)q[i / CK_LANES][i % CK_LANES];
    }
#endif
}

CK_FN int32_t CK_ISA(sum_of)(ck_ints v) {
#if CK_LANES == 16
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t sum = v[0];
    for (int i = 1; i < CK_LANES; i++) {
        sum += v[i];
    }
    return sum;
#endif
}

/* The sums of CK_LANES vectors of numbers below 2^20, that of rows[i] in lane i. */
CK_FN ck_ints CK_ISA(sums_of)(const ck_ints *rows) {
    ckv exact[CK_LANES];
    for (int i = 0; i < CK_LANES; i++) {
        exact[i] = __builtin_convertvector(rows[i], ckv);
    }
    return __builtin_convertvector(ck_sums(exact), ck_ints);
}
