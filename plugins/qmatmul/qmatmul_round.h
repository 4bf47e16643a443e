/* Activations to 8 bits, with gates and norms on the way, for one instruction set. Included by qmatmul_loops.h. */

/* x times the activation of its gate, x sigmoid(gate) [gate]. n is a multiple of 32 here and below. */
static void CK_ISA(apply_gate)(const float *x, const float *gate, int64_t n, int sigmoid, float *to) {
    for (int64_t i = 0; i < n; i += 32) {
        ckv g[32 / CK_LANES], e[32 / CK_LANES]; /* side by side: an exponential is a long chain */
#pragma GCC unroll 8
        for (int j = 0; j < 32 / CK_LANES; j++) {
            g[j] = ck_load(gate + i + j * CK_LANES);
            e[j] = -g[j];
        }
        ck_exps(32 / CK_LANES, e);
#pragma GCC unroll 8
        for (int j = 0; j < 32 / CK_LANES; j++) {
            const ckv act = (sigmoid ? ck_all(1.0f) : g[j]) / (e[j] + 1.0f);
            ck_store(to + i + j * CK_LANES, act * ck_load(x + i + j * CK_LANES));
        }
    }
}

static void CK_ISA(sum_squares)(const float *x, int64_t n, float *sum) {
    ckv part[16 / CK_LANES];
    for (int j = 0; j < 16 / CK_LANES; j++) {
        part[j] = ck_all(0.0f);
    }
    for (int64_t i = 0; i < n; i += 16) {
        for (int j = 0; j < 16 / CK_LANES; j++) {
            const ckv v = ck_load(x + i + j * CK_LANES);
            part[j] = ck_fma(v, v, part[j]);
        }
    }
    for (int j = 1; j < 16 / CK_LANES; j++) {
        part[0] += part[j];
    }
    *sum = ck_sum(part[0]);
}

static void CK_ISA(apply_norm)(const float *x, const float *norm, int64_t n, float scale, float *to) {
    for (int64_t i = 0; i < n; i += CK_LANES) {
        ck_store(to + i, ck_load(x + i) * ck_all(scale) * ck_load(norm + i));
    }
}

/* d = max |x| / 127 of n activations, and the factor 1 / d. In place of those whose factor would not be a number, because one is
 * not finite or all are below 127 / FLT_MAX, zeros are rounded: d is NaN, and so is the product, or 0. */
CK_FN ckv CK_ISA(block_scale)(const float **x, int n, float *d) {
    static const float zeros[QM_INPUTS];
    ck_ints most = {0}; /* sizes of floats are in the order of their bits */
    for (int i = 0; i < n; i += CK_LANES) {
        const ck_ints size = (ck_ints)ck_load(*x + i) & 0x7fffffff;
        most = CK_ISA(larger)(size, most);
    }
    const int32_t bits = CK_ISA(largest)(most);
    float         largest;
    memcpy(&largest, &bits, sizeof largest);
    const float factor = 127.0f / largest;
    if (!isfinite(largest) || !isfinite(factor)) {
        *x = zeros;
        *d = isfinite(largest) ? 0.0f : NAN;
        return ck_all(0.0f);
    }
    *d = largest / 127.0f;
    return ck_all(factor);
}

/* 16 activations to 8 bits; adds them lane by lane. */
CK_FN void CK_ISA(round_16)(const float *x, ckv factor, int8_t *to, ck_ints *sum) {
    ck_ints q[16 / CK_LANES];
    for (int i = 0; i < 16 / CK_LANES; i++) {
        q[i] = CK_ISA(nearest_ints)(factor * ck_load(x + i * CK_LANES));
        *sum += q[i];
    }
    CK_ISA(narrow_16)(q, to);
}

/* The sums of each 16 of 256 numbers: with VNNI from their bytes, and those of their sizes, too; elsewhere from the vectors `rows`
 * that lanes were added to. */
CK_FN void CK_ISA(sums_of_16)(const int8_t *q, const ck_ints *rows, int32_t *sum, int is_signed) {
#if QM_VNNI
    const ck_ints ones = CK_ISA(all_ints)(BYTES(1));
    (void)rows;
    for (int n = 0; n < 16; n += CK_LANES) {
        ck_ints fours[4];
        for (int i = 0; i < 4; i++) {
            ck_ints v;
            memcpy(&v, q + 16 * n + 4 * CK_LANES * i, sizeof v);
            fours[i] = is_signed ? CK_ISA(step)((ck_ints){0}, ones, v) : CK_ISA(step)((ck_ints){0}, CK_ISA(sizes_of_bytes)(v), ones);
        }
        const ck_ints v = CK_ISA(vector_by_vector)(CK_ISA(sums_of_fours)(fours));
        memcpy(sum + n, &v, sizeof v);
    }
#else
    (void)q, (void)is_signed;
    for (int i = 0; i < 16; i += CK_LANES) {
        const ck_ints v = CK_ISA(sums_of)(rows + i);
        memcpy(sum + i, &v, sizeof v);
    }
#endif
}

