/* Products of one token, whose column lies by itself, for one instruction set: nothing is stored between unpacking and
 * multiplying. The same numbers in the same order as in a tile, so the same bits. Included by qmatmul_loops.h. */

CK_FN ckv CK_ISA(alone_32)(int type, int n_32, const uint8_t *const *row, int64_t b, const int32_t *x, ckv y,
                           CK_ISA(ahead) *ahead) {
    const int       fold = QM_SUMS_16 ? QM_FOLD(type) : 8, n_fold = QM_STEPS_OF(type) / fold;
    CK_ISA(factors) w;
    CK_ISA(read_factors)(type, row, b, n_32, &w);
    for (int j = 0; j < n_32; j++) {
        ck_ints q[32], total = CK_ISA(all_ints)(x[QM_START + j]);
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(read_part)(type, row, b, j, NULL, q);
#pragma GCC unroll 2
        for (int f = 0; f < n_fold; f++) {
            ck_ints part = QM_SUMS_16 ? (ck_ints){0} : total;
#pragma GCC unroll 8
            for (int s = 0; s < fold; s++) {
                part = CK_ISA(step)(part, q[f * fold + s], CK_ISA(all_ints)(x[8 * j + f * fold % 8 + s]));
            }
            const ck_ints scale = CK_ISA(all_ints)((type == CK_Q8_0 && f == 1 ? 16 : 1) * 0x10001);
            total = QM_SUMS_16 ? CK_ISA(add_pairs)(total, part, scale) : part;
        }
        y = ck_fma(CK_ISA(all_of)(x + QM_D + j) * w.d[j], __builtin_convertvector(total, ckv), y);
    }
    return y;
}

#if CK_LANES == 16
/* AVX-512 need not turn weights for it: row after row is multiplied as it lies, and what is turned are the sums. A *unit* is 64
 * inputs of a row, or 128 of which low and high halves of bytes are units. */

/* Byte for byte, the two units of the 64 bytes from input 128 n of a block at p. */
CK_FN void CK_ISA(units_of_k)(int type, const uint8_t *p, int n, ck_ints *low, ck_ints *high) {
    const ck_ints q = CK_ISA(bytes_64)(p + (type == CK_Q4_K ? 16 : type == CK_Q5_K ? 48 : 0) + 64 * n);
    *low = q & BYTES(15);
    *high = (q >> 4) & BYTES(15);
    if (type == CK_Q5_K) {
        const ck_ints bits = CK_ISA(bytes_of_two)(p + 16, p + 16), half = {0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2};
        *low |= ((bits >> (half + 4 * n)) & BYTES(1)) << 4;
        *high |= ((bits >> (half + 4 * n + 1)) & BYTES(1)) << 4;
    } else if (type == CK_Q6_K) {
        const ck_ints bits = CK_ISA(bytes_of_two)(p + 128 + 32 * n, p + 128 + 32 * n);
        const ck_ints half = {0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2};
        *low |= ((bits >> half) & BYTES(3)) << 4;
        *high |= (bits >> half) & BYTES(48);
    }
}

/* - offset * the sum of each four activations, where sums of products begin. */
CK_FN ck_ints CK_ISA(start_at)(int offset, ck_ints x) {
    return offset == 0 ? (ck_ints){0} : -CK_ISA(step)((ck_ints){0}, CK_ISA(all_ints)(BYTES(offset)), x);
}

/* The scale of 32 inputs, of Q6_K 16. */
CK_FN ck_ints CK_ISA(scale_at)(int type, const CK_ISA(factors) *w, int i) {
    const ck_ints two = w->scale[type == CK_Q5_K ? i : i / 2];
    return i % 2 ? two >> 16 : (two << 16) >> 16;
}

/* The next rows' bytes are asked for meanwhile in the order of memory, by which threads that share what memory gives read more. Those
 * of Q6_K, which lie in three places, are asked for six blocks ahead in each row, where it ends in the next rows. */
