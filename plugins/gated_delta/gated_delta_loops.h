/* The loops of conifer.gated_delta/1, for one instruction set. Included by gated_delta.c through conifer_simd.h.
 *
 * Rows of the carry (one a value channel) are independent. Each is advanced token by token as it lies in the pool, and sums its
 * I products in the same order however many tokens the call has, so a token's bits do not depend on that. With alpha the decay,
 * a token needs S k and S q of the carry S before it:
 *
 *     u = beta (v - (alpha S) k);  S <- alpha S + u k';  o = scale ((alpha S) q + (k . q) u)
 *
 * so the pass that writes S for one token also sums both products for the next: four operations an element, as many as the
 * recurrence has. A chunk of tokens is prepared once for all rows of a head; it only decides what is in the cache. */

/* to = from, or from / |from|, times scale; padded with zeros to s->deep. */
CK_FN void CK_ISA(copy_row)(const delta_call *s, const float *from, float scale, float *to) {
    ckv sum = ck_all(0.0f);
    for (int64_t i = 0; i < s->deep; i += CK_LANES) {
        const ckv v = s->I - i >= CK_LANES ? ck_load(from + i) : ck_load_part(from + i, s->I - i);
        sum = ck_fma(v, v, sum);
        ck_store(to + i, v);
    }
    const ckv factor = ck_all(s->normalise ? scale / sqrtf(ck_sum(sum) + s->eps) : scale);
    for (int64_t i = 0; i < s->deep; i += CK_LANES) {
        ck_store(to + i, factor * ck_load(to + i));
    }
}

/* Decays from n gates that lie one after another; A and the bias may be missing. */
CK_FN ckv CK_ISA(decay_of)(const delta_call *s, int64_t h, ckv gate, ckv bias) {
    return ck_exp(s->a ? ck_all(s->a[h]) * ck_softplus(gate + bias) : gate);
}

/* alpha (one a head) and beta of n tokens. */
static void CK_ISA(head_gates)(const delta_call *s, int64_t h, int64_t start, int64_t n, const delta_room *r) {
    for (int64_t t = 0; t < n; t += CK_LANES) {
        float gate[CK_LANES] = {0}, beta[CK_LANES] = {0};
        for (int64_t i = 0; i < CK_LANES && t + i < n; i++) {
            gate[i] = s->per_channel ? 0.0f : ck_at(s->gate, start + t + i)[h];
            beta[i] = ck_at(s->beta, start + t + i)[h];
        }
        const ckv b = ck_load(beta), bias = ck_all(s->dt_bias && !s->per_channel ? s->dt_bias[h] : 0.0f);
        ck_store(r->beta + t, s->sigmoid ? 1.0f / (ck_exp(-b) + 1.0f) : b);
        ck_store(r->alpha + t, s->per_channel ? ck_all(1.0f) : CK_ISA(decay_of)(s, h, ck_load(gate), bias));
    }
}

/* Keys and queries of n tokens and their products k . q; with a decay per channel also decay, decay k and decay q. */
static void CK_ISA(prepare)(const delta_call *s, int64_t h, int64_t start, int64_t n, const delta_room *r) {
    const int64_t deep = s->deep, kh = s->tiled ? h % s->J : h / (s->H / s->J);
    CK_ISA(head_gates)(s, h, start, n, r);
    for (int64_t t = 0; t < n; t++) {
        float *k = r->k + t * deep, *q = r->q + t * deep, *decay = r->decay + t * deep;
        CK_ISA(copy_row)(s, ck_at2(s->k, start + t, kh), 1.0f, k);
        CK_ISA(copy_row)(s, ck_at2(s->q, start + t, kh), s->scale, q);
        ckv both = ck_all(0.0f);
        for (int64_t i = 0; i < deep; i += CK_LANES) {
            both = ck_fma(ck_load(k + i), ck_load(q + i), both);
        }
        r->both[t] = ck_sum(both);
        const float *gate = s->per_channel ? ck_at2(s->gate, start + t, h) : NULL;
        for (int64_t i = 0; gate && i < deep; i += CK_LANES) {
            const int64_t left = s->I - i;
            const ckv bias = s->dt_bias ? ck_load_part(s->dt_bias + h * s->I + i, left) : ck_all(0.0f);
            const ckv d = CK_ISA(decay_of)(s, h, ck_load_part(gate + i, left), bias);
            ck_store(decay + i, d);
            ck_store(r->faded_k + t * deep + i, d * ck_load(k + i));
            ck_store(r->faded_q + t * deep + i, d * ck_load(q + i));
        }
    }
}