CK_FN void CK_ISA(round_k)(int type, const float *x, column *to) {
    float     d;
    const ckv factor = CK_ISA(block_scale)(&x, QM_INPUTS, &d);
    int32_t   sum[16], size[16] = {0}, wide = 0;
    ck_ints   sums[16];
#pragma GCC unroll 16 /* VNNI makes no use of `sums`, and so they are not made */
    for (int i = 0; i < 16; i++) {
        sums[i] = (ck_ints){0};
        CK_ISA(round_16)(x + 16 * i, factor, (int8_t *)(to->number + 4 * i), &sums[i]);
    }
    CK_ISA(sums_of_16)((const int8_t *)to->number, sums, sum, 1);
    if (QM_VNNI) {
        CK_ISA(sums_of_16)((const int8_t *)to->number, NULL, size, 0);
    }
    for (int i = 0; QM_VNNI && i < 16; i += 2) {
        const int32_t most = type == CK_Q4_K ? size[i] + size[i + 1] : size[i] > size[i + 1] ? size[i] : size[i + 1];
        wide |= QM_LARGEST(type) * most > INT16_MAX;
    }
    for (int i = 0; i < 16 && QM_OFFSET(type); i++) {
        to->number[QM_START + i] = -QM_OFFSET(type) * sum[i];
    }
    for (int i = 0; i < (type == CK_Q6_K ? 8 : 4); i++) {
        const int32_t *of = type == CK_Q6_K ? sum + 2 * i : sum + 4 * i;
        const int32_t  a = type == CK_Q6_K ? of[0] : of[0] + of[1], b = type == CK_Q6_K ? of[1] : of[2] + of[3];
        to->number[QM_SUMS + i] = (int32_t)((uint32_t)b << 16 | (a & 0xffff));
    }
    memcpy(to->number + QM_D, &d, sizeof d);
    to->number[QM_WIDE] = wide;
}

CK_FN void CK_ISA(round_32)(int type, const float *x, int i, column *to) {
    float     d;
    const ckv factor = CK_ISA(block_scale)(&x, 32, &d);
    int8_t   *q = (int8_t *)(to->number + 8 * i);
    ck_ints   sum = {0};
    CK_ISA(round_16)(x, factor, q, &sum);
    CK_ISA(round_16)(x + 16, factor, q + 16, &sum);
    to->number[QM_START + i] = QM_OFFSET(type) ? -QM_OFFSET(type) * CK_ISA(sum_of)(sum) : 0;
    memcpy(to->number + QM_D + i, &d, sizeof d);
}

/* The columns of one token, `stride` columns apart. */
static void CK_ISA(round_row)(const product *p, const float *x, int64_t stride, column *to) {
    for (int64_t k = 0; k < p->K; k += QM_INPUTS, to += stride) {
        switch (p->type) {
        case CK_Q4_K: CK_ISA(round_k)(CK_Q4_K, x + k, to); break;
        case CK_Q5_K: CK_ISA(round_k)(CK_Q5_K, x + k, to); break;
        case CK_Q6_K: CK_ISA(round_k)(CK_Q6_K, x + k, to); break;
        default:
            for (int i = 0; i < 8 && k + 32 * i < p->K; i++) {
                CK_ISA(round_32)(p->type, x + k + 32 * i, i, to);
            }
            break;
        }
    }
}

/* n <= QM_TILE columns side by side: number k of token t at QM_TILE k + t. */
static void CK_ISA(interleave)(const column *const *from, int n, column *to) {
    float *at = (float *)to->number; /* moved, not read */
    for (int k = 0; k < QM_COLUMN; k += CK_LANES, at += QM_TILE * CK_LANES) {
        ckv row[QM_TILE];
#pragma GCC unroll 8
        for (int t = 0; t < QM_TILE; t++) {
            row[t] = ck_load((const float *)(from[t < n ? t : 0]->number + k));
        }
        CK_ISA(ck_interleave)(QM_TILE, row);
#pragma GCC unroll 8
        for (int t = 0; t < QM_TILE; t++) {
            ck_store(at + t * CK_LANES, row[t]);
        }
    }
}
