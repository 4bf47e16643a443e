/* The loops of conifer.causal_conv/1, for one instruction set. Included by causal_conv.c through conifer_simd.h. */

/* n_vector vectors of channels from `c` on, for one sequence. `last` < CK_LANES: only that many channels, of one vector. */
CK_FN void CK_ISA(conv_columns)(const conv_call *s, int64_t c, int n_vector, int64_t last, int64_t start, int64_t n,
                                float *carry) {
    const int64_t K = s->K;
    ckv bias[4];
#pragma GCC unroll 4
    for (int j = 0; j < n_vector; j++) {
        bias[j] = ck_load(s->weight + K * s->width + c + j * CK_LANES);
    }
    for (int64_t t = 0; t < n; t++) {
        ckv sum[4];
#pragma GCC unroll 4
        for (int j = 0; j < n_vector; j++) {
            sum[j] = bias[j];
        }
        for (int64_t k = 0; k < K; k++) {
            const int64_t from = t - K + 1 + k;
            const float *x = (from < 0 ? carry + (from + K - 1) * s->C : ck_at(s->x, start + from)) + c;
#pragma GCC unroll 4
            for (int j = 0; j < n_vector; j++) {
                const ckv v = last ? ck_load_part(x, last) : ck_load(x + j * CK_LANES);
                sum[j] = ck_fma(ck_load(s->weight + k * s->width + c + j * CK_LANES), v, sum[j]);
            }
        }
        float *y = ck_at(s->y, start + t) + c;
#pragma GCC unroll 4
        for (int j = 0; j < n_vector; j++) {
            const ckv v = s->silu ? ck_silu(sum[j]) : sum[j];
            if (last) {
                ck_store_part(y, v, last);
            } else {
                ck_store(y + j * CK_LANES, v);
            }
        }
    }
}

/* Channels first .. end of one sequence of n tokens. */
static void CK_ISA(conv_sequence)(const conv_call *s, int64_t first, int64_t end, int64_t start, int64_t n, float *carry) {
    int64_t c = first;
    for (; c + 4 * CK_LANES <= end; c += 4 * CK_LANES) {
        CK_ISA(conv_columns)(s, c, 4, 0, start, n, carry);
    }
    for (; c + CK_LANES <= end; c += CK_LANES) {
        CK_ISA(conv_columns)(s, c, 1, 0, start, n, carry);
    }
    if (c < end) {
        CK_ISA(conv_columns)(s, c, 1, end - c, start, n, carry);
    }
    for (int64_t k = 0; k < s->K - 1; k++) { /* the last K - 1 inputs; upwards, since row k comes from a later one */
        const int64_t from = n - s->K + 1 + k;
        const float *x = from < 0 ? carry + (from + s->K - 1) * s->C : ck_at(s->x, start + from);
        memmove(carry + k * s->C + first, x + first, (size_t)(end - first) * sizeof(float));
    }
}
