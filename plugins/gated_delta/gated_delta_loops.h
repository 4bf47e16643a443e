/* The loops of conifer.gated_delta/1, for one instruction set. Included by gated_delta.c through conifer_simd.h.
 *
 * Prefill works in chunks of Q tokens. With c[t] the product of the decays from the chunk's start to t, k[s|t] the key of s
 * decayed on to t, S the carry at the start (here [I][V]) and u[t] what token t writes, the recurrence unrolls to
 *
 *     u[t] = beta[t] (v[t] - (c[t] k[t]) S - sum over s < t of (k[t] . k[s|t]) u[s])
 *     o[t] = (c[t] q[t]) S + sum over s <= t of (q[t] . k[s|t]) u[s]
 *     S   <- c[Q] S + sum over s of k[s|Q]' u[s]
 *
 * (the WY form of Yang et al. 2024, arXiv:2412.06464, section 3.3, solved row by row). Decays are multiplied on and never
 * divided by, so a key that fades to 0 does no harm; one decay per head and one per key channel are the same code. */

/* to = from, or from / |from|, times scale; padded with zeros to s->deep. */
CK_FN void CK_ISA(copy_row)(const delta_call *s, const float *from, float scale, float *to) {
    ckv sum = ck_all(0.0f);
    for (int64_t i = 0; i < s->deep; i += CK_LANES) {
        const int64_t left = s->I - i;
        const ckv v = left >= CK_LANES ? ck_load(from + i) : left > 0 ? ck_load_part(from + i, left) : ck_all(0.0f);
        sum = ck_fma(v, v, sum);
        ck_store(to + i, v);
    }
    const ckv factor = ck_all(s->normalise ? scale / sqrtf(ck_sum(sum) + s->eps) : scale);
    for (int64_t i = 0; i < s->deep; i += CK_LANES) {
        ck_store(to + i, factor * ck_load(to + i));
    }
}

/* The decay of token t: s->deep values, all equal where the gate is one per head. */
CK_FN void CK_ISA(decays)(const delta_call *s, int64_t h, int64_t t, float *to) {
    const int64_t n = s->per_channel ? s->I : 1, stored = s->per_channel ? s->deep : 1;
    const float *gate = s->per_channel ? ck_at2(s->gate, t, h) : ck_at(s->gate, t) + h;
    const float *bias = s->dt_bias ? s->dt_bias + h * n : NULL;
    for (int64_t i = 0; i < stored; i += CK_LANES) {
        const int64_t left = n - i; /* below 1 in the padding */
        ckv g = left >= CK_LANES ? ck_load(gate + i) : ck_load_part(gate + i, left);
        if (s->a) {
            if (bias) {
                g += left >= CK_LANES ? ck_load(bias + i) : ck_load_part(bias + i, left);
            }
            g = ck_all(s->a[h]) * ck_softplus(g);
        }
        ck_store(to + i, ck_exp(g));
    }
    for (int64_t i = 0; stored == 1 && i < s->deep; i += CK_LANES) {
        ck_store(to + i, ck_all(to[0]));
    }
}

CK_FN float CK_ISA(strength)(const delta_call *s, int64_t h, int64_t t) {
    const float beta = ck_at(s->beta, t)[h];
    return s->sigmoid ? 1.0f / (1.0f + expf(-beta)) : beta;
}

/* Few tokens: each row of the carry, as it lies in the pool, is read twice and written once. */
static void CK_ISA(delta_few)(const delta_call *s, int64_t h, int64_t start, int64_t n, float *carry, const delta_room *r) {
    const int64_t I = s->I, kh = s->tiled ? h % s->J : h / (s->H / s->J);
    for (int64_t t = start; t < start + n; t++) {
        float *k = r->k, *q = r->q, *decay = r->decay, *dk = r->turned, *dq = r->turned + s->deep;
        CK_ISA(copy_row)(s, ck_at2(s->k, t, kh), 1.0f, k);
        CK_ISA(copy_row)(s, ck_at2(s->q, t, kh), s->scale, q);
        CK_ISA(decays)(s, h, t, decay);
        ckv both = ck_all(0.0f);
        for (int64_t i = 0; i < s->deep; i += CK_LANES) {
            ck_store(dk + i, ck_load(decay + i) * ck_load(k + i));
            ck_store(dq + i, ck_load(decay + i) * ck_load(q + i));
            both = ck_fma(ck_load(k + i), ck_load(q + i), both);
        }
        const float kq = ck_sum(both), beta = CK_ISA(strength)(s, h, t);
        const float *v = ck_at2(s->v, t, h);
        float *o = ck_at2(s->o, t, h);
        const int64_t whole = I - I % CK_LANES;
        for (int64_t j = 0; j < s->V; j++) {
            float *row = carry + j * I;
            ckv read = ck_all(0.0f), out = ck_all(0.0f);
            for (int64_t i = 0; i < whole; i += CK_LANES) {
                const ckv state = ck_load(row + i);
                read = ck_fma(state, ck_load(dk + i), read);
                out = ck_fma(state, ck_load(dq + i), out);
            }
            if (whole < I) {
                const ckv state = ck_load_part(row + whole, I - whole);
                read = ck_fma(state, ck_load(dk + whole), read);
                out = ck_fma(state, ck_load(dq + whole), out);
            }
            const float u = beta * (v[j] - ck_sum(read));
            o[j] = ck_sum(out) + u * kq;
            const ckv write = ck_all(u);
            for (int64_t i = 0; i < whole; i += CK_LANES) {
                ck_store(row + i, ck_fma(write, ck_load(k + i), ck_load(decay + i) * ck_load(row + i)));
            }
            if (whole < I) {
                const ckv state = ck_load(decay + whole) * ck_load_part(row + whole, I - whole);
                ck_store_part(row + whole, ck_fma(write, ck_load(k + whole), state), I - whole);
            }
        }
    }
}