CK_FN ckv CK_ISA(rows_k)(int type, const uint8_t *const *row, int64_t b, const int32_t *x, ckv y) {
    const int       size = type == CK_Q4_K ? 144 : type == CK_Q5_K ? 176 : 210, n_part = type == CK_Q6_K ? 4 : 2;
    const int       n_line = (2 * size + 63) / 64; /* of halves of a block of four rows */
    const int64_t   row_bytes = row[1] - row[0], six = 6 * size;
    const int64_t   next = b * size + six < row_bytes ? six : six + (CK_LANES - 1) * row_bytes;
    const uint8_t  *line = row[0] + CK_LANES * (row_bytes + b * size);
    CK_ISA(factors) w;
    ck_ints         total = {0};
    CK_ISA(read_factors)(type, row, b, 8, &w);
#pragma GCC unroll 1
    for (int n = 0; n < 2; n++, x += 32) {
        /* Of Q4_K and Q5_K the low halves of 64 bytes are the first and the third 32 inputs of 128. */
        const int     second = type == CK_Q6_K ? 8 : 16;
        const ck_ints x_low = CK_ISA(bytes_of_two)(x, x + second), x_high = CK_ISA(bytes_of_two)(x + 24 - second, x + 24);
        const ck_ints start_low = CK_ISA(start_at)(QM_OFFSET(type), x_low);
        const ck_ints start_high = CK_ISA(start_at)(QM_OFFSET(type), x_high);
        ck_ints       low[4], high[4], part[8];
#pragma GCC unroll 1
        for (int i = 0; i < 4; i++) {
            ck_ints of_low[4], of_high[4];
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                const uint8_t *p = row[4 * i + r] + b * size;
                ck_ints        q_low, q_high;
                if (type == CK_Q6_K) {
                    __builtin_prefetch(p + next + size / 2 * n);
                    __builtin_prefetch(p + next + size / 2 * n + 64);
                } else {
                    __builtin_prefetch(line + 64 * r);
                    __builtin_prefetch(line + 64 * (r + 4 < n_line ? r + 4 : r));
                }
                CK_ISA(units_of_k)(type, p, n, &q_low, &q_high);
                of_low[r] = CK_ISA(step)(start_low, q_low, x_low);
                of_high[r] = CK_ISA(step)(start_high, q_high, x_high);
            }
            line += 2 * size;
            low[i] = CK_ISA(sums_of_fours)(of_low);
            high[i] = CK_ISA(sums_of_fours)(of_high);
        }
        CK_ISA(turn_quarters)(n_part == 2, low, part);
        CK_ISA(turn_quarters)(n_part == 2, high, part + 4);
#pragma GCC unroll 4
        for (int i = 0; i < n_part; i++) {
            const int f = type == CK_Q6_K ? 8 * n + i : 4 * n + 2 * i;
            total += part[i] * CK_ISA(scale_at)(type, &w, f);
            total += part[4 + i] * CK_ISA(scale_at)(type, &w, f + (type == CK_Q6_K ? 4 : 1));
        }
    }
    CK_ISA(finish_k)(type, 1, 1, 1, &total, &w, x - 64, &y);
    return y;
}

