/* plain.c: the four recurrent operators as their equations say, one value after the other.
 *
 * For the golden tests: what they find is then a fault of an architecture or of the engine, not of a fast kernel. Calls
 * are trusted to keep their contract. */
#include "conifer_kernel.h"

#include <math.h>
#include <stdbool.h>

static float at(const ck_tensor *t, int64_t i, int64_t j, int64_t k) {
    const char *p = (const char *)t->data + i * t->stride_bytes[0];
    p += t->rank > 1 ? j * t->stride_bytes[1] : 0;
    p += t->rank > 2 ? k * t->stride_bytes[2] : 0;
    return *(const float *)p;
}

static float *out(const ck_tensor *t, int64_t i, int64_t j, int64_t k) {
    char *p = (char *)t->data + i * t->stride_bytes[0] + j * t->stride_bytes[1];
    return (float *)(p + (t->rank > 2 ? k * t->stride_bytes[2] : 0));
}

static float *slot_of(const ck_call *call, uint32_t sequence) {
    return (float *)((char *)call->state[0]->data + call->slot[sequence] * call->state[0]->stride_bytes[0]);
}

static float constant(const ck_tensor *t, int64_t i, float absent) {
    return t ? ((const float *)t->data)[i] : absent;
}

static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
static float silu(float x) { return x * sigmoid(x); }
static float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

/* The share [*first, *last) of n rows of work that belongs to this part. */
static void share(const ck_part *p, int64_t n, int64_t *first, int64_t *last) {
    *first = n * p->part / p->n_part;
    *last = n * (p->part + 1) / p->n_part;
}

/* Runs `one` for every sequence with tokens and every row of this part's share. */
typedef void (*row_fn)(const ck_call *call, float *carry, int64_t row, int32_t from, int32_t to);

static ck_status each(const ck_part *p, int64_t n, row_fn one) {
    int64_t first, last;
    share(p, n, &first, &last);
    for (uint32_t s = 0; s < p->call->n_seq; s++) {
        int32_t from = p->call->seq_start[s], to = p->call->seq_start[s + 1];
        for (int64_t row = first; row < last && from < to; row++) {
            one(p->call, slot_of(p->call, s), row, from, to);
        }
    }
    return CK_OK;
}

static void conv_channel(const ck_call *call, float *carry, int64_t c, int32_t from, int32_t to) {
    const ck_tensor *x = call->input[0], *w = call->input[1];
    const int64_t C = x->dim[1], K = w->dim[1];
    float window[16];
    for (int64_t j = 0; j < K - 1; j++) {
        window[j] = carry[j * C + c];
    }
    for (int32_t t = from; t < to; t++) {
        window[K - 1] = at(x, t, c, 0);
        float y = constant(call->input[2], c, 0.0f);
        for (int64_t j = 0; j < K; j++) {
            y += constant(w, c * K + j, 0.0f) * window[j];
        }
        *out(call->output[0], t, c, 0) = call->int_attr[0] ? silu(y) : y;
        for (int64_t j = 0; j < K - 1; j++) {
            window[j] = window[j + 1];
        }
    }
    for (int64_t j = 0; j < K - 1; j++) {
        carry[j * C + c] = window[j];
    }
}

static void selective_channel(const ck_call *call, float *carry, int64_t d, int32_t from, int32_t to) {
    const ck_tensor *x = call->input[0], *A = call->input[2], *z = call->input[7];
    const int64_t N = A->dim[1];
    float *h = carry + d * N;
    for (int32_t t = from; t < to; t++) {
        float delta = softplus(at(call->input[1], t, d, 0) + constant(call->input[5], d, 0.0f));
        float y = constant(call->input[6], d, 0.0f) * at(x, t, d, 0);
        for (int64_t n = 0; n < N; n++) {
            h[n] = expf(delta * constant(A, d * N + n, 0.0f)) * h[n] + delta * at(call->input[3], t, n, 0) * at(x, t, d, 0);
            y += at(call->input[4], t, n, 0) * h[n];
        }
        *out(call->output[0], t, d, 0) = z ? y * silu(at(z, t, d, 0)) : y;
    }
}

static void ssd_head(const ck_call *call, float *carry, int64_t h, int32_t from, int32_t to) {
    const ck_tensor *x = call->input[0], *B = call->input[3], *C = call->input[4], *z = call->input[7];
    const int64_t P = x->dim[2], N = B->dim[2], g = h / (x->dim[1] / B->dim[1]);
    for (int32_t t = from; t < to; t++) {
        float delta = softplus(at(call->input[1], t, h, 0) + constant(call->input[5], h, 0.0f));
        float decay = expf(delta * constant(call->input[2], h, 0.0f));
        for (int64_t p = 0; p < P; p++) {
            float *s = carry + (h * P + p) * N, y = constant(call->input[6], h, 0.0f) * at(x, t, h, p);
            for (int64_t n = 0; n < N; n++) {
                s[n] = decay * s[n] + delta * at(x, t, h, p) * at(B, t, g, n);
                y += at(C, t, g, n) * s[n];
            }
            *out(call->output[0], t, h, p) = z ? y * silu(at(z, t, h, p)) : y;
        }
    }
}

