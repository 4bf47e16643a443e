/* The loops of conifer.causal_conv/1, for one instruction set. Included by causal_conv.c through conifer_simd.h.
 *
 * A few tokens go over all channels together: rows are read in the order in which they lie, and an input that several of these
 * tokens see is read once. */

/* The input of token `from` of the sequence, channels c and on; before the first stands the carry. */
CK_FN const float *CK_ISA(row_of)(const conv_call *s, int64_t K, int64_t start, int64_t from, const float *carry) {
    return from < 0 ? carry + (from + K - 1) * s->C : ck_at(s->x, start + from);
}

/* One vector of channels from c on, of which `live` exist, for n_token tokens. x[i]: the row of the i-th input that they see. */
CK_FN void CK_ISA(conv_vector)(const conv_call *s, int n_token, int64_t K, int64_t c, int64_t live, const float *const *x,
                               float *const *y) {
    ckv sum[TOKENS];
#pragma GCC unroll 4
    for (int t = 0; t < n_token; t++) {
        sum[t] = ck_load(s->weight + K * s->width + c);
    }
#pragma GCC unroll 4
    for (int64_t k = 0; k < K; k++) {
        const ckv weight = ck_load(s->weight + k * s->width + c);
#pragma GCC unroll 4
        for (int t = 0; t < n_token; t++) {
            const float *from = x[k + t] + c;
            sum[t] = ck_fma(weight, live >= CK_LANES ? ck_load(from) : ck_load_part(from, live), sum[t]);
        }
    }
    if (s->silu) {
        ck_silus(n_token, sum);
    }
#pragma GCC unroll 4
    for (int t = 0; t < n_token; t++) {
        if (live >= CK_LANES) {
            ck_store(y[t] + c, sum[t]);
        } else {
            ck_store_part(y[t] + c, sum[t], live);
        }
    }
}

/* Channels first .. end of n_token tokens from `at` on. */
CK_FN void CK_ISA(conv_tokens)(const conv_call *s, int n_token, int64_t K, int64_t first, int64_t end, int64_t start, int64_t at,
                               const float *carry) {
    const float *x[MOST_TAPS + TOKENS - 1];
    float       *y[TOKENS];
    for (int64_t i = 0; i < K + n_token - 1; i++) {
        x[i] = CK_ISA(row_of)(s, K, start, at - K + 1 + i, carry);
    }
    for (int t = 0; t < n_token; t++) {
        y[t] = ck_at(s->y, start + at + t);
    }
    int64_t c = first;
    for (; c + CK_LANES <= end; c += CK_LANES) {
        CK_ISA(conv_vector)(s, n_token, K, c, CK_LANES, x, y);
    }
    if (c < end) {
        CK_ISA(conv_vector)(s, n_token, K, c, end - c, x, y);
    }
}

/* Channels first .. end of n tokens. */
CK_FN void CK_ISA(conv_all)(const conv_call *s, int64_t K, int64_t first, int64_t end, int64_t start, int64_t n, const float *carry) {
    int64_t at = 0;
    for (; at + TOKENS <= n; at += TOKENS) {
        CK_ISA(conv_tokens)(s, TOKENS, K, first, end, start, at, carry);
    }
    for (; at < n; at++) {
        CK_ISA(conv_tokens)(s, 1, K, first, end, start, at, carry);
    }
}

/* Channels first .. end of one sequence of n tokens. */
static void CK_ISA(conv_sequence)(const conv_call *s, int64_t first, int64_t end, int64_t start, int64_t n, float *carry) {
    if (s->K == 4) { /* of every published model: the taps are no loop then, and inputs stay in registers */
        CK_ISA(conv_all)(s, 4, first, end, start, n, carry);
    } else {
        CK_ISA(conv_all)(s, s->K, first, end, start, n, carry);
    }
    for (int64_t k = 0; k < s->K - 1; k++) { /* the last K - 1 inputs; upwards, since row k comes from a later one */
        const float *x = CK_ISA(row_of)(s, s->K, start, n - s->K + 1 + k, carry);
        memmove(carry + k * s->C + first, x + first, (size_t)(end - first) * sizeof(float));
    }
}