/* Adds the fifth bits of four blocks of Q5_0 whose first 16 bytes are given, to the low and the high halves of their bytes. */
CK_FN void CK_ISA(add_fifth)(ck_ints head, ck_ints *low, ck_ints *high) {
    const ck_ints first = __builtin_shufflevector(head, head, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const ck_ints second = __builtin_shufflevector(head, head, 1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9, 13, 13, 13, 13);
    const ck_ints lane = {0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12};
    *low |= CK_ISA(spread)((first >> (16 + lane)) & 15) << 4;
    *high |= CK_ISA(spread)((second >> lane) & 15) << 4;
}

/* 256 inputs of a type with blocks of 32. */
CK_FN ckv CK_ISA(rows_32)(int type, const uint8_t *const *row, int64_t b, const int32_t *x, ckv y, int64_t next) {
    const int       size = type == CK_Q8_0 ? 34 : type == CK_Q4_0 ? 18 : 22, n_block = type == CK_Q8_0 ? 2 : 4;
    CK_ISA(factors) w;
    CK_ISA(read_factors)(type, row, b, 8, &w);
#pragma GCC unroll 1
    for (int j = 0; j < 8; j += n_block) {
        const int32_t *at = x + 8 * j;
        const ck_ints  x_low = type == CK_Q8_0 ? CK_ISA(bytes_64)(at) : CK_ISA(bytes_of_four)((const uint8_t *)at, 32);
        const ck_ints  x_high = type == CK_Q8_0 ? x_low : CK_ISA(bytes_of_four)((const uint8_t *)(at + 4), 32);
        ck_ints        start = CK_ISA(start_at)(QM_OFFSET(type), x_low), four[4], part[4];
        if (type != CK_Q8_0) {
            start += CK_ISA(start_at)(QM_OFFSET(type), x_high);
        }
#pragma GCC unroll 1
        for (int i = 0; i < 4; i++) {
            ck_ints of[4];
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                const uint8_t *p = row[4 * i + r] + (8 * b + j) * size;
                __builtin_prefetch(p + next); /* 68 to 88 bytes: one line for each would leave some out */
                __builtin_prefetch(p + next + 64);
                if (type == CK_Q8_0) {
                    of[r] = CK_ISA(step)(start, CK_ISA(bytes_of_two)(p + 2, p + 36) ^ BYTES(0x80), x_low);
                    continue;
                }
                const ck_ints q = CK_ISA(bytes_of_four)(p + size - 16, size);
                ck_ints       low = q & BYTES(15), high = (q >> 4) & BYTES(15);
                if (type == CK_Q5_0) {
                    CK_ISA(add_fifth)(CK_ISA(bytes_of_four)(p, size), &low, &high);
                }
                of[r] = CK_ISA(step)(CK_ISA(step)(start, low, x_low), high, x_high);
            }
            four[i] = CK_ISA(sums_of_fours)(of);
        }
        CK_ISA(turn_quarters)(n_block == 2, four, part);
#pragma GCC unroll 4
        for (int i = 0; i < n_block; i++) {
            const ckv d = CK_ISA(all_of)(x + QM_D + j + i) * w.d[j + i];
            y = ck_fma(d, __builtin_convertvector(part[i], ckv), y);
        }
    }
    return y;
}
#else
CK_FN ckv CK_ISA(alone_k)(int type, const uint8_t *const *row, int64_t b, const int32_t *x, ckv y,
                          CK_ISA(ahead) *ahead) {
    const int       fold = QM_FOLD(type), n_fold = QM_STEPS_OF(type) / fold, n_part = QM_INPUTS / QM_PART(type);
    CK_ISA(factors) w;
    ck_ints         fifth[8], total = {0};
    CK_ISA(read_factors)(type, row, b, 8, &w);
    CK_ISA(read_fifth)(type, row, b, fifth);
#pragma GCC unroll 1
    for (int j = 0; j < n_part; j++) {
        ck_ints q[32];
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(read_part)(type, row, b, j, fifth, q);
#pragma GCC unroll 16
        for (int f = 0; f < n_fold; f++) {
            ck_ints part = QM_OFFSET(type) ? CK_ISA(all_ints)(x[QM_START + j * n_fold + f]) : (ck_ints){0};
#pragma GCC unroll 8
            for (int s = 0; s < fold; s++) {
                part = CK_ISA(step)(part, q[f * fold + s], CK_ISA(all_ints)(x[(j * n_fold + f) * fold + s]));
            }
            total = CK_ISA(fold)(1, total, part, part, w.scale[j * n_fold + f]);
        }
    }
    CK_ISA(finish_k)(type, 1, 1, 1, &total, &w, x, &y);
    return y;
}

#endif

#if CK_LANES == 8
/* Q6_K on AVX2: row after row is multiplied as it lies, and the eight sums of each are added at the end. Turning six bits of
 * 256 inputs from three places costs more than a multiplication by the scale for every 32. */

/* The sums of the lanes of eight vectors, that of v[r] in lane r. */
CK_FN ck_ints CK_ISA(sums_of_lanes)(const ck_ints *v) {
    __m256i four[2];
    for (int i = 0; i < 2; i++, v += 4) {
        const __m256i first = _mm256_hadd_epi32((__m256i)v[0], (__m256i)v[1]);
        four[i] = _mm256_hadd_epi32(first, _mm256_hadd_epi32((__m256i)v[2], (__m256i)v[3]));
    }
    return (ck_ints)_mm256_permute2x128_si256(four[0], four[1], 0x20) + (ck_ints)_mm256_permute2x128_si256(four[0], four[1], 0x31);
}

CK_FN ck_ints CK_ISA(bytes_32)(const void *p) { return (ck_ints)_mm256_loadu_si256((const __m256i *)p); }