static float decay_of(const ck_call *call, int32_t t, int64_t h, int64_t i) {
    const ck_tensor *gate = call->input[3], *A = call->input[5];
    const bool per_channel = gate->rank == 3;
    float g = at(gate, t, h, i);
    if (A) {
        int64_t where = per_channel ? h * gate->dim[2] + i : h;
        g = constant(A, h, 0.0f) * softplus(g + constant(call->input[6], where, 0.0f));
    }
    return expf(g);
}

static float inverse_norm(const ck_call *call, const ck_tensor *x, int32_t t, int64_t head) {
    float sum = 0.0f;
    for (int64_t i = 0; i < x->dim[2]; i++) {
        sum += at(x, t, head, i) * at(x, t, head, i);
    }
    return call->int_attr[1] ? 1.0f / sqrtf(sum + (float)call->real_attr[1]) : 1.0f;
}

static void delta_head(const ck_call *call, float *carry, int64_t h, int32_t from, int32_t to) {
    const ck_tensor *q = call->input[0], *k = call->input[1], *v = call->input[2];
    const int64_t J = q->dim[1], I = q->dim[2], H = v->dim[1], V = v->dim[2];
    const int64_t key = call->int_attr[0] ? h % J : h / (H / J);
    for (int32_t t = from; t < to; t++) {
        float beta = at(call->input[4], t, h, 0), nq = inverse_norm(call, q, t, key), nk = inverse_norm(call, k, t, key);
        beta = call->int_attr[2] ? sigmoid(beta) : beta;
        for (int64_t j = 0; j < V; j++) {
            float *s = carry + (h * V + j) * I, rest = at(v, t, h, j), o = 0.0f;
            for (int64_t i = 0; i < I; i++) {
                s[i] *= decay_of(call, t, h, i);
                rest -= s[i] * at(k, t, key, i) * nk;
            }
            for (int64_t i = 0; i < I; i++) {
                s[i] += beta * rest * at(k, t, key, i) * nk;
                o += s[i] * at(q, t, key, i) * nq;
            }
            *out(call->output[0], t, h, j) = (float)call->real_attr[0] * o;
        }
    }
}

static ck_status run_conv(const void *self, const ck_part *p) {
    (void)self;
    return each(p, p->call->input[0]->dim[1], conv_channel);
}
static ck_status run_selective(const void *self, const ck_part *p) {
    (void)self;
    return each(p, p->call->input[0]->dim[1], selective_channel);
}
static ck_status run_ssd(const void *self, const ck_part *p) {
    (void)self;
#ifdef GIVE_UP_AT /* a step of so many tokens: for tests of what a failing kernel leaves behind */
    if (p->call->input[0]->dim[0] == GIVE_UP_AT) {
        return CK_INTERNAL;
    }
#endif
    return each(p, p->call->input[0]->dim[1], ssd_head);
}
static ck_status run_delta(const void *self, const ck_part *p) {
    (void)self;
    return each(p, p->call->input[2]->dim[1], delta_head);
}

static ck_status supports(const void *self, const ck_call *call, ck_error *err) {
    (void)self, (void)call, (void)err;
    return CK_OK;
}

static ck_status plan(const void *self, const ck_call *call, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self, (void)call, (void)max_part, (void)err;
    need->n_phase = 1;
    need->scratch_bytes = need->packed_bytes = 0;
    return CK_OK;
}

#define KERNEL(name, id, function)                                                                                     \
    static const ck_kernel name = {.struct_size = sizeof(ck_kernel), .op = id, .supports = supports, .plan = plan,     \
                                   .run = function}
KERNEL(causal_conv, "conifer.causal_conv/1", run_conv);
KERNEL(selective_scan, "conifer.selective_scan/1", run_selective);
KERNEL(ssd_scan, "conifer.ssd_scan/1", run_ssd);
KERNEL(gated_delta, "conifer.gated_delta/1", run_delta);

static const ck_kernel *const kernels[] = {&causal_conv, &selective_scan, &ssd_scan, &gated_delta};
static const ck_plugin plugin = {.struct_size = sizeof(ck_plugin), .abi_minor = CK_ABI_MINOR,
                                 .id = "org.example.plain", .version = "1.0.0", .n_kernel = 4, .kernel = kernels};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &plugin;
}