CK_FN float CK_ISA(dot)(const float *a, const float *b, int64_t n) {
    ckv sum = ck_all(0.0f);
    for (int64_t i = 0; i < n; i += CK_LANES) {
        sum = ck_fma(ck_load(a + i), ck_load(b + i), sum);
    }
    return ck_sum(sum);
}

/* Keys and queries of a chunk: products among themselves, and decayed from the chunk's start and to its end. */
static void CK_ISA(chunk_keys)(const delta_call *s, int64_t h, int64_t start, int64_t n, const delta_room *r) {
    const int64_t deep = s->deep, kh = s->tiled ? h % s->J : h / (s->H / s->J);
    for (int64_t i = 0; i < deep; i += CK_LANES) {
        ck_store(r->faded + i, ck_all(1.0f));
    }
    for (int64_t t = 0; t < n; t++) {
        float *k = r->k + t * deep, *dk = r->turned + t * deep, *dq = r->turned + (n + t) * deep;
        CK_ISA(copy_row)(s, ck_at2(s->k, start + t, kh), 1.0f, k);
        CK_ISA(copy_row)(s, ck_at2(s->q, start + t, kh), s->scale, r->q);
        CK_ISA(decays)(s, h, start + t, r->decay);
        for (int64_t i = 0; i < deep; i += CK_LANES) {
            const ckv c = ck_load(r->faded + i) * ck_load(r->decay + i);
            ck_store(r->faded + i, c);
            ck_store(dk + i, c * ck_load(k + i));
            ck_store(dq + i, c * ck_load(r->q + i));
        }
        for (int64_t e = 0; e < t; e++) {
            float *earlier = r->k + e * deep; /* k[e|t-1] becomes k[e|t] */
            ckv with_k = ck_all(0.0f), with_q = ck_all(0.0f);
            for (int64_t i = 0; i < deep; i += CK_LANES) {
                const ckv v = ck_load(earlier + i) * ck_load(r->decay + i);
                ck_store(earlier + i, v);
                with_k = ck_fma(v, ck_load(k + i), with_k);
                with_q = ck_fma(v, ck_load(r->q + i), with_q);
            }
            r->read[t * CHUNK + e] = -ck_sum(with_k);
            r->mixed[t * CHUNK + e] = ck_sum(with_q);
        }
        r->mixed[t * CHUNK + t] = CK_ISA(dot)(k, r->q, deep);
    }
}

/* u[t] for all tokens of a chunk; r->out holds (c k) S in its first n rows. */
static void CK_ISA(chunk_writes)(const delta_call *s, int64_t h, int64_t start, int64_t n, const delta_room *r) {
    const int64_t wide = s->wide;
    for (int64_t t = 0; t < n; t++) {
        const float *v = ck_at2(s->v, start + t, h);
        const ckv beta = ck_all(CK_ISA(strength)(s, h, start + t));
        for (int64_t j = 0; j < wide; j += CK_LANES) {
            const int64_t left = s->V - j;
            const ckv value = left >= CK_LANES ? ck_load(v + j) : left > 0 ? ck_load_part(v + j, left) : ck_all(0.0f);
            ckv u = value - ck_load(r->out + t * wide + j);
            for (int64_t e = 0; e < t; e++) {
                u = ck_fma(ck_all(r->read[t * CHUNK + e]), ck_load(r->written + e * wide + j), u);
            }
            ck_store(r->written + t * wide + j, beta * u);
        }
    }
}

/* One chunk of one head; `carry` is [I][wide]. */
static void CK_ISA(delta_chunk)(const delta_call *s, int64_t h, int64_t start, int64_t n, float *carry, const delta_room *r) {
    const int64_t deep = s->deep, wide = s->wide;
    memset(r->mixed, 0, CHUNK * CHUNK * sizeof(float));
    CK_ISA(chunk_keys)(s, h, start, n, r);
    ck_product(2 * n, wide, s->I, r->turned, deep, 1, carry, wide, NULL, r->out, wide);
    CK_ISA(chunk_writes)(s, h, start, n, r);
    for (int64_t t = 0; t < n; t += 6) {
        const int64_t rows = n - t < 6 ? n - t : 6;
        ck_product(rows, wide, t + rows, r->mixed + t * CHUNK, CHUNK, 1, r->written, wide, r->ones, r->out + (n + t) * wide, wide);
    }
    ck_product(s->I, wide, n, r->k, 1, deep, r->written, wide, r->faded, carry, wide);
    for (int64_t t = 0; t < n; t++) {
        memcpy(ck_at2(s->o, start + t, h), r->out + (n + t) * wide, (size_t)s->V * sizeof(float));
    }
}

/* Heads first .. end of one sequence of n tokens. */
static void CK_ISA(delta_sequence)(const delta_call *s, int64_t head, int64_t end, int64_t start, int64_t n, float *pool,
                                   const delta_room *r) {
    for (int64_t h = head; h < end; h++) {
        float *carry = pool + h * s->V * s->I;
        if (n < FEW) {
            CK_ISA(delta_few)(s, h, start, n, carry, r);
            continue;
        }
        ck_transpose(carry, s->I, s->V, s->I, r->carry, s->wide);
        for (int64_t at = 0; at < n; at += CHUNK) {
            CK_ISA(delta_chunk)(s, h, start + at, n - at < CHUNK ? n - at : CHUNK, r->carry, r);
        }
        ck_transpose(r->carry, s->wide, s->I, s->V, carry, s->I);
    }
}