/* Inputs 128 n .. 128 n + 127 of a block at p, 32 by 32. */
CK_FN void CK_ISA(units_of_q6_k)(const uint8_t *p, int n, ck_ints *unit) {
    const ck_ints a = CK_ISA(bytes_32)(p + 64 * n), b = CK_ISA(bytes_32)(p + 64 * n + 32);
    const ck_ints high = CK_ISA(bytes_32)(p + 128 + 32 * n);
    unit[0] = (a & BYTES(15)) | ((high & BYTES(3)) << 4);
    unit[1] = (b & BYTES(15)) | ((high & BYTES(12)) << 2);
    unit[2] = ((a >> 4) & BYTES(15)) | (high & BYTES(48));
    unit[3] = ((b >> 4) & BYTES(15)) | ((high >> 2) & BYTES(48));
}

CK_FN ckv CK_ISA(rows_q6_k)(const uint8_t *const *row, int64_t b, const int32_t *x, ckv y, CK_ISA(ahead) *ahead) {
    /* 16 numbers, those of even neighbours in the low half and those of odd ones in the high half. */
    const __m256i pairs = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6,
                                           7, 10, 11, 14, 15);
    const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i sums = _mm256_permute4x64_epi64(_mm256_shuffle_epi8((__m256i)CK_ISA(bytes_32)(x + QM_SUMS), pairs), 0xd8);
    uint16_t      d[8];
    ck_ints       of[8];
#pragma GCC unroll 1
    for (int r = 0; r < 8; r++) {
        const uint8_t *p = row[r] + b * 210;
        const __m128i  bytes = _mm_loadu_si128((const __m128i *)(p + 192));
        const __m256i  scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(bytes, even_odd));
        __m256i        sum = _mm256_slli_epi32(_mm256_madd_epi16(scale, sums), 5); /* values 0 .. 63 stand for -32 .. 31 */
        sum = _mm256_sub_epi32(_mm256_setzero_si256(), sum);
        if (r % 4 == 0) {
            CK_ISA(fetch_ahead)(ahead);
        }
        memcpy(d + r, p + 208, sizeof *d);
#pragma GCC unroll 2
        for (int n = 0; n < 2; n++) {
            ck_ints unit[4];
            CK_ISA(units_of_q6_k)(p, n, unit);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const int     u = 4 * n + i;
                const __m256i two = _mm256_shuffle_epi8(scale, _mm256_set1_epi16((short)(0x0100 + 0x0202 * u)));
                const __m256i part = _mm256_maddubs_epi16((__m256i)unit[i], (__m256i)CK_ISA(bytes_32)(x + 8 * u));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(part, two));
            }
        }
        of[r] = (ck_ints)sum;
    }
    const ckv factor = (ckv)_mm256_cvtph_ps(_mm_setr_epi16((short)d[0], (short)d[1], (short)d[2], (short)d[3], (short)d[4], (short)d[5],
                                                           (short)d[6], (short)d[7]));
    const ckv all = CK_ISA(all_of)(x + QM_D);
    return ck_fma(all, factor * __builtin_convertvector(CK_ISA(sums_of_lanes)(of), ckv), y);
}
#endif

CK_FN void CK_ISA(alone)(int type, int n_32, const uint8_t *const *row, int64_t b, const int32_t *x, float *sum,
                         CK_ISA(ahead) *ahead) {
    const ckv y = ck_load(sum);
#if CK_LANES == 16
    if (QM_IS_K(type)) {
        ck_store(sum, CK_ISA(rows_k)(type, row, b, x, y));
    } else if (n_32 == 8) {
        ck_store(sum, CK_ISA(rows_32)(type, row, b, x, y, CK_LANES * (row[1] - row[0])));
    } else {
        ck_store(sum, CK_ISA(alone_32)(type, n_32, row, b, x, y, ahead));
    }
#elif CK_LANES == 8
    ck_store(sum, type == CK_Q6_K   ? CK_ISA(rows_q6_k)(row, b, x, y, ahead)
                  : QM_IS_K(type) ? CK_ISA(alone_k)(type, row, b, x, y, ahead)
                                  : CK_ISA(alone_32)(type, n_32, row, b, x, y, ahead));
#else
    ck_store(sum, QM_IS_K(type) ? CK_ISA(alone_k)(type, row, b, x, y, ahead)
                                : CK_ISA(alone_32)(type, n_32, row, b, x, y, ahead));
#endif
}