/* One pass over a few rows of the carry. `write`: S <- decay S + u k. `read`: then the products of S with the next token's
 * key and query, in one vector of partial sums a row each. */
CK_FN void CK_ISA(advance_rows)(int n_row, int channels, int write, int read, const delta_call *s, float alpha, const float *decay, const float *u,
                        const float *k, const float *next_k, const float *next_q, float *carry, ckv *with_k, ckv *with_q) {
    const int64_t I = s->I, whole = I - I % CK_LANES;
    ckv sum_k[ROWS], sum_q[ROWS], add[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < n_row; r++) {
        sum_k[r] = sum_q[r] = ck_all(0.0f);
        add[r] = write ? ck_all(u[r]) : ck_all(0.0f);
    }
    for (int64_t i = 0; i < whole; i += CK_LANES) {
        const ckv key = write ? ck_load(k + i) : ck_all(0.0f), fade = channels ? ck_load(decay + i) : ck_all(alpha);
        const ckv ahead = read ? ck_load(next_k + i) : key;
#pragma GCC unroll 8
        for (int r = 0; r < n_row; r++) {
            ckv state = ck_load(carry + r * I + i);
            if (write) {
                state = ck_fma(add[r], key, fade * state);
                ck_store(carry + r * I + i, state);
            }
            if (read) {
                sum_k[r] = ck_fma(state, ahead, sum_k[r]);
                sum_q[r] = ck_fma(state, ck_load(next_q + i), sum_q[r]);
            }
        }
    }
    if (whole < I) {
        const ckv key = write ? ck_load(k + whole) : ck_all(0.0f), fade = channels ? ck_load(decay + whole) : ck_all(alpha);
#pragma GCC unroll 8
        for (int r = 0; r < n_row; r++) {
            ckv state = ck_load_part(carry + r * I + whole, I - whole);
            if (write) {
                state = ck_fma(add[r], key, fade * state);
                ck_store_part(carry + r * I + whole, state, I - whole);
            }
            if (read) {
                sum_k[r] = ck_fma(state, ck_load(next_k + whole), sum_k[r]);
                sum_q[r] = ck_fma(state, ck_load(next_q + whole), sum_q[r]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; read && r < n_row; r++) {
        with_k[r] = sum_k[r], with_q[r] = sum_q[r];
    }
}

/* One row; for the few that are no whole block one function does for all kinds of passes. */
static __attribute__((noinline)) void CK_ISA(advance_row)(int channels, int write, int read, const delta_call *s, float alpha, const float *decay,
                                                          const float *u, const float *k, const float *next_k, const float *next_q,
                                                          float *carry, ckv *with_k, ckv *with_q) {
    CK_ISA(advance_rows)(1, channels, write, read, s, alpha, decay, u, k, next_k, next_q, carry, with_k, with_q);
}

/* A pass over a block of `live` <= CK_LANES rows: writes token t, unless it is -1, and reads for token t + 1, unless it is n;
 * then u and o of token t + 1. `once`: the call has one token. */
CK_FN void CK_ISA(step)(const delta_call *s, int channels, int write, int read, int once, int64_t t, int64_t live, const delta_room *r,
                        float *carry, const float *v, float *u, float *o) {
    enum { AT_ONCE = CK_LANES < ROWS || CK_REGISTERS < 32 ? ROWS / 2 : ROWS }; /* two sums a row stay in registers */
    const int64_t deep = s->deep, now = write ? t : 0, next = read ? t + 1 : 0;
    const float *decay = channels ? r->decay + now * deep : NULL, *k = r->k + now * deep;
    const float *next_k = (channels ? r->faded_k : r->k) + next * deep, *next_q = (channels ? r->faded_q : r->q) + next * deep;
    const float alpha = r->alpha[now];
    ckv with_k[CK_LANES], with_q[CK_LANES];
    if (live == CK_LANES) {
        for (int i = 0; i < CK_LANES; i += AT_ONCE) {
            if (once) { /* the carry is read once, and its rows lie too near each other for the processor to foresee it */
                ck_fetch(carry + i * s->I + AHEAD, AT_ONCE * s->I);
            }
            CK_ISA(advance_rows)(AT_ONCE, channels, write, read, s, alpha, decay, u + i, k, next_k, next_q, carry + i * s->I, with_k + i, with_q + i);
        }
    } else {
        for (int i = 0; i < CK_LANES; i++) {
            with_k[i] = with_q[i] = ck_all(0.0f);
        }
        for (int64_t i = 0; i < live; i++) {
            CK_ISA(advance_row)(channels, write, read, s, alpha, decay, u + i, k, next_k, next_q, carry + i * s->I, with_k + i, with_q + i);
        }
    }
    if (read) {
        const ckv value = live == CK_LANES ? ck_load(v) : ck_load_part(v, live), fade = ck_all(r->alpha[next]);
        const ckv error = ck_fma(-fade, ck_sums(with_k), value), add = ck_all(r->beta[next]) * error;
        const ckv out = ck_fma(ck_all(r->both[next]), add, fade * ck_sums(with_q));
        ck_store(u, add);
        if (live == CK_LANES) {
            ck_store(o, out);
        } else {
            ck_store_part(o, out, live);
        }
    }
}

/* n tokens for one block of rows. */
CK_FN void CK_ISA(delta_rows)(const delta_call *s, int channels, int64_t h, int64_t start, int64_t n, int64_t j, int64_t live,
                              const delta_room *r, float *carry) {
    float u[CK_LANES];
    for (int64_t t = start; t < start + n; t++) { /* rows lie whole pages apart: the processor does not foresee what comes next */
        ck_fetch(ck_at2(s->v, t, h) + j + CK_LANES, 1);
        ck_fetch(ck_at2(s->o, t, h) + j + CK_LANES, 1);
    }
    CK_ISA(step)(s, channels, 0, 1, n == 1, -1, live, r, carry, ck_at2(s->v, start, h) + j, u, ck_at2(s->o, start, h) + j);
    for (int64_t t = 0; t + 1 < n; t++) {
        const float *v = ck_at2(s->v, start + t + 1, h) + j;
        CK_ISA(step)(s, channels, 1, 1, 0, t, live, r, carry, v, u, ck_at2(s->o, start + t + 1, h) + j);
    }
    CK_ISA(step)(s, channels, 1, 0, 0, n - 1, live, r, carry, NULL, u, NULL);
}

/* All rows of one head. */
CK_FN void CK_ISA(delta_head)(const delta_call *s, int channels, int64_t h, int64_t start, int64_t n, const delta_room *r,
                              float *carry) {
    for (int64_t j = 0; j < s->V; j += CK_LANES) {
        const int64_t live = s->V - j < CK_LANES ? s->V - j : CK_LANES;
        CK_ISA(delta_rows)(s, channels, h, start, n, j, live, r, carry + j * s->I);
    }
}

/* Heads first .. end of one sequence of n tokens. */
static void CK_ISA(delta_sequence)(const delta_call *s, int64_t head, int64_t end, int64_t start, int64_t n, float *pool,
                                   const delta_room *r) {
    for (int64_t h = head; h < end; h++) {
        for (int64_t at = 0; at < n; at += s->chunk) {
            const int64_t rows = n - at < s->chunk ? n - at : s->chunk;
            CK_ISA(prepare)(s, h, start + at, rows, r);
            if (s->per_channel) {
                CK_ISA(delta_head)(s, 1, h, start + at, rows, r, pool + h * s->V * s->I);
            } else {
                CK_ISA(delta_head)(s, 0, h, start + at, rows, r, pool + h * s->V * s->I);
            }
        }
    }
}
